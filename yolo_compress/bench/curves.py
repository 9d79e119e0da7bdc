# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Average precision and recall from matched detections, for any weights of the images.

An image that counts twice is an image that is there twice, so a resample of the images is a vector of whole numbers,
and nothing is matched or sorted again for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolo_compress.bench.matches import AREAS, STEPS, Matches

RECALLS = np.linspace(0, 1, 101)
EPSILON = np.spacing(1)  # pycocotools adds it to the number of detections


@dataclass(frozen=True)
class Curves:
    """The precision-recall curves of all classes and thresholds within one range of areas.

    Precision only rises where a detection is right, so curves are computed at those k places alone, in the order of
    threshold, class and falling score.

    Attributes:
        image: Image of every detection (n,) up to the last one of its class that is right.
        counted: Whether it is right or wrong, not ignored, as (thresholds, n); (1, n) if that is one for all.
        line: Row of `counted` (k,).
        place: Detection (k,).
        start: First detection of its class (k,).
        curve: threshold * classes + class (k,).
        number: Which of the curves that have a place (k,).
        first: The first place of each of those.
        objects: Number of objects, (classes, images).
    """

    image: np.ndarray
    counted: np.ndarray
    line: np.ndarray
    place: np.ndarray
    start: np.ndarray
    curve: np.ndarray
    number: np.ndarray
    first: np.ndarray
    objects: np.ndarray

    @classmethod
    def of(cls, matches: Matches, *, area: str = "all") -> Curves:
        """Return the curves of matched detections."""
        hit = matches.flags(matches.hit, area)
        counted = ~matches.flags(matches.ignored, area)
        objects = matches.objects[list(AREAS).index(area)]
        last = np.full(len(objects), -1)
        right = np.flatnonzero(hit.any(axis=0))
        last[matches.cls[right]] = right  # ascending, so the last one stays
        kept = (np.arange(len(matches.cls)) <= last[matches.cls]) & counted.any(axis=0)
        hit, counted, kinds = hit[:, kept], counted[:, kept], matches.cls[kept]
        if (counted == counted[:1]).all():
            counted = counted[:1]
        threshold, place = np.nonzero(hit)
        curve = threshold * len(objects) + kinds[place]
        begins = np.append(True, curve[1:] != curve[:-1])[: len(curve)]
        return cls(
            image=matches.image[kept],
            counted=counted,
            line=threshold if len(counted) > 1 else np.zeros_like(threshold),
            place=place,
            start=np.searchsorted(kinds, kinds[place]),
            curve=curve,
            number=np.cumsum(begins) - 1,
            first=np.flatnonzero(begins),
            objects=objects,
        )

    def average_precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return AP as (thresholds, classes), NaN for a class without an object.

        It is the mean of the precision at 101 recalls, where the precision at a recall is the highest at it or beyond.

        Args:
            weights: How often each image counts (images,), whole numbers; once each when not given.
        """
        weights = np.ones(self.objects.shape[1]) if weights is None else weights
        objects = self.objects @ weights
        parts = self._parts(weights, objects)
        found = np.bincount(self.curve, parts, STEPS * len(objects)).reshape(STEPS, len(objects)) / len(RECALLS)
        return np.where(objects > 0, found, np.nan)

    def mean(self, weights: np.ndarray) -> float:
        """Return the mean of `average_precision`; NaN without any object."""
        objects = self.objects @ weights
        present = np.count_nonzero(objects)
        return float(self._parts(weights, objects).sum()) / (len(RECALLS) * STEPS * present) if present else np.nan

    def _parts(self, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """Return what each place adds to the sum of its curve's precisions at the recalls (k,)."""
        of_detections = weights[self.image] * self.counted
        total = np.zeros((len(self.counted), len(self.image) + 1))
        np.cumsum(of_detections, axis=1, out=total[:, 1:])
        counted = total[self.line, self.place + 1] - total[self.line, self.start]
        step = weights[self.image[self.place]]
        right = np.cumsum(step, dtype=np.float64)
        right -= (right[self.first] - step[self.first])[self.number]
        precision = right / (counted + EPSILON)
        # the highest from here on; the number of the curve keeps the next curve out, as no precision is over 1
        highest = np.maximum.accumulate((precision - self.number)[::-1])[::-1] + self.number
        recall = right / np.maximum(objects, 1)[self.curve % len(objects)]
        readings = np.searchsorted(RECALLS, recall, side="right")
        before = np.append(0, readings[:-1])[: len(readings)]
        before[self.first] = 0
        return (readings - before) * highest


def recall(matches: Matches, *, area: str = "all", most: int = 100) -> np.ndarray:
    """Return the share of objects found with at most so many detections per image and class, (thresholds, classes)."""
    objects = matches.objects[list(AREAS).index(area)].sum(axis=1)
    hit = matches.flags(matches.hit, area) & (matches.rank < most)
    found = np.stack([np.bincount(matches.cls, row, len(objects)) for row in hit])
    return np.where(objects > 0, found / np.maximum(objects, 1), np.nan)
