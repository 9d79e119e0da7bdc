# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which detections are right by COCO's protocol, found once for everything that is computed from it.

Matching is what takes time. Precision, recall, intervals over resampled images and kinds of errors all read the flags
that are kept here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from yolo_compress.bench.accuracy import Detections, Truth

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MAX_PER_CLASS = 100  # detections of one class in one image, the best ones
STEPS = len(IOU_THRESHOLDS)
ALL_BITS = (1 << STEPS * len(AREAS)) - 1
NO_OBJECT = -1


@dataclass(frozen=True)
class Matches:
    """The detections that count (n,), by class and then by falling score.

    Bit `area * 10 + threshold` of the flags is about that range of areas in `AREAS` and that of `IOU_THRESHOLDS`.

    Attributes:
        image: Number of the image.
        cls: Class.
        score: Score, float64.
        rank: Place by falling score among the detections of its class in its image, from 0.
        row: Row among all detections, those of one image after those of the other.
        hit: Flags of being right, uint64.
        ignored: Flags of being neither right nor wrong, uint64: its object, or a detection without one, is of another
            size.
        partner: Object that it is right about at an IoU of 0.5, as a row among the objects of all images; -1 for none.
        objects: Number of objects, (areas, classes, images).
    """

    image: np.ndarray
    cls: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    row: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    partner: np.ndarray
    objects: np.ndarray

    def flags(self, bits: np.ndarray, area: str, thresholds: int = STEPS) -> np.ndarray:
        """Return `hit` or `ignored` of a range of areas at the first IoU thresholds as (thresholds, n) booleans."""
        first = STEPS * list(AREAS).index(area)
        places = np.arange(first, first + thresholds, dtype=np.uint64)
        return (bits >> places[:, None] & np.uint64(1)).astype(bool)


def match_coco(truth: Truth, detections: Detections, *, classes: int) -> Matches:
    """Match detections to objects as COCO's evaluation does, for every range of areas and IoU threshold.

    By falling score, a detection takes the object of its class that it overlaps most among those not yet taken, by at
    least the threshold. Objects outside of a range of areas are only taken where none within is left, and make the
    detection ignored, as does an area of its own outside where it takes none.
    """
    names = ("image", "rank", "row", "hit", "ignored", "partner", "area")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    values = []
    row = first_object = 0
    for index, (objects, found) in enumerate(zip(truth.images, detections.images, strict=True)):
        rows = found.astype(np.float64)
        order = np.lexsort((-rows[:, 4], rows[:, 5]))
        order = order[rows[order, 5] < classes]
        rank = _ranks(rows[order, 5])
        order, rank = order[rank < MAX_PER_CLASS], rank[rank < MAX_PER_CLASS]
        rows = rows[order]
        hit, ignored, partner = _match(rows, objects)
        values.append(rows[:, 4:6])
        columns["image"].append(np.full(len(order), index))
        columns["rank"].append(rank)
        columns["row"].append(order + row)
        columns["hit"].append(hit)
        columns["ignored"].append(ignored)
        columns["partner"].append(np.where(partner == NO_OBJECT, NO_OBJECT, partner + first_object))
        columns["area"].append((rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1]))
        row += len(found)
        first_object += len(objects)
    score, cls = np.concatenate(values).T
    order = np.lexsort((-score, cls))  # stable: equal scores stay in the order of images
    kept = {name: np.concatenate(parts)[order] for name, parts in columns.items()}
    kept["ignored"] |= (np.uint64(ALL_BITS) ^ _within(kept.pop("area"))) & ~kept["hit"]
    return Matches(cls=cls[order].astype(np.intp), score=score[order], objects=_count(truth, classes), **kept)


def overlaps(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (n, 4), as x1, y1, x2, y2, and objects (m, 5), as (n, m).

    Computed as pycocotools does, from corner, width and height, so that no threshold falls on another side.
    """
    x, y, width, height = (column[:, None] for column in (*boxes[:, :2].T, *(boxes[:, 2:4] - boxes[:, :2]).T))
    left, top, across, down = objects[:, 1:].T
    inner_width = np.minimum(x + width, left + across) - np.maximum(x, left)
    inner_height = np.minimum(y + height, top + down) - np.maximum(y, top)
    inside = np.where((inner_width > 0) & (inner_height > 0), inner_width * inner_height, 0)
    union = width * height + across * down - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=inside > 0)


def _match(rows: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hits, ignored ones and partners of one image's detections, those of a class by falling score.

    Those that are ignored for an area of their own are not among the ignored ones yet.
    """
    hit, ignored = np.zeros((2, len(rows)), np.uint64)
    partner = np.full(len(rows), NO_OBJECT)
    if len(rows) and len(objects):
        overlap = np.where(rows[:, 5:6] == objects[:, 0], overlaps(rows, objects), 0)
        detection, thing = np.nonzero(overlap >= IOU_THRESHOLDS[0])
        share = overlap[detection, thing]
        order = np.lexsort((-thing, -share, detection))  # of equal overlaps, pycocotools takes the last
        reach = np.searchsorted(np.minimum(IOU_THRESHOLDS, 1 - 1e-10), share[order], side="right")
        pairs = list(zip(detection[order].tolist(), thing[order].tolist(), reach.tolist(), strict=True))
        inside = [int(bits) for bits in _within(objects[:, 3] * objects[:, 4])]
        _assign(pairs, inside, hit, ignored, partner)
    return hit, ignored, partner


def _assign(
    pairs: list[tuple[int, int, int]], inside: list[int], hit: np.ndarray, ignored: np.ndarray, partner: np.ndarray
) -> None:
    """Fill flags and partners from (detection, object, thresholds reached), by detection and then by falling overlap.

    All thresholds and ranges of areas go at once, as bits of a whole number.
    """
    taken = [0] * len(inside)
    start = 0
    while start < len(pairs):
        detection = pairs[start][0]
        end = start
        while end < len(pairs) and pairs[end][0] == detection:
            end += 1
        free = ALL_BITS  # where this detection has taken nothing yet
        for counting in (True, False):
            before = free
            for _, thing, reached in pairs[start:end]:
                allowed = inside[thing] if counting else ~inside[thing]
                gained = REACHED[reached] & allowed & free & ~taken[thing]
                taken[thing] |= gained
                free ^= gained
                if gained & 1:  # the first threshold, over all areas
                    partner[detection] = thing
            (hit if counting else ignored)[detection] = before ^ free
        start = end


def _within(areas: np.ndarray) -> np.ndarray:
    """Return for each area the bits of the ranges that it lies in."""
    bits = np.zeros(len(areas), np.uint64)
    for index, (low, high) in enumerate(AREAS.values()):
        bits |= np.where((areas >= low) & (areas <= high), np.uint64(((1 << STEPS) - 1) << index * STEPS), np.uint64(0))
    return bits


def _ranks(cls: np.ndarray) -> np.ndarray:
    """Return the place of each of the sorted values among its equals."""
    places = np.arange(len(cls))
    begins = np.append(True, cls[1:] != cls[:-1])[: len(cls)]
    return places - np.maximum.accumulate(np.where(begins, places, 0))


def _count(truth: Truth, classes: int) -> np.ndarray:
    images = len(truth.images)
    objects = np.concatenate(truth.images)
    image = np.repeat(np.arange(images), [len(rows) for rows in truth.images])
    place = objects[:, 0].astype(np.intp) * images + image
    within = _within(objects[:, 3] * objects[:, 4])
    flags = (within >> np.uint64(area * STEPS) & np.uint64(1) == 1 for area in range(len(AREAS)))
    return np.stack([np.bincount(place[flag], minlength=classes * images) for flag in flags]).reshape(
        len(AREAS), classes, images
    )


# by the number of thresholds that an overlap reaches, their bits in every range of areas
REACHED = tuple(sum(((1 << count) - 1) << area * STEPS for area in range(len(AREAS))) for count in range(STEPS + 1))
