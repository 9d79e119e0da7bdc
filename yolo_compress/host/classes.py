# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Some of the classes of a detector, and of a data set, as a detector and a data set of their own.

A class costs a detector one row in the last layer of each class tower, so leaving classes out saves next to nothing by
itself. What it changes is what pruning is held to: a channel that only told a cat from a dog is worth nothing to a
detector of persons, and scores and repair that look at the detections see that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from yolo_compress.artifacts import atomic_path
from yolo_compress.errors import DataError, UnsupportedModel, UsageError, suggest
from yolo_compress.host.checkpoint import facts, names, plain_args, set_facts
from yolo_compress.host.data import DataSpec
from yolo_compress.host.detect import class_outputs
from yolo_compress.host.ultralytics import YAML, Detect, DetectionModel, img2label_paths

FACT = "classes"


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


def class_numbers(known: Sequence[str], keep: Sequence[str | int], *, of: str) -> tuple[int, ...]:
    """Return the numbers of the classes to keep, in the order in which they are named.

    Args:
        known: Names of all classes, in class order.
        keep: Names, of which case and surrounding blanks do not count unless only they differ, or numbers.
        of: Whose classes they are, for messages.

    Raises:
        UsageError: Nothing is kept, something is named twice, or a class is not known.
    """
    if not keep:
        raise UsageError("no class is kept; name some, such as keep=person,car")
    exact = {name: number for number, name in enumerate(known)}
    loose = {_plain(name): number for name, number in exact.items()}
    found = []
    for item in keep:
        number = exact.get(str(item), loose.get(_plain(item)))
        if number is None and str(item).strip().isdecimal():
            number = int(item)
            if number >= len(known):
                raise UsageError(f"{of} has no class {number}; its {len(known)} classes end at {len(known) - 1}")
        if number is None:
            raise UsageError(f"{of} has no class '{item}'; {suggest(str(item), known)}")
        found.append(number)
    twice = next((number for number in found if found.count(number) > 1), None)
    if twice is not None:
        raise UsageError(f"class '{known[twice]}' is named twice in keep; name it once")
    return tuple(found)


def keep_classes(model: DetectionModel, kept: Sequence[int]) -> DetectionModel:
    """Return a copy of a detector that answers for some of its classes, with just the scores that it gave them.

    Args:
        model: Unfused; left as it is.
        kept: Numbers of the classes, which are numbered anew in this order.

    Raises:
        UnsupportedModel: The head is none of those whose class outputs are known.
        UsageError: The model was trained quantized, and its scales are those of all classes.
    """
    if type(model.model[-1]) is not Detect:
        raise UnsupportedModel(
            f"a head of type {type(model.model[-1]).__name__} has class outputs that are not known here; give a "
            "detector of the families YOLOv8, YOLO11 or YOLO26"
        )
    told = facts(model)
    if "qat" in told:
        raise UsageError(
            "the model was trained quantized and carries scales of its class outputs; leave classes out of the float "
            "checkpoint, then train quantized"
        )
    result, before = deepcopy(model), names(model)
    index = torch.tensor(list(kept))
    for name, old in class_outputs(result).items():
        new = nn.Conv2d(old.in_channels, len(kept), old.kernel_size, bias=old.bias is not None)
        new = new.to(old.weight.device, old.weight.dtype).train(old.training)
        with torch.no_grad():
            new.weight.copy_(old.weight[index])
            if old.bias is not None:
                new.bias.copy_(old.bias[index])
        for ours, theirs in zip(new.parameters(), old.parameters(), strict=True):
            ours.requires_grad_(theirs.requires_grad)
        tower, _, place = name.rpartition(".")
        result.get_submodule(tower)[int(place)] = new
    head = result.model[-1]
    head.nc, head.no = len(kept), len(kept) + 4 * head.reg_max
    result.nc = len(kept)
    result.names = {number: before[old] for number, old in enumerate(kept)}
    result.yaml = {**result.yaml, "nc": len(kept)}
    for layer in result.model:
        if hasattr(layer, "np"):  # the parameter count that Ultralytics prints per layer
            layer.np = sum(p.numel() for p in layer.parameters())
    result.args = {**plain_args(result), "data": None}  # stock validation would take data with all classes
    set_facts(result, {**told, FACT: {"before": len(before), "kept": [before[old] for old in kept]}})
    return result


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


def _plain(name: str | int) -> str:
    return str(name).strip().lower()


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
