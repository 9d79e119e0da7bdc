# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What scores mean, against plain loops over every score limit and every bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_compress.bench.accuracy import DEPLOYED_CONF, Detections, Truth
from yolo_compress.bench.confidence import BINS, confidence


def scene(seed, images=4, classes=3, noise=2.0, decimals=2):
    """Return objects, and detections near them and elsewhere, with scores that repeat."""
    rng = np.random.default_rng(seed)
    truth, found = Truth(), Detections()
    for _ in range(images):
        objects = np.column_stack(
            [rng.integers(0, classes, 5), rng.uniform(0, 80, (5, 2)), rng.uniform(10, 30, (5, 2))]
        ).astype(np.float64)
        boxes = np.column_stack([objects[:, 1:3], objects[:, 1:3] + objects[:, 3:]]) + rng.normal(0, noise, (5, 4))
        stray = rng.uniform(0, 50, (6, 2))
        boxes = np.concatenate([boxes, np.column_stack([stray, stray + 12])])
        scores = np.round(np.concatenate([rng.beta(4, 2, 5), rng.beta(1, 4, 6)]), decimals)
        kinds = np.concatenate([objects[:, 0], rng.integers(0, classes, 6)])
        truth.images.append(objects)
        truth.shapes.append((100, 100))
        found.images.append(np.column_stack([boxes, scores, kinds]).astype(np.float32))
    return truth, found


def matched(truth, found):
    """Return (score, correct) of every detection: by falling score, each takes the best free object of its class."""
    pairs = []
    for objects, boxes in zip(truth.images, found.images, strict=True):
        free = [True] * len(objects)
        for box in sorted(boxes.tolist(), key=lambda box: -box[4]):
            best, which = 0.0, None
            for index, (kind, x, y, w, h) in enumerate(objects.tolist()):
                if not free[index] or kind != box[5]:
                    continue
                inside = max(0, min(x + w, box[2]) - max(x, box[0])) * max(0, min(y + h, box[3]) - max(y, box[1]))
                overlap = inside / (w * h + (box[2] - box[0]) * (box[3] - box[1]) - inside)
                if overlap > best:
                    best, which = overlap, index
            if best >= 0.5:
                free[which] = False
            pairs.append((box[4], best >= 0.5))
    return pairs


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_against_every_limit_and_every_bin(seed):
    truth, found = scene(seed)
    pairs, told = matched(truth, found), confidence(truth, found)
    by_limit = {}
    for limit in {score for score, _ in pairs}:
        taken = [correct for score, correct in pairs if score >= limit]
        by_limit[limit] = 2 * sum(taken) / (len(taken) + truth.count)
    assert told.f1 == pytest.approx(max(by_limit.values()))
    assert by_limit[told.f1_threshold] == pytest.approx(told.f1)
    shown = [pair for pair in pairs if pair[0] >= DEPLOYED_CONF]
    expected = 0.0
    for index in range(BINS):
        inside = [p for p in shown if int(np.float64(p[0]) * BINS) == index or (index == BINS - 1 and p[0] == 1)]
        if inside:
            precision, score = np.mean([c for _, c in inside]), np.mean([s for s, _ in inside])
            expected += len(inside) / len(shown) * abs(precision - score)
    assert told.calibration_error == pytest.approx(expected, abs=1e-6)


def test_scores_that_shrink_move_the_limit_and_leave_the_order():
    truth, found = scene(1, images=40)
    low = Detections([np.column_stack([r[:, :4], r[:, 4] / 2, r[:, 5]]).astype(np.float32) for r in found.images])
    before, after = confidence(truth, found), confidence(truth, low)
    assert after.f1 == pytest.approx(before.f1)
    assert after.f1_threshold == pytest.approx(before.f1_threshold / 2)
    assert after.calibration_error > before.calibration_error


def test_a_detector_that_finds_nothing_has_no_calibration_error():
    truth, _ = scene(2, images=1)
    told = confidence(truth, Detections([np.zeros((0, 6), np.float32)]))
    assert (told.f1, told.f1_threshold, told.calibration_error) == (0.0, 0.0, None)
