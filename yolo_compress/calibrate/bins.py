# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Features of images as bins: which of them an image falls into, where cuts follow the images of the data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

CUTS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)  # deciles, and the last hundredths on their own
DECILES = np.arange(1, 10) / 10
LEVEL_SIDES = (32.0, 96.0)  # pixels: where COCO parts small, medium and large objects
COUNTS = (1, 2, 3, 5, 9, 17)  # objects from which on an image is in the next bin


@dataclass(frozen=True)
class Feature:
    """A feature whose bins all hold an image of the data set.

    Attributes:
        name: What weights and tables know it by.
        members: (N, bins): an image in k bins has 1 / k in each of them, so that all images with any count the same.
    """

    name: str
    members: csr_matrix

    @property
    def bins(self) -> int:
        """Return how many bins there are."""
        return self.members.shape[1]


def value_bins(name: str, values: np.ndarray) -> Feature:
    """Cut each column at quantiles of its own values; an image is in one bin of each.

    Args:
        name: Of the feature.
        values: (N,) or (N, columns).
    """
    columns = values.reshape(len(values), -1)
    width = len(CUTS) + 1
    places = [i * width + _cut(column, CUTS) for i, column in enumerate(columns.T)]
    return _feature(name, list(np.stack(places, axis=1)), columns.shape[1] * width)


def class_bins(objects: Sequence[np.ndarray], classes: int) -> Feature:
    """Return which classes images show.

    Args:
        objects: Per image (n, 5): class and centre box, as `labels_for` returns them.
        classes: How many there are.
    """
    return _feature("classes", [rows[:, 0].astype(int) for rows in objects], classes)


def count_bins(objects: Sequence[np.ndarray]) -> Feature:
    """Return how many objects images hold: none, 1, 2, 3 to 4, 5 to 8, 9 to 16, or more."""
    places = [np.searchsorted(COUNTS, [len(rows)], side="right") for rows in objects]
    return _feature("objects", places, len(COUNTS) + 1)


def area_bins(objects: Sequence[np.ndarray], aspects: np.ndarray, imgsz: int) -> Feature:
    """Return the areas that objects have, in deciles of the objects on the same detection level.

    The level goes by the side of the square of the same area at `LEVEL_SIDES`: strides 8, 16 and 32 meet objects of
    about these sizes (YOLOv5's anchors at 640 pixels end at 33 and 119 pixels for the first two).

    Args:
        objects: Per image (n, 5), boxes as shares of the image.
        aspects: (N,) shorter side of each image over its longer one.
        imgsz: Side of the letterboxed square in pixels.
    """
    sides = [
        imgsz * np.sqrt(np.maximum(rows[:, 3] * rows[:, 4] * a, 0))
        for rows, a in zip(objects, aspects.tolist(), strict=True)
    ]
    everything = np.concatenate(sides) if sides else np.empty(0)
    levels = np.searchsorted(LEVEL_SIDES, everything, side="right")
    width = len(DECILES) + 1
    places = np.zeros(len(everything), int)
    for level in range(len(LEVEL_SIDES) + 1):
        inside = everything[levels == level]
        if inside.size:
            places[levels == level] = level * width + _cut(inside, DECILES)
    ends = np.cumsum([len(rows) for rows in objects])[:-1]
    return _feature("areas", np.split(places, ends), (len(LEVEL_SIDES) + 1) * width)


def _cut(values: np.ndarray, shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return between which quantiles of all each value lies; where many are equal, bins between stay empty."""
    return np.searchsorted(np.quantile(values, shares, method="inverted_cdf"), values, side="left")


def _feature(name: str, places: Sequence[np.ndarray], bins: int) -> Feature:
    unique = [np.unique(found) for found in places]
    starts = np.concatenate([[0], np.cumsum([len(found) for found in unique])]).astype(int)
    columns = np.concatenate(unique).astype(int) if unique else np.empty(0, int)
    shares = np.concatenate([np.full(len(found), 1 / max(len(found), 1)) for found in unique]) if unique else columns
    members = csr_matrix((shares, columns, starts), shape=(len(unique), bins))
    filled = np.flatnonzero(np.bincount(columns, minlength=bins))
    return Feature(name, members[:, filled].tocsr())
