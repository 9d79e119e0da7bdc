# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Figures over folds, by hand, and how often their interval holds the truth."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from yolo_compress.bench.folds import fold_figures

T4 = 2.7764451051977987  # of Student's distribution with 4 degrees of freedom, 97.5 %


def bench(*rows):
    names = ("label", "map50_95", "latency_ratio_p50", "status")
    return {"rows": [dict(zip(names, (*row, "ok")[:4], strict=True)) for row in rows]}


def test_means_deviations_and_the_interval_by_hand():
    first, second = (0.40, 0.42, 0.38, 0.44, 0.36), (0.39, 0.40, 0.37, 0.43, 0.36)
    benches = [bench(("a", x, 1.0), ("b", y, 0.5 + x)) for x, y in zip(first, second, strict=True)]
    a, b = fold_figures(benches, 5)
    assert (a.label, a.folds, a.map50_95_difference, a.map50_95_difference_interval) == ("a", 5, None, None)
    assert a.map50_95 == pytest.approx(0.40)
    assert a.map50_95_deviation == pytest.approx(statistics.stdev(first))
    assert b.map50_95_difference == pytest.approx(-0.01)
    reach = T4 * statistics.stdev([y - x for x, y in zip(first, second, strict=True)]) * math.sqrt(1 / 5 + 1 / 4)
    assert b.map50_95_difference_interval == pytest.approx((-0.01 - reach, -0.01 + reach))
    assert b.latency_ratio_p50 == pytest.approx(0.9)
    assert b.map50_95_by_fold == second


def test_refused_and_missing_candidates_count_where_they_were_measured():
    benches = [
        bench(("a", 0.4, 1.0), ("b", 0.3, 0.5)),
        bench(("a", 0.5, 1.0), ("b", 0.0, None, "refused")),
        bench(("a", 0.3, None, "refused"), ("b", 0.2, 0.7), ("c", 0.1, None)),
    ]
    a, b, c = fold_figures(benches, 4)
    assert (a.folds, b.folds, c.folds) == (2, 2, 1)
    assert b.map50_95_by_fold == (0.3, None, 0.2)
    assert b.map50_95_difference == pytest.approx(-0.1)  # of the one fold in which both were measured
    assert b.map50_95_difference_interval is None
    assert (c.map50_95_deviation, c.latency_ratio_p50, c.map50_95_difference) == (None, None, None)
    assert fold_figures([], 4) == []


def test_the_interval_holds_the_truth_of_folds_that_are_alike_by_as_much_as_assumed():
    """Results of K folds whose correlation is 1 / K, the share of the images that measures."""
    rng, folds, held, plain = np.random.default_rng(0), 5, 0, 0
    for _ in range(2000):
        shared, own = rng.normal(0, 1), rng.normal(0, 1, folds)
        gaps = math.sqrt(1 / folds) * shared + math.sqrt(1 - 1 / folds) * own
        one = fold_figures([bench(("a", 0.0, 1.0), ("b", gap, 1.0)) for gap in gaps], folds)[1]
        low, high = one.map50_95_difference_interval
        held += low <= 0 <= high
        plain += abs(gaps.mean()) <= T4 * gaps.std(ddof=1) / math.sqrt(folds)
    assert held / 2000 == pytest.approx(0.95, abs=0.015)
    assert plain / 2000 < 0.88
