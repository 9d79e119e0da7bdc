# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How far the detections of two computations lie apart."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quant_agreement import differences
from yolo_compress.bench.accuracy import Detections

FOUND = [[0, 0, 10, 10, 0.9, 1], [20, 20, 40, 40, 0.5, 2], [50, 50, 60, 60, 0.1, 0]]  # the last is too faint to count


def detections(*images) -> Detections:
    return Detections([np.array(rows, np.float32).reshape(-1, 6) for rows in images])


def test_the_same_detections_are_no_distance_apart():
    found = differences(detections(FOUND, []), detections(FOUND, []))
    assert found == {
        "unpaired": 0,
        "pairs": 2,
        "score_median": 0,
        "score_p95": 0,
        "side_px_median": 0,
        "side_px_p95": 0,
    }


def test_a_pair_is_of_one_class_and_takes_the_nearest():
    near, far = [0, 0, 10, 11, 0.8, 1], [0, 0, 10, 14, 0.85, 1]
    found = differences(detections([FOUND[0]]), detections([far, near]))
    assert found["pairs"] == 1
    assert found["unpaired"] == pytest.approx(1 / 3)
    assert (found["score_median"], found["side_px_median"]) == (pytest.approx(0.1), 1)


def test_what_has_another_class_or_hardly_overlaps_has_no_partner():
    other, aside = [0, 0, 10, 10, 0.9, 3], [28, 28, 48, 48, 0.5, 2]
    found = differences(detections(FOUND, [FOUND[0]]), detections([other, aside], [FOUND[0]]))
    assert (found["pairs"], found["unpaired"]) == (1, pytest.approx(4 / 6))
