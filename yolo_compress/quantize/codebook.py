# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables of values for weights: Lloyd's algorithm on a line, where cells are intervals."""

from __future__ import annotations

import numpy as np

ROUNDS = 200  # of Lloyd's algorithm; tables of sixteen values settle in fifty


def fit_codebook(values: np.ndarray, mass: np.ndarray, count: int) -> np.ndarray:
    """Return the values of a table, in order, that a set of numbers is nearest to.

    Minimises `sum_i m_i (v_i - c(v_i))^2` with `c(v)` the nearest of the table's values. It begins twice, from even
    steps, which keep the rare large weights (Han et al. 2016, Deep Compression, section 3.2), and from even shares of
    the mass, and the better end is taken: nothing is drawn at random, so the same weights have the same table.

    Args:
        values: v, (n,).
        mass: m, (n,), not negative.
        count: Of the table's values; some may be alike where there are fewer different numbers.
    """
    line = _Line(values, mass)
    ends = [descend(line, start)[-1] for start in (line.even_steps(count), line.even_shares(count))]
    return min(ends, key=line.error).astype(np.float32)


def descend(line: _Line, centres: np.ndarray) -> list[np.ndarray]:
    """Return the tables that Lloyd's algorithm (Lloyd 1982) goes through; the error never rises from one to the next.

    Each value moves to the mean of the numbers that are nearest to it; one that is nearest to none stays.
    """
    found = [centres]
    for _ in range(ROUNDS):
        moved = line.means(found[-1])
        if np.array_equal(moved, found[-1]):
            break
        found.append(moved)
    return found


class _Line:
    """Numbers in order, with sums up to each of them, so that a cell costs two look-ups."""

    def __init__(self, values: np.ndarray, mass: np.ndarray) -> None:
        order = np.argsort(values, kind="stable")
        self.values, weights = values[order].astype(np.float64), mass[order].astype(np.float64)
        parts = (weights, weights * self.values, weights * self.values**2)
        self.mass, self.first, self.second = (np.concatenate([[0.0], np.cumsum(part)]) for part in parts)

    def even_steps(self, count: int) -> np.ndarray:
        return np.linspace(self.values[0], self.values[-1], count)

    def even_shares(self, count: int) -> np.ndarray:
        wanted = (np.arange(count) + 0.5) / count * self.mass[-1]
        return self.values[np.minimum(np.searchsorted(self.mass[1:], wanted), len(self.values) - 1)]

    def means(self, centres: np.ndarray) -> np.ndarray:
        mass, first, _ = self._cells(centres)
        moved = np.where(mass > 0, first / np.where(mass > 0, mass, 1), centres)
        return np.maximum.accumulate(moved)  # equal ones may be the last digit apart, in the wrong order

    def error(self, centres: np.ndarray) -> float:
        mass, first, second = self._cells(centres)
        return float((second - 2 * centres * first + centres**2 * mass).sum())

    def _cells(self, centres: np.ndarray) -> list[np.ndarray]:
        borders = np.searchsorted(self.values, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], borders, [len(self.values)]])
        return [np.diff(sums[edges]) for sums in (self.mass, self.first, self.second)]
