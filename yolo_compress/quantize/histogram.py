# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a tensor held, in one pass and bounded memory."""

from __future__ import annotations

import math

import numpy as np

BINS = 8192  # at least half of them are in use: sixteen per 8-bit code, and still four at a quarter of the range
SAMPLE = 16384  # about as many values of one array are counted; limits look at all of them


class Histogram:
    """Counts on a grid through zero whose bins double in width when a value falls outside.

    Bins merge in pairs, so counts stay exact, and no earlier pass has to find the limits.

    Attributes:
        low: Smallest value seen.
        high: Largest value seen.
        average: Mean over the arrays of their smallest and of their largest value.
        counts: (BINS,) int64.
        width: Of a bin.
        first: Number of the first bin; bin k holds k * width up to (k + 1) * width.
    """

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.counts = np.zeros(BINS, np.int64)
        self.width, self.first = 0.0, 0
        self._arrays = 0
        self._sums = np.zeros(2)

    def add(self, values: np.ndarray) -> None:
        """Take in an array; of a large one, an evenly spread sample is counted."""
        flat = values.ravel()
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._sums += (low, high)
        self._arrays += 1
        self._fit()
        if flat.size > SAMPLE:
            # not a divisor of rows or channels, so that no column is left out; another beginning each time
            step = flat.size // SAMPLE | 1
            step += 2 * (step % 5 == 0)
            flat = flat[self._arrays % step :: step]
        places = np.floor(flat * np.float32(1 / self.width)).astype(np.int32) - self.first
        self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    @property
    def average(self) -> tuple[float, float]:
        """Mean over the arrays of their smallest and of their largest value."""
        low, high = self._sums / max(self._arrays, 1)
        return float(low), float(high)

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin as float64 (BINS,)."""
        return (self.first + np.arange(BINS) + 0.5) * self.width

    def about_zero(self, half: int) -> tuple[np.ndarray, float]:
        """Return counts in 2 * half + 1 wider bins, the middle one around zero, and their width."""
        furthest = max(abs(self.first), abs(self.first + BINS)) if self.counts.any() else 1
        merged = 2 * math.ceil(furthest / (2 * half))  # even, so that the middle bin has as many on both sides
        numbers = np.floor((self.first + np.arange(BINS) + merged / 2) / merged).astype(int)
        counts = np.bincount(np.clip(numbers + half, 0, 2 * half), weights=self.counts, minlength=2 * half + 1)
        return counts.astype(np.int64), merged * self.width

    def between(self, edges: np.ndarray) -> np.ndarray:
        """Return counts between increasing edges (n + 1,) as whole numbers (n,); a bin that an edge cuts is shared."""
        own = (self.first + np.arange(BINS + 1)) * self.width
        below = np.interp(edges, own, np.concatenate([[0], np.cumsum(self.counts)]))
        return np.diff(np.rint(below)).astype(np.int64)

    def _fit(self) -> None:
        """Widen and move the grid until it holds the limits."""
        if not self.width:
            span = max(self.high - self.low, abs(self.high), abs(self.low), float(np.finfo(np.float32).tiny) * BINS)
            self.width = 2.0 ** math.ceil(math.log2(span / (BINS - 2)))
            self.first = math.floor(self.low / self.width)
        factor = 1
        while self._number(self.high, factor) - self._number(self.low, factor) >= BINS:
            factor *= 2
        first = self._number(self.low, factor)
        inside = factor == 1 and self.first <= first and self._number(self.high, 1) < self.first + BINS
        if inside:
            return
        numbers = np.floor_divide(self.first + np.arange(BINS), factor) - first
        filled = self.counts > 0
        self.counts = np.bincount(numbers[filled], weights=self.counts[filled], minlength=BINS).astype(np.int64)
        self.width, self.first = self.width * factor, first

    def _number(self, value: float, factor: int) -> int:
        return math.floor(value / (self.width * factor))
