# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How the range of an activation is chosen from what calibration images produce."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from yolo_compress.quantize.affine import Affine, from_range
from yolo_compress.quantize.histogram import Histogram

STEPS = 60  # candidates per side in each sweep of the mse search
PERCENTILE = 99.99
HALF_BINS = 2048  # per side, of the histogram that the entropy search looks at, as TensorRT has them
SMALLEST_SHARE = 0.05  # of the observed range; a lone outlier can be twenty times what matters

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RangeMethod:
    """An entry of RANGES: how a range is picked from what was seen; None where detections decide."""

    name: str
    description: str
    choose: Callable[[Histogram, Form, Function | None], tuple[float, float]] | None


@dataclass(frozen=True)
class Form:
    """The form of an activation quantizer."""

    signed: bool
    symmetric: bool
    bits: int = 8

    def quantizer(self, low: float, high: float) -> Affine:
        """Return the quantizer that covers [low, high]."""
        return from_range(low, high, signed=self.signed, symmetric=self.symmetric, bits=self.bits)


def minmax(seen: Histogram, form: Form, through: Function | None = None) -> tuple[float, float]:
    """Return the smallest and the largest value seen."""
    return seen.low, seen.high


def average(seen: Histogram, form: Form, through: Function | None = None) -> tuple[float, float]:
    """Return the mean over the images of the smallest and of the largest value, so that one outlier counts once."""
    return seen.average


def percentile(seen: Histogram, form: Form, through: Function | None = None) -> tuple[float, float]:
    """Return the range that holds `PERCENTILE` per cent of the values, half of the rest cut off on each side.

    Symmetric ranges are those of the absolute values.
    """
    if form.symmetric:
        counts, width = seen.about_zero(HALF_BINS)
        folded = counts[HALF_BINS:] + np.concatenate([[0], counts[:HALF_BINS][::-1]])
        edge = (cut(folded, PERCENTILE / 100) + 0.5) * width
        peak = max(-seen.low, seen.high)
        return -min(edge, peak), min(edge, peak)
    outside = (100 - PERCENTILE) / 200
    low = (seen.first + cut(seen.counts, outside)) * seen.width
    high = (seen.first + cut(seen.counts, 1 - outside) + 1) * seen.width
    return max(low, seen.low), min(high, seen.high)


def cut(counts: np.ndarray, share: float) -> int:
    """Return the first bin up to which at least a share of the counts lies."""
    return int(np.searchsorted(np.cumsum(counts) / counts.sum(), share))


def entropy(seen: Histogram, form: Form, through: Function | None = None) -> tuple[float, float]:
    """Return the range that keeps most of the distribution, by the Kullback-Leibler divergence of its quantized form.

    Symmetric ranges are those of TensorRT's calibrator, of the absolute values in `HALF_BINS` bins up to the largest.
    Others are those of ONNX Runtime's, in twice as many bins around zero, and end at the smallest value, where that
    lies nearer to zero. Bins are merged into half as many levels as there are codes: 128 of 8 bits, on both sides of
    zero together for the latter, as is its default. The divergence jumps from candidate to candidate, so that another
    number of bins, or other edges, give a range that is some ten per cent larger or smaller: neither may differ from
    the original.
    """
    peak = max(-seen.low, seen.high)
    if not peak:
        return 0.0, 0.0
    levels = 2 ** (form.bits - 1)
    if form.symmetric:
        edges = np.linspace(0, peak, HALF_BINS + 1)
        counts = seen.between(edges) + seen.between(-edges[::-1])[::-1]
        edge = min((entropy_length(counts, levels) + 0.5) * peak / HALF_BINS, peak)
        return -edge, edge
    edges = np.linspace(-peak, peak, 2 * HALF_BINS + 2)
    edge = min(float(edges[HALF_BINS + 1 + entropy_threshold(seen.between(edges), levels)]), peak)
    return max(-edge, seen.low), min(edge, seen.high)


def entropy_length(counts: np.ndarray, levels: int) -> int:
    """Return how many bins of absolute values to keep.

    For each candidate from `levels` on, P is the kept part, with what lies outside added to its last bin, and Q is the
    kept part merged into `levels` of equal width, each spread evenly over those of its bins that hold something. The
    candidate with the least `sum P log(P / Q)` wins; one whose last bin holds only what lies outside has no finite one.

    Source: Migacz 2017, 8-bit Inference with TensorRT (GTC, session 7310).

    Args:
        counts: (bins,) whole numbers.
        levels: How many the kept part is merged into.
    """
    total, best, found = counts.sum(), np.inf, len(counts)
    below = np.concatenate([[0], np.cumsum(counts)])
    filled = np.concatenate([[0], np.cumsum(counts > 0)])
    for keep in range(levels, len(counts) + 1):
        kept = counts[:keep]
        if not kept[-1] and below[keep] < total:
            continue
        # bin k is of level floor(k * levels / keep), which begins at the first such k
        ends = -(-np.arange(levels + 1) * keep // levels)
        sizes = filled[ends[1:]] - filled[ends[:-1]]
        density = (below[ends[1:]] - below[ends[:-1]]) / np.maximum(sizes, 1)
        q = np.repeat(density, np.diff(ends))[kept > 0] / max(below[keep], 1)
        p = kept[kept > 0].astype(np.float64)
        p[-1:] += total - below[keep]
        p /= total
        divergence = float((p * np.log(p / q)).sum())
        if divergence < best:
            best, found = divergence, keep
    return found


def entropy_threshold(counts: np.ndarray, levels: int) -> int:
    """Return how many bins on each side of the middle one to keep, as ONNX Runtime's calibrator chooses them.

    As `entropy_length`, on both sides of zero at once: what is left over when bins are merged counts for the last
    level, and P and Q are smoothed, so that every empty bin takes 1e-4 from the others.

    Args:
        counts: (2 * half + 1,) whole numbers, bin `half` around zero.
        levels: How many the kept part is merged into.
    """
    half = len(counts) // 2
    best, found = np.inf, half
    total = np.concatenate([[0], np.cumsum(counts)])
    for keep in range(levels // 2, half + 1):
        start, end = half - keep, half + keep + 1
        kept = counts[start:end]
        p = kept.copy()
        p[0] += total[start]
        p[-1] += total[-1] - total[end]
        merged = len(kept) // levels
        group = np.minimum(np.arange(len(kept)) // merged, levels - 1)
        spread = np.arange(len(kept)) < levels * merged  # what is left over counts for the last level, and gets nothing
        filled = p != 0
        sums = np.bincount(group, weights=kept, minlength=levels)
        sizes = np.bincount(group, weights=filled & spread, minlength=levels)
        q = np.where(spread, np.floor(sums / np.maximum(sizes, 1))[group] * (sizes[group] > 0), 0)
        smooth_p, smooth_q = smoothed(p), smoothed(q)
        if smooth_p is None or smooth_q is None:
            continue
        p_share, q_share = smooth_p / smooth_p.sum(), smooth_q / smooth_q.sum()
        divergence = float((p_share * np.log(p_share / q_share)).sum())
        if divergence < best:
            best, found = divergence, keep
    return found


def smoothed(counts: np.ndarray, share: float = 1e-4) -> np.ndarray | None:
    """Return counts in which every empty bin has `share`, taken evenly from the others; None where they are too few."""
    empty = counts == 0
    others = len(counts) - int(empty.sum())
    if not others:
        return None
    taken = share * int(empty.sum()) / others
    if taken >= 1:
        return None
    return counts.astype(np.float32) + np.where(empty, np.float32(share), np.float32(-taken))


def mse(seen: Histogram, form: Form, through: Function | None = None) -> tuple[float, float]:
    """Return the range with the least mean squared error over the histogram.

    Minimises `sum_b n_b (f(q(c_b)) - f(c_b))^2` with bin centres `c_b`, counts `n_b`, the quantizer's round trip `q`
    and `f` the function that follows (identity when none). Asymmetric ranges are searched one side at a time, upper
    first, since the lower end after SiLU is bounded by -0.279 and hardly worth clipping; sweeps repeat until neither
    moves.

    Args:
        seen: What the calibration images produced.
        form: The quantizer whose error counts.
        through: Function that the values pass next, such as SiLU; the error is measured behind it.
    """
    error = _error_of(seen, form, through)
    if form.symmetric:
        peak = max(-seen.low, seen.high)
        return min(((-peak * s, peak * s) for s in _shares()), key=lambda limits: error(*limits))
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    full_low, full_high = low, high
    for _ in range(4):
        before = low, high
        high = min((full_high * s for s in _shares()), key=lambda value: error(low, value))
        low = min((full_low * s for s in _shares()), key=lambda value: error(value, high))
        if (low, high) == before:
            break
    return low, high


RANGES = {
    entry.name: entry
    for entry in (
        RangeMethod("minmax", "Smallest and largest value seen.", minmax),
        RangeMethod("average", "Mean over the images of their smallest and largest value.", average),
        RangeMethod("percentile", f"Range that holds {PERCENTILE} % of the values.", percentile),
        RangeMethod("entropy", "Range whose quantized distribution diverges least, as TensorRT calibrates.", entropy),
        RangeMethod("mse", "Range with the least squared error; outliers are clipped.", mse),
        RangeMethod("auto", "Where it matters most, the range that moves the detections least; mse elsewhere.", None),
    )
}


def relative_error(seen: Histogram, quantizer: Affine, through: Function | None = None) -> float:
    """Return the energy of the quantization error as a share of the signal's, over a histogram."""
    exact = seen.centres if through is None else through(seen.centres)
    values = quantizer.round_trip(seen.centres)
    error = (values if through is None else through(values)) - exact
    energy = float((seen.counts * exact**2).sum())
    return float((seen.counts * error**2).sum()) / energy if energy else 0.0


def silu(values: np.ndarray) -> np.ndarray:
    """Return `x / (1 + exp(-x))`."""
    return values / (1 + np.exp(-np.clip(values, -80, None)))


FUNCTIONS: dict[str | None, Function] = {"silu": silu}


def _error_of(seen: Histogram, form: Form, through: Function | None) -> Callable[[float, float], float]:
    filled = seen.counts > 0
    centres, counts = seen.centres[filled], seen.counts[filled].astype(np.float64)
    exact = centres if through is None else through(centres)

    def error(low: float, high: float) -> float:
        values = form.quantizer(low, high).round_trip(centres)
        return float((counts * ((values if through is None else through(values)) - exact) ** 2).sum())

    return error


def _shares() -> np.ndarray:
    return np.linspace(1.0, SMALLEST_SHARE, STEPS)
