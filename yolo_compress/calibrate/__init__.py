# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which images activation ranges are chosen on, written down so that the choice can be repeated and checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from yolo_compress.artifacts import atomic_write, sha256_path
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host.data import DataSpec, sample

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CalibrationSet:
    """Images in a fixed order, with the sha256 of each file's bytes."""

    images: tuple[Path, ...]
    hashes: tuple[str, ...]
    seed: int

    @property
    def sha256(self) -> str:
        """One hash for the whole set, independent of where the images lie."""
        return hashlib.sha256("\n".join(self.hashes).encode()).hexdigest()


def choose(data: DataSpec, n: int, *, seed: int = 0) -> CalibrationSet:
    """Draw up to `n` training images without replacement; validation images only ever measure.

    Raises:
        UsageError: `n` is below 1.
        DataError: An image cannot be read.
    """
    if n < 1:
        raise UsageError(f"images={n} is no calibration set; give at least 1, better 256")
    images = sample(data.train, n, seed=seed)
    return CalibrationSet(images, tuple(_hash(image) for image in images), seed)


def write_manifest(chosen: CalibrationSet, path: Path) -> None:
    """Write names, hashes and how they were chosen; names are relative to the manifest where that is possible."""
    folder = path.parent.resolve()
    entries = [
        {"image": _relative(image, folder), "sha256": digest}
        for image, digest in zip(chosen.images, chosen.hashes, strict=True)
    ]
    content = {
        "schema_version": SCHEMA_VERSION,
        "method": "random",
        "seed": chosen.seed,
        "sha256": chosen.sha256,
        "images": entries,
    }
    atomic_write(path, json.dumps(content, indent=1) + "\n")


def read_manifest(path: Path) -> CalibrationSet:
    """Read a manifest and check that every image is still the one that was chosen.

    Raises:
        DataError: The manifest is damaged, or an image is missing or has changed; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = [(path.parent / entry["image"], str(entry["sha256"])) for entry in content["images"]]
        seed = int(content["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{path}' is not a calibration manifest ({error}); choose the images again") from error
    for image, digest in entries:
        if _hash(image) != digest:
            raise DataError(
                f"image '{image}' is not the one that '{path}' chose; put it back, or choose the images again"
            )
    return CalibrationSet(tuple(image for image, _ in entries), tuple(digest for _, digest in entries), seed)


def _hash(image: Path) -> str:
    if not image.is_file():
        raise DataError(f"calibration image '{image}' is missing; put it back, or choose the images again")
    return sha256_path(image)


def _relative(image: Path, folder: Path) -> str:
    place = image.resolve()
    return str(place.relative_to(folder)) if place.is_relative_to(folder) else str(place)
