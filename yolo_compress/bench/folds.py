# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Cross-validated figures: what the benchmarks of several folds say of one recipe.

Of K folds the mean of a figure is reported with its standard deviation between folds, and the mean of its differences
to the first candidate of the same fold with an interval. The folds' training images are largely the same, so that their
results are no independent draws, and the usual variance of a mean, s^2 / K, is too small. The interval is

    mean +- t_{K-1} s sqrt(1 / K + n_test / n_train),   n_test / n_train = 1 / (K - 1)

with t the quantile of Student's distribution for 95 % (Nadeau and Bengio 2003, Inference for the Generalization Error).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

COVERED = 0.95


@dataclass(frozen=True)
class FoldFigures:
    """One candidate over folds; accuracies are shares in 0 to 1, None where too few folds tell.

    Attributes:
        label: The candidate.
        folds: Folds in which it was measured and not refused.
        map50_95: The mean over them.
        map50_95_deviation: The standard deviation between them.
        map50_95_difference: The mean difference to the first candidate, over folds in which both were measured.
        map50_95_difference_interval: Its interval; see the module.
        latency_ratio_p50: The mean of its ratios to the first candidate.
        latency_ratio_deviation: Their standard deviation.
        map50_95_by_fold: In the order of the folds, None where it was not measured.
    """

    label: str
    folds: int
    map50_95: float | None
    map50_95_deviation: float | None
    map50_95_difference: float | None
    map50_95_difference_interval: tuple[float, float] | None
    latency_ratio_p50: float | None
    latency_ratio_deviation: float | None
    map50_95_by_fold: tuple[float | None, ...]


def fold_figures(benches: Sequence[Mapping[str, Any]], folds: int) -> list[FoldFigures]:
    """Return the figures of each candidate, in the order in which they are met.

    Args:
        benches: The content of the `bench.json` of each fold that was measured.
        folds: How many folds the images were cut into.
    """
    by_fold = [{str(row["label"]): row for row in bench["rows"] if row["status"] == "ok"} for bench in benches]
    first = str(benches[0]["rows"][0]["label"]) if benches else ""
    found = []
    for label in dict.fromkeys(str(row["label"]) for bench in benches for row in bench["rows"]):
        rows = [rows.get(label) for rows in by_fold]
        values = [row["map50_95"] for row in rows if row]
        pairs = [(row, rows[first]) for row, rows in zip(rows, by_fold, strict=True) if row and first in rows]
        gaps = [one["map50_95"] - other["map50_95"] for one, other in pairs] if label != first else []
        ratios = [row["latency_ratio_p50"] for row in rows if row and row.get("latency_ratio_p50") is not None]
        found.append(
            FoldFigures(
                label,
                len(values),
                _mean(values),
                _deviation(values),
                _mean(gaps),
                _interval(gaps, folds),
                _mean(ratios),
                _deviation(ratios),
                tuple(row["map50_95"] if row else None for row in rows),
            )
        )
    return found


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _interval(values: Sequence[float], folds: int) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    error = statistics.stdev(values) * math.sqrt(1 / len(values) + 1 / (folds - 1))
    reach = float(stats.t.ppf((1 + COVERED) / 2, len(values) - 1)) * error
    middle = statistics.fmean(values)
    return middle - reach, middle + reach
