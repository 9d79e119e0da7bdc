# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The file that says which images were chosen, from what and how, and the checks when it is read again."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import atomic_write, sha256_path
from yolo_compress.errors import DataError
from yolo_compress.host.data import DataSpec

SCHEMA_VERSION = 2
AGAIN = "choose again with: yolo-compress calib"


@dataclass(frozen=True)
class CalibrationSet:
    """Images in a fixed order, and where the choice came from.

    Attributes:
        images: Files.
        names: Their paths below the root of the data set, which are the same wherever it lies.
        hashes: The sha256 of each file's bytes; None in a set of names that holds for copies encoded otherwise.
        data: What identifies the data set: `identity` of it.
        how: Method, seed and all else that the choice depends on, as plain data.
        coverage: Figures by feature, as plain data; empty where nothing was measured.
        skipped: Names of training images that could not be read.
        notes: What a reader should know, such as a data set that has grown since.
    """

    images: tuple[Path, ...]
    names: tuple[str, ...]
    hashes: tuple[str | None, ...]
    data: Mapping[str, Any]
    how: Mapping[str, Any]
    coverage: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """One hash for the whole set, independent of where the images lie."""
        return _digest(digest or name for digest, name in zip(self.hashes, self.names, strict=True))


def chosen_set(
    data: DataSpec, images: Sequence[Path], how: Mapping[str, Any], *, hashes: bool = True
) -> CalibrationSet:
    """Return images of a data set as a calibration set, with the hashes of their bytes unless only names are wanted.

    Raises:
        DataError: An image is missing.
    """
    names = tuple(name_of(image, data) for image in images)
    return CalibrationSet(
        tuple(images), names, tuple(_hash(image) if hashes else None for image in images), identity(data), how
    )


def write_manifest(chosen: CalibrationSet, path: Path) -> None:
    """Write names, hashes, the data set and how they were chosen; no path of this machine is among them.

    Raises:
        OutputError: `path` cannot be written.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "data": dict(chosen.data),
        "how": dict(chosen.how),
        "coverage": dict(chosen.coverage),
        "skipped": list(chosen.skipped),
        "sha256": chosen.sha256,
        "images": [{"image": name, "sha256": digest} for name, digest in zip(chosen.names, chosen.hashes, strict=True)],
    }
    atomic_write(path, json.dumps(content, indent=1) + "\n")


def read_manifest(path: Path, data: DataSpec) -> CalibrationSet:
    """Read a manifest and find its images among the training images of a data set, each still what was chosen.

    Raises:
        DataError: It is no manifest, it is one of another data set, or an image is missing or has changed; the message
            names it.
    """
    path = Path(path)
    content = _content(path)
    try:
        names = tuple(str(entry["image"]) for entry in content["images"])
        hashes = tuple(None if entry["sha256"] is None else str(entry["sha256"]) for entry in content["images"])
        about, how = dict(content["data"]), dict(content["how"])
        coverage, skipped = dict(content["coverage"]), tuple(map(str, content["skipped"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{path}' is not a calibration manifest ({error!r}); {AGAIN}") from error
    if not names:
        raise DataError(f"calibration manifest '{path}' names no images; {AGAIN}")
    now = identity(data)
    if about.get("classes_sha256") != now["classes_sha256"]:
        raise _another(path, about, data, f"which has {about.get('classes')} classes of other names or order")
    train = _by_name(data)
    if not set(names) & set(train):
        raise _another(path, about, data, f"and none of its {len(names)} images, such as '{names[0]}', is there")
    for name in names:
        if name not in train or not train[name].is_file():
            raise DataError(
                f"calibration image '{name}' of '{path}' is missing from the training images of '{data.path}'; put it "
                f"back, or {AGAIN}"
            )
    changed = [name for name, digest in zip(names, hashes, strict=True) if digest and digest != _hash(train[name])]
    if len(changed) == len(names):
        raise _another(path, about, data, f"whose images have the same names and other bytes, such as '{names[0]}'")
    if changed:
        raise DataError(
            f"calibration image '{changed[0]}' is not the one that '{path}' chose; put that one back, or {AGAIN}"
        )
    images = tuple(train[name] for name in names)
    return CalibrationSet(images, names, hashes, about, how, coverage, skipped, _notes(path, about, now, hashes))


def identity(data: DataSpec) -> dict[str, Any]:
    """Return what identifies a data set wherever it lies: its YAML's name, its classes and its training images."""
    return {
        "yaml": data.path.name,
        "classes": len(data.names),
        "classes_sha256": _digest(data.names),
        "train_images": len(data.train),
        "train_sha256": _digest(sorted(name_of(image, data) for image in data.train)),
    }


def name_of(image: Path, data: DataSpec) -> str:
    """Return the path of an image below the root of its data set, with forward slashes."""
    return Path(os.path.relpath(image, data.root)).as_posix()


def _by_name(data: DataSpec) -> dict[str, Path]:
    """Return training images by their names; one without a folder is that of the only file that is called so."""
    files = Counter(image.name for image in data.train)
    bare = {image.name: image for image in data.train if files[image.name] == 1}
    return {**bare, **{name_of(image, data): image for image in data.train}}


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"calibration manifest '{path}' does not exist; make one with: yolo-compress calib")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' is not a calibration manifest ({error}); {AGAIN}") from error
    if not isinstance(content, dict) or "images" not in content or "schema_version" not in content:
        raise DataError(f"'{path}' is not a calibration manifest (it names no images); {AGAIN}")
    if content["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"'{path}' has schema_version {content['schema_version']} and this yolo_compress reads {SCHEMA_VERSION}; "
            f"{AGAIN}"
        )
    return content


def _another(path: Path, about: Mapping[str, Any], data: DataSpec, why: str) -> DataError:
    return DataError(
        f"'{path}' is a manifest of another data set ('{about.get('yaml')}' with {about.get('train_images')} training "
        f"images, {why}) and cannot calibrate on '{data.path}'; give the data that it was chosen from, or {AGAIN} "
        f"data={data.path.name}"
    )


def _notes(
    path: Path, about: Mapping[str, Any], now: Mapping[str, Any], hashes: Sequence[str | None]
) -> tuple[str, ...]:
    notes = []
    if about.get("train_sha256") != now["train_sha256"]:
        notes.append(
            f"'{path.name}' was chosen from {about.get('train_images')} training images and there are "
            f"{now['train_images']} now: its coverage figures are of then"
        )
    if None in hashes:
        notes.append(f"'{path.name}' holds names without hashes: that the images are those chosen was not checked")
    return tuple(notes)


def _hash(image: Path) -> str:
    if not image.is_file():
        raise DataError(f"calibration image '{image}' is missing; put it back, or {AGAIN}")
    return sha256_path(image)


def _digest(parts: Any) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
