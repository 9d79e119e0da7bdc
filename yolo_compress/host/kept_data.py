# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A data set of some of the classes of another: its labels, links to its images, and a YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo_compress.artifacts import atomic_path
from yolo_compress.errors import DataError
from yolo_compress.host.data import DataSpec
from yolo_compress.host.ultralytics import YAML, img2label_paths


@dataclass(frozen=True)
class KeptData:
    """A data set of some classes.

    Attributes:
        path: Its YAML.
        objects: Labels that are left, on all images.
        objects_before: Labels that the same images had.
        images: Images, of which some may have no object any more.
        images_with_objects: Those that have one.
    """

    path: Path
    objects: int
    objects_before: int
    images: int
    images_with_objects: int


def write_kept_data(data: DataSpec, kept: Sequence[int], folder: Path) -> KeptData:
    """Write a data set of some classes: their labels, links to the images, and a YAML.

    Images without an object of these classes stay: they show what is none. A folder that is there is replaced when
    the new one is complete.

    Args:
        data: All classes; its files are left as they are.
        kept: Numbers of the classes, which are numbered anew in this order.
        folder: Where everything goes.

    Raises:
        DataError: A label file is damaged, two images would get one name, or no object is left on the training or on
            the validation images.
        OutputError: The folder cannot be written.
    """
    numbers = {old: new for new, old in enumerate(kept)}
    places = _places((*data.train, *data.val))
    rows: dict[Path, list[str]] = {}
    before = 0
    for image in places:
        rows[image], count = _kept_rows(_label(image), numbers)
        before += count
    for split in ("train", "val"):
        if not any(rows[image] for image in getattr(data, split)):
            wanted = ", ".join(data.names[number] for number in kept)
            raise DataError(f"no {split} image of '{data.path}' has an object of {wanted}; keep other classes")
    with atomic_path(folder) as temporary:
        for image, place in places.items():
            label = _label(temporary / place)
            for file in (label, temporary / place):
                file.parent.mkdir(parents=True, exist_ok=True)
            _link(image.resolve(), temporary / place)
            label.write_text("".join(f"{row}\n" for row in rows[image]), encoding="utf-8")
        for split in ("train", "val"):
            listed = "".join(f"./{places[image].as_posix()}\n" for image in getattr(data, split))
            (temporary / f"{split}.txt").write_text(listed, encoding="utf-8")
        named = {new: data.names[old] for old, new in numbers.items()}
        YAML.save(temporary / "data.yaml", {"train": "train.txt", "val": "val.txt", "names": named})
    return KeptData(
        path=folder / "data.yaml",
        objects=sum(map(len, rows.values())),
        objects_before=before,
        images=len(rows),
        images_with_objects=sum(map(bool, rows.values())),
    )


def _label(image: Path) -> Path:
    return Path(img2label_paths([str(image)])[0])


def _places(images: Sequence[Path]) -> dict[Path, Path]:
    """Return where each image goes: as it lay, and below a folder that Ultralytics finds labels beside.

    Raises:
        DataError: Two of them, or their labels, would get one name, or they have no folder in common.
    """
    found = {image: Path(os.path.abspath(image)) for image in images}  # a data YAML may say ../other/images
    try:
        base = Path(os.path.commonpath([image.parent for image in found.values()]))
    except ValueError as error:
        raise DataError(f"the images have no folder in common ({error}); put them on one drive") from error
    places: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}  # images by the label file that goes with them
    for image, absolute in found.items():
        relative = absolute.relative_to(base)
        place = relative if "images" in relative.parts[:-1] else Path("images") / relative
        other = taken.setdefault(_label(place), absolute)
        if other != absolute:
            raise DataError(f"'{other}' and '{absolute}' would share one label file; rename one of them")
        places[image] = place
    return places


def _kept_rows(file: Path, numbers: Mapping[int, int]) -> tuple[list[str], int]:
    """Return the rows of a label file that stay, numbered anew, and how many rows there are."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
        rows = [line.split(maxsplit=1) for line in lines if line.strip()]
        pairs = [(_whole(number), rest) for number, rest in rows]
    except ValueError as error:
        raise DataError(f"labels '{file}' are not rows of 'class x y width height'; correct that file") from error
    return [f"{numbers[number]} {rest}" for number, rest in pairs if number in numbers], len(rows)


def _whole(text: str) -> int:
    """Read a class, which some tools write as 3.0.

    Raises:
        ValueError: It is no whole number.
    """
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"'{text}' is no class")
    return int(number)


def _link(image: Path, place: Path) -> None:
    """Link to an image; by a hard link where the system lets nobody make a symbolic one."""
    try:
        place.symlink_to(image)
    except OSError:
        os.link(image, place)
