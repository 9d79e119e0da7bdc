# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which layers go back to float where INT8 has to save a given time: a 0/1 knapsack, by exact dynamic programming.

A layer in INT8 costs accuracy and saves time. Going back to float, it takes its cost away and gives its time back, so
the knapsack holds the layers in float: they are worth their costs, weigh their savings, and its size is the time that
may be given back. A layer that saves nothing always goes back.

Savings are rounded up to multiples of a unit, their sum over `LEVELS`. So what is chosen never gives back more time
than allowed, and the cost that is left is at most the least one for an allowance that is smaller by the rounding: below
one unit per layer (`Knapsack.error`), which with 200 layers is 0.4 % of all that INT8 saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LEVELS = 50_000
SMALLEST = 1e-300  # of a unit, so that savings next to nothing can be divided by it
EXACT = 1e-9  # of a unit, below which a saving counts as a multiple of it


@dataclass(frozen=True)
class Choice:
    """A precision map.

    Attributes:
        keep: Layers in float, in the order of the model.
        cost: Sum over the layers in INT8.
        saving: The same of their savings.
        given_back: Savings of the layers in float that would have saved something.
    """

    keep: tuple[str, ...]
    cost: float
    saving: float
    given_back: float


class Knapsack:
    """The cheapest precision map for every time that may be given back.

    Attributes:
        most: Saving of the fastest map.
        error: Time by which the allowance is effectively smaller, at most.
    """

    def __init__(self, costs: Mapping[str, float], savings: Mapping[str, float], *, levels: int = LEVELS) -> None:
        """Fill the table, which takes layers x `levels` bytes.

        Args:
            costs: What INT8 costs in each layer, at least 0, in any unit.
            savings: Time that it saves there, of the same layers.
            levels: Units that the sum of savings is divided into.
        """
        self.costs, self.savings = dict(costs), {layer: savings[layer] for layer in costs}
        self._items = [layer for layer, saved in self.savings.items() if saved > 0]
        self.most = float(sum(self.savings[layer] for layer in self._items))
        self.unit = max(self.most / levels, SMALLEST)
        self.error = len(self._items) * self.unit
        self._weights = [max(1, int(np.ceil(self.savings[layer] / self.unit - EXACT))) for layer in self._items]
        self._taken = self._fill()

    def allowing(self, time: float) -> Choice:
        """Return the cheapest map that gives back at most so much time, of the unit that savings have."""
        if time >= self.most:
            return self._choice([layer for layer in self._items if self.costs[layer] > 0])
        left = int(time / self.unit + EXACT)
        keep = []
        for index in range(len(self._items) - 1, -1, -1):
            if self._taken[index, min(left, self._taken.shape[1] - 1)]:
                keep.append(self._items[index])
                left -= self._weights[index]
        return self._choice(keep)

    def steps(self, count: int) -> list[Choice]:
        """Return different maps from the fastest to the cheapest, at most one per equal step of the time given back."""
        found: dict[tuple[str, ...], Choice] = {}
        for index in range(count + 1):
            choice = self.allowing(self.most * (index / count))
            found.setdefault(choice.keep, choice)
        return list(found.values())

    def of(self, keep: tuple[str, ...]) -> Choice:
        """Return the map with these layers in float, whether or not it is a good one."""
        chosen = set(keep)
        coded = [layer for layer in self.costs if layer not in chosen]
        return Choice(
            tuple(layer for layer in self.costs if layer in chosen),
            float(sum(self.costs[layer] for layer in coded)),
            float(sum(self.savings[layer] for layer in coded)),
            float(sum(self.savings[layer] for layer in self._items if layer in chosen)),
        )

    def _choice(self, kept: list[str]) -> Choice:
        return self.of((*kept, *(layer for layer, saved in self.savings.items() if saved <= 0)))

    def _fill(self) -> np.ndarray:
        """Return whether an item is taken where so many units are left for it and those before it."""
        capacity = sum(self._weights)
        value = np.zeros(capacity + 1)
        taken = np.zeros((len(self._items), capacity + 1), dtype=bool)
        for index, (layer, weight) in enumerate(zip(self._items, self._weights, strict=True)):
            better = value[:-weight] + self.costs[layer]
            taken[index, weight:] = better > value[weight:]
            value[weight:] = np.maximum(value[weight:], better)
        return taken
