# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How the range of an activation is chosen from what calibration images produce."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from yolo_compress.quantize.affine import Affine, from_range

BINS = 4096  # sixteen per code at full range, and still four per code at a quarter of it
STEPS = 60  # candidates per side in each sweep of the mse search
SMALLEST_SHARE = 0.05  # of the observed range; a lone outlier can be twenty times what matters

Function = Callable[[np.ndarray], np.ndarray]


@dataclass
class Histogram:
    """Counts of values between two limits in equal bins, filled batch by batch in bounded memory."""

    low: float
    high: float
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: np.ndarray) -> None:
        """Count values; those outside of the limits go to the outermost bins."""
        span = max(self.high - self.low, np.finfo(np.float32).tiny)
        place = (values.ravel() - np.float32(self.low)) * np.float32(BINS / span)
        index = np.clip(place, 0, BINS - 1).astype(np.int32)
        self.counts += np.bincount(index, minlength=BINS)

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin as float64 (BINS,)."""
        return self.low + (np.arange(BINS) + 0.5) * ((self.high - self.low) / BINS)


@dataclass(frozen=True)
class RangeMethod:
    """An entry of RANGES: how a range is picked from what was seen."""

    name: str
    description: str
    choose: Callable[[Histogram, Form, Function | None], tuple[float, float]]


@dataclass(frozen=True)
class Form:
    """The form of an 8-bit activation quantizer."""

    signed: bool
    symmetric: bool

    def quantizer(self, low: float, high: float) -> Affine:
        """Return the quantizer that covers [low, high]."""
        return from_range(low, high, signed=self.signed, symmetric=self.symmetric)


def minmax(seen: Histogram, form: Form, through: Function | None = None) -> tuple[float, float]:
    """Return the smallest and the largest value seen."""
    return seen.low, seen.high


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
        RangeMethod("mse", "Range with the least squared error; outliers are clipped.", mse),
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
