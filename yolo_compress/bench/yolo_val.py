# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The mean average precision that `yolo val` prints, from the detections that the COCO numbers come from.

Both match alike and read the same precision-recall curves at 101 recalls. COCO takes the mean of the readings. The
validator of `yolo val` joins curve points by straight lines and integrates the readings by the trapezium rule, which
weighs the first and the last by half. With p(0) and p(1) the precision at the ends, COCO's value is higher by about
((p(0) + p(1)) / 2 - AP) / 101, which is up to half a point and most where AP is low.
"""

from __future__ import annotations

import numpy as np

from yolo_compress.bench.accuracy import Detections, Truth
from yolo_compress.bench.curves import RECALLS
from yolo_compress.bench.matches import IOU_THRESHOLDS
from yolo_compress.host.detect import overlaps


def yolo_val_map50_95(truth: Truth, detections: Detections, correct: np.ndarray | None = None) -> float:
    """Return the mean AP over IoU 0.50 to 0.95 and over the classes that have an object, 0 to 1.

    Args:
        truth: The objects.
        detections: What was found.
        correct: What `match_all` says of them; asked for when not given.
    """
    correct = match_all(truth, detections) if correct is None else correct
    found = np.concatenate(detections.images)
    by_score = np.argsort(-found[:, 4], kind="stable")
    classes, correct = found[by_score, 5], correct[by_score]
    objects = np.concatenate([rows[:, 0] for rows in truth.images])
    values = [_average_precision(correct[classes == cls], int((objects == cls).sum())) for cls in np.unique(objects)]
    return float(np.mean(values))


def match_all(truth: Truth, detections: Detections) -> np.ndarray:
    """Return which detections of all images, one image after the other, are correct at each threshold, as (n, 10)."""
    pairs = zip(truth.images, detections.images, strict=True)
    return np.concatenate([match(objects, found) for objects, found in pairs])


def match(objects: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return which detections (n,) are correct at each threshold, as (n, 10).

    By falling score, each detection takes the object of its class that it overlaps most among those not yet taken.
    """
    correct = np.zeros((len(found), len(IOU_THRESHOLDS)), bool)
    if not len(found) or not len(objects):
        return correct
    corners = np.concatenate([objects[:, 1:3], objects[:, 1:3] + objects[:, 3:]], axis=1)
    overlap = overlaps(corners, found[:, :4]) * (objects[:, :1] == found[:, 5])
    thing, detection = np.nonzero(overlap >= IOU_THRESHOLDS[0])
    share = overlap[thing, detection]
    place = np.empty(len(found), np.intp)
    place[np.argsort(-found[:, 4], kind="stable")] = np.arange(len(found))
    order = np.lexsort((thing, -share, place[detection]))
    reached = np.searchsorted(IOU_THRESHOLDS, share[order], side="right")
    taken, bits = [0] * len(objects), [0] * len(found)  # one bit per threshold, all of which go at once
    for one, by, count in zip(thing[order].tolist(), detection[order].tolist(), reached.tolist(), strict=True):
        gained = ((1 << count) - 1) & ~bits[by] & ~taken[one]
        taken[one] |= gained
        bits[by] |= gained
    return (np.array(bits)[:, None] >> np.arange(len(IOU_THRESHOLDS)) & 1).astype(bool)


def _average_precision(correct: np.ndarray, objects: int) -> float:
    """Return the AP of one class from its detections by falling score (n, 10), as the mean over thresholds."""
    if not len(correct):
        return 0.0
    hits = correct.cumsum(axis=0)
    recall = hits / objects
    precision = hits / np.arange(1, len(correct) + 1)[:, None]
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    values = []
    for x, y in zip(recall.T, precision.T, strict=True):
        readings = np.interp(RECALLS, np.concatenate([[0], x, [x[-1], 1]]), np.concatenate([[1], y, [0, 0]]))
        values.append(float(((readings[1:] + readings[:-1]) / 2).sum() / 100))
    return float(np.mean(values))
