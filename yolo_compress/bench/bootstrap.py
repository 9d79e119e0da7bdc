# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a sample of images can tell of the difference between two detectors.

The images are drawn again, with replacement and the same ones for both detectors, and mAP of both is computed anew
(Efron 1979, Bootstrap Methods; paired, since an image that is hard for one is hard for the other).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolo_compress.bench.curves import Curves
from yolo_compress.bench.matches import Matches

RESAMPLES = 1000
SEED = 0
TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Difference:
    """How far mAP50-95 of a candidate is from that of the reference, as shares in 0 to 1.

    Attributes:
        value: Candidate minus reference, on all images.
        interval: The 95 % interval over resamples of the images; None with a single image.
        below_zero: Share of the resamples in which the candidate is worse.
        against: The 95 % interval of this candidate minus each of the candidates, from the same resamples; empty with a
            single image.
    """

    value: float
    interval: tuple[float, float] | None
    below_zero: float | None
    against: tuple[tuple[float, float], ...] = ()


def paired_differences(
    candidates: Sequence[Matches], *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[Difference]:
    """Return the difference of each candidate to the first one, for all but the first.

    The interval holds the middle 95 % of the differences over resamples.

    Args:
        candidates: Matched detections on the same images, at least one of which has an object.
        resamples: How often the images are drawn.
        seed: Of the draw; the same seed gives the same interval.
    """
    if len(candidates) < 2:
        return []
    curves = [Curves.of(matches) for matches in candidates]
    once = np.ones(curves[0].objects.shape[1], np.int64)
    values = [one.mean(once) for one in curves]
    if len(once) < 2:
        return [Difference(value - values[0], None, None) for value in values[1:]]
    draws = resampled(curves[0].objects.sum(axis=0), resamples, seed)
    scores = [np.array([one.mean(weights) for weights in draws]) for one in curves]
    found = []
    for value, score in zip(values[1:], scores[1:], strict=True):
        apart = score - scores[0]
        against = tuple(_interval(score - other) for other in scores)
        found.append(Difference(value - values[0], against[0], float((apart < 0).mean()), against))
    return found


def resampled(objects: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return how often each image is drawn, (resamples, images); a draw without any object is made again.

    Args:
        objects: Number of objects in each image, of which some is not zero.
        resamples: How often as many images are drawn as there are.
        seed: Of the draw.
    """
    random = np.random.default_rng(seed)
    draws = np.empty((resamples, len(objects)), np.int64)
    for index in range(resamples):
        while True:
            draws[index] = np.bincount(random.integers(0, len(objects), len(objects)), minlength=len(objects))
            if draws[index] @ objects:
                break
    return draws


def _interval(apart: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(apart, TAILS)
    return float(low), float(high)
