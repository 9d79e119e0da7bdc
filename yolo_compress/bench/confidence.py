# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a detector's scores mean: the threshold to use them with, and how far they are from being right that often.

Mean average precision only looks at the order of scores. A quantized detector can keep it and still say 0.45 where the
float one said 0.85, so that a threshold that was tuned on the float one drops its detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolo_compress.bench.accuracy import DEPLOYED_CONF, Detections, Truth
from yolo_compress.bench.yolo_val import match_all

BINS = 10


@dataclass(frozen=True)
class Confidence:
    """How scores relate to being right, at an IoU of 0.5.

    Attributes:
        f1: The highest F1 over all score limits, all classes together.
        f1_threshold: The score limit that it is reached at: the lowest score that is still taken.
        calibration_error: Mean distance of score and precision over detections that are shown, None without any.
    """

    f1: float
    f1_threshold: float
    calibration_error: float | None


def confidence(truth: Truth, detections: Detections, correct: np.ndarray | None = None) -> Confidence:
    """Measure what scores mean.

    `F1 = 2 TP / (detections + objects)`. The expected calibration error is `sum_b n_b / n |precision_b - score_b|` over
    ten bins of equal width (Guo et al. 2017, On Calibration of Modern Neural Networks; for detectors Kueppers et al.
    2020, Multivariate Confidence Calibration for Object Detection).

    Args:
        truth: The objects.
        detections: What was found.
        correct: What `yolo_val.match_all` says of them; asked for when not given.
    """
    correct = (match_all(truth, detections) if correct is None else correct)[:, 0]
    scores = np.concatenate(detections.images)[:, 4].astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    correct, scores = correct[order], scores[order]
    f1 = 2 * correct.cumsum() / (np.arange(1, len(scores) + 1) + truth.count)
    # of detections with one score, a limit takes all or none
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, int)
    best = ends[f1[ends].argmax()] if len(ends) else None
    return Confidence(
        0.0 if best is None else float(f1[best]),
        0.0 if best is None else float(scores[best]),
        _calibration_error(scores[scores >= DEPLOYED_CONF], correct[scores >= DEPLOYED_CONF]),
    )


def _calibration_error(scores: np.ndarray, correct: np.ndarray) -> float | None:
    if not len(scores):
        return None
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, correct, BINS) - np.bincount(bins, scores, BINS)
    return float(np.abs(gap).sum() / len(scores))
