# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Leave classes out of a checkpoint and of a data set, so that everything after them knows only the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo_compress.artifacts import Checkpoint
from yolo_compress.building import PROJECT
from yolo_compress.errors import UsageError
from yolo_compress.host.checkpoint import load_model, names, save_model
from yolo_compress.host.classes import class_numbers, keep_classes
from yolo_compress.host.data import read_data
from yolo_compress.host.kept_data import KeptData, write_kept_data


@dataclass(frozen=True)
class KeptClasses:
    """What was written: a checkpoint, a data set, or both; and the classes that they know."""

    names: tuple[str, ...]
    checkpoint: Checkpoint | None
    data: KeptData | None

    def __str__(self) -> str:
        """Return the classes, and each file with what it holds."""
        lines = [f"classes: {', '.join(self.names)}"]
        if self.checkpoint is not None:
            lines.append(f"wrote {self.checkpoint.path}: {self.checkpoint.params:,} parameters")
        if self.data is not None:
            told = self.data
            lines.append(
                f"wrote {told.path}: {told.objects:,} of {told.objects_before:,} objects, on "
                f"{told.images_with_objects:,} of {told.images:,} images"
            )
        return "\n".join(lines)


def classes(
    model: str | Path | None = None,
    *,
    keep: Sequence[str | int] | str | int,
    data: str | Path | None = None,
    project: str | Path = PROJECT,
    name: str | None = None,
) -> KeptClasses:
    """Leave classes out of a checkpoint, of a data set, or of both; nothing is trained.

    Args:
        model: Trained checkpoint; the one written gives the classes kept just the scores that it gave them.
        keep: Names or numbers of classes, which are numbered anew in this order.
        data: Data YAML; the one written holds the labels of these classes, and links to all images.
        project: Folder that holds results.
        name: Folder name of this one; the model's or the data's name with `_classes` when not given.

    Raises:
        UsageError: Neither model nor data is given, one of them does not have a class, or the model was trained
            quantized.
        DataError: Weights or data are missing or damaged, or no object of these classes is left.
        UnsupportedModel: The class outputs of the model are not known.
    """
    if model is None and data is None:
        raise UsageError("there is nothing to leave classes out of; give model=best.pt, data=FILE.yaml, or both")
    wanted = [keep] if isinstance(keep, int) else keep.split(",") if isinstance(keep, str) else list(keep)
    source = None if model is None else load_model(model)
    spec = None if data is None else read_data(data)
    narrow = None
    if source is not None:
        kept = class_numbers(names(source), wanted, of=f"'{model}'")
        narrow = keep_classes(source, kept)
        wanted = list(names(narrow))  # numbers are the model's, and the data may count otherwise
    folder = Path(project) / (name or f"{Path(str(data if model is None else model)).stem}_classes")
    file, place = folder / Path(str(model)).name, folder / "data"
    if spec is not None:
        kept = class_numbers(spec.names, wanted, of=f"data '{data}'")
        wanted = [spec.names[number] for number in kept]
    for source_file in (model, spec and spec.path):
        if source_file is not None and _inside(Path(source_file), (file, place)):
            raise UsageError(f"the result would replace '{source_file}', which it is made from; give another name=")
    written = None if spec is None else write_kept_data(spec, kept, place)
    if narrow is not None and written is not None:
        narrow.args = {**narrow.args, "data": str(written.path.resolve())}
    made = None if narrow is None else save_model(narrow, file)
    return KeptClasses(tuple(map(str, wanted)), made, written)


def _inside(path: Path, places: Sequence[Path]) -> bool:
    """Tell whether a path is one of the places, or lies below one."""
    return any(path.resolve().is_relative_to(place.resolve()) for place in places)
