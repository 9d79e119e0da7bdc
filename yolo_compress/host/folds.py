# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A data set cut into folds, each of which measures once while the others train."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yolo_compress.artifacts import atomic_path
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host.data import DataSpec, labels_for
from yolo_compress.host.ultralytics import YAML


def stratified(classes: Sequence[Sequence[int]], folds: int, *, seed: int = 0) -> np.ndarray:
    """Cut images into folds of nearly equal size in which each class is about as frequent as it is in all.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, On the Stratification of Multi-Label Data): the
    class that the fewest images left show is dealt out first, each of its images to the fold that wants most of it,
    of those that want as many to the one that wants most images, of those to one drawn at random.

    Args:
        classes: Of the objects of each image; how many there are of one does not count.
        folds: How many.
        seed: Of the draws.

    Returns:
        The number of each image's fold, from 0.
    """
    random = np.random.default_rng(seed)
    width = 1 + max((max(shown) for shown in classes if len(shown)), default=-1)
    shows = np.zeros((len(classes), width), bool)
    for image, shown in enumerate(classes):
        shows[image, list(shown)] = True
    wanted, room = np.tile(shows.sum(0) / folds, (folds, 1)), np.full(folds, len(classes) / folds)
    found = np.full(len(classes), -1)

    def deal(image: int, want: np.ndarray) -> None:
        first = np.flatnonzero(np.isclose(want, want.max()))
        first = first[np.isclose(room[first], room[first].max())]
        fold = random.choice(first)
        found[image] = fold
        wanted[fold] -= shows[image]
        room[fold] -= 1

    left = shows.sum(0)
    while left.any():
        rarest = int(np.where(left > 0, left, np.inf).argmin())
        for image in np.flatnonzero(shows[:, rarest] & (found < 0)):
            deal(image, wanted[:, rarest])
        left = shows[found < 0].sum(0)
    for image in np.flatnonzero(found < 0):
        deal(image, room)
    return found


def write_folds(data: DataSpec, folds: int, folder: Path) -> list[Path]:
    """Write one data YAML for each fold: its images are `val`, those of all others are `train`.

    Training and validation images are put together first; one that is both counts once.

    Args:
        data: The data set; its files are left as they are.
        folds: How many.
        folder: Gets a folder for each fold, named by its number from 1, with the YAML and two lists of images.

    Raises:
        UsageError: There are fewer images than folds, or fewer than two folds.
        DataError: A label file is damaged or names a class that there is not, or a fold would have no object.
        OutputError: A folder cannot be written.
    """
    folder = folder.resolve()
    # by what links lead to, so that one image counts once; labels lie beside the links
    images = list({image.resolve(): Path(os.path.abspath(image)) for image in (*data.train, *data.val)}.values())
    if not 2 <= folds <= len(images):
        raise UsageError(
            f"folds={folds} cannot be made of the {len(images)} images of '{data.path}'; give 2 to {len(images)}, such "
            f"as folds={min(5, len(images))}"
        )
    labels = labels_for(images)
    for image, rows in zip(images, labels, strict=True):
        if not ((rows[:, 0] >= 0) & (rows[:, 0] < len(data.names))).all():
            raise DataError(
                f"a label of '{image}' has another class than the {len(data.names)} that '{data.path}' names; correct "
                "the label or 'names'"
            )
    classes = [sorted({int(number) for number in rows[:, 0]}) for rows in labels]
    number_of = stratified(classes, folds)
    labelled = sum(map(bool, classes))
    empty = [fold for fold in range(folds) if not any(classes[image] for image in np.flatnonzero(number_of == fold))]
    if empty:
        raise DataError(
            f"{len(empty)} of {folds} folds would have no object to measure on, since {labelled} of the {len(images)} "
            f"images of '{data.path}' have one; give fewer folds, or label more images"
        )
    found = []
    for fold in range(folds):
        place = folder / str(fold + 1)
        with atomic_path(place) as temporary:
            temporary.mkdir()
            for split, inside in (("train", number_of != fold), ("val", number_of == fold)):
                lines = [f"{image}\n" for image, is_in in zip(images, inside, strict=True) if is_in]
                (temporary / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
            lists = {split: str(place / f"{split}.txt") for split in ("train", "val")}
            root = str(data.root.resolve())  # names in calibration manifests are relative to it
            YAML.save(temporary / "data.yaml", {"path": root, **lists, "names": dict(enumerate(data.names))})
        found.append(place / "data.yaml")
    return found
