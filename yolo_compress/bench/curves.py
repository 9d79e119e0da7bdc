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
    threshold, class and falling score. How many detections there are up to a place is summed from edge to edge: the
    beginnings of classes, and what lies behind places.

    Attributes:
        image: Image of every detection (n,) up to the last one of its class that is right.
        counted: Whether it is right or wrong, not ignored, as (thresholds, n); (1, n) if that is one for all.
        edges: Detections, counted through the rows of `counted`, in rising order; none lies behind the last one.
        since: The edge (k,) at which the class of a place begins.
        upto: The edge (k,) behind the place; `len(edges)` where that is behind the last detection.
        cls: Class of the place (k,).
        seen: Its image (k,).
        curve: threshold * classes + class (k,).
        number: Which of the curves that have a place, as float64 (k,).
        first: The first place of each of those.
        length: The number of places of each of those.
        thresholds: Number of IoU thresholds.
        objects: Number of objects, (classes, images).
    """

    image: np.ndarray
    counted: np.ndarray
    edges: np.ndarray
    since: np.ndarray
    upto: np.ndarray
    cls: np.ndarray
    seen: np.ndarray
    curve: np.ndarray
    number: np.ndarray
    first: np.ndarray
    length: np.ndarray
    thresholds: int
    objects: np.ndarray

    @classmethod
    def of(cls, matches: Matches, *, area: str = "all", thresholds: int = STEPS) -> Curves:
        """Return the curves of matched detections within a range of areas, for the first IoU thresholds."""
        hit = matches.flags(matches.hit, area, thresholds)
        counted = ~matches.flags(matches.ignored, area, thresholds)
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
        image = matches.image[kept]
        number, first = np.cumsum(begins) - 1, np.flatnonzero(begins)
        row = threshold * len(image) if len(counted) > 1 else 0
        ends = [np.searchsorted(kinds, kinds[place]) + row, place + row + 1]
        edges, index = np.unique(np.concatenate(ends), return_inverse=True)
        since, upto = index.reshape(2, -1)
        return cls(
            image=image,
            counted=counted,
            edges=edges[edges < counted.size],
            since=since,
            upto=upto,
            cls=kinds[place],
            seen=image[place],
            curve=curve,
            number=number.astype(np.float64),
            first=first,
            length=np.diff(np.append(first, len(curve))),
            thresholds=thresholds,
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
        shape = (self.thresholds, len(objects))
        found = np.bincount(self.curve, parts, shape[0] * shape[1]).reshape(shape) / len(RECALLS)
        return np.where(objects > 0, found, np.nan)

    def mean(self, weights: np.ndarray) -> float:
        """Return the mean of `average_precision`; NaN without any object."""
        objects = self.objects @ weights
        present = np.count_nonzero(objects)
        if not present:
            return float("nan")
        return float(self._parts(weights, objects).sum() / (len(RECALLS) * self.thresholds * present))

    def _parts(self, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """Return what each place adds to the sum of its curve's precisions at the recalls (k,)."""
        weights = weights.astype(np.float64)
        of_detections = weights[self.image]
        values = (of_detections * self.counted).ravel() if len(self.counted) > 1 else of_detections
        total = np.zeros(len(self.edges) + 1)
        if len(self.edges):
            np.cumsum(np.add.reduceat(values, self.edges), out=total[1:])
        counted = total[self.upto] - total[self.since]
        step = weights[self.seen]
        right = np.cumsum(step)
        right -= np.repeat(right[self.first] - step[self.first], self.length)
        precision = right / (counted + EPSILON)
        # the highest from here on; the number of the curve keeps the next curve out, as no precision is over 1
        highest = np.maximum.accumulate((precision - self.number)[::-1])[::-1] + self.number
        recall = right / np.maximum(objects, 1)[self.cls]
        readings = _recalls_up_to(recall)
        before = np.append(0, readings[:-1])[: len(readings)]
        before[self.first] = 0
        return (readings - before) * highest


def _recalls_up_to(recall: np.ndarray) -> np.ndarray:
    """Return how many of `RECALLS` are at most each value in 0 to 1, as a search would and several times as fast."""
    steps = len(RECALLS) - 1
    guess = (recall * steps).astype(np.int64)  # off by one where a product is rounded
    guess += RECALLS[np.minimum(guess + 1, steps)] <= recall
    guess -= RECALLS[np.minimum(guess, steps)] > recall
    return np.minimum(guess, steps) + 1


def recall(matches: Matches, *, area: str = "all", most: int = 100) -> np.ndarray:
    """Return the share of objects found with at most so many detections per image and class, (thresholds, classes)."""
    objects = matches.objects[list(AREAS).index(area)].sum(axis=1)
    hit = matches.flags(matches.hit, area) & (matches.rank < most)
    found = np.stack([np.bincount(matches.cls, row, len(objects)) for row in hit])
    return np.where(objects > 0, found / np.maximum(objects, 1), np.nan)
