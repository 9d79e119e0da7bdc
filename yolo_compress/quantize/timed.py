# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Meet a latency: maps by layer savings, judged by the finished model's time.

Savings tell which layers are worth quantizing, but their sum is not what the model saves: profiling slows nodes down,
and where precision changes, a runtime inserts nodes that no profile of a whole model in one precision has. So a map is
made, timed as a whole model, and the time that the knapsack may give back is corrected along the line between the last
map that held and the first that did not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from yolo_compress.quantize.knapsack import Choice, Knapsack

TOLERANCE = 0.03  # of the wanted time, by which a map may miss it
TRIES = 4  # maps that are timed beside all in INT8 and the fastest one by the savings


@dataclass(frozen=True)
class Measured:
    """A model's time against that of the float model, in paired rounds.

    Attributes:
        ratio: Median over the rounds.
        interval: 95 % confidence interval of it, None from fewer than six rounds.
        ms: Median.
        float_ms: Median of the float model.
    """

    ratio: float
    interval: tuple[float, float] | None
    ms: float
    float_ms: float

    def __str__(self) -> str:
        """Return the ratio with its interval, and both times."""
        sure = f" ({self.interval[0]:.3f} to {self.interval[1]:.3f})" if self.interval else ""
        return f"{self.ratio:.3f}{sure} of the float model's time, {self.ms:.2f} of {self.float_ms:.2f} ms"


@dataclass(frozen=True)
class Tried:
    """A map whose finished model was timed."""

    choice: Choice
    measured: Measured

    def holds(self, latency: float) -> bool:
        """Tell whether it takes at most so much of the float model's time, by the tolerance."""
        return self.measured.ratio <= latency * (1 + TOLERANCE)


def fit_latency(
    knapsack: Knapsack,
    measure: Callable[[tuple[str, ...]], Measured],
    *,
    latency: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Tried:
    """Find the cheapest map whose finished model takes at most a share of the float model's time.

    Args:
        knapsack: Costs and savings of the layers.
        measure: Makes the model with some layers in float and times it.
        latency: Share of the float model's time, in (0, 1).
        progress: Takes a line per map.

    Returns:
        The cheapest of the maps that were measured to hold; where none does, the fastest, whose `holds` is false.
    """
    tried: list[Tried] = []

    def attempt(choice: Choice) -> Tried:
        tried.append(Tried(choice, measure(choice.keep)))
        progress(f"precision: {len(choice.keep)} layers in float: {tried[-1].measured}, {latency:g} wanted")
        return tried[-1]

    low = attempt(knapsack.of(()))
    fastest = knapsack.allowing(0.0)
    if fastest.keep:
        if not _codes_any(knapsack, fastest):
            return low
        low = attempt(fastest)
    if low.holds(latency):
        _close_in(knapsack, low, attempt, latency)
    holding = [found for found in tried if found.holds(latency)]
    if not holding:
        return min(tried, key=lambda found: found.measured.ratio)
    return min(holding, key=lambda found: (found.choice.cost, found.measured.ratio))


def _close_in(knapsack: Knapsack, low: Tried, attempt: Callable[[Choice], Tried], latency: float) -> None:
    """Give back more and more of the savings, between a map that holds and the float model, which does not."""
    held, missed = (low.choice.given_back, low.measured.ratio), (knapsack.most, 1.0)
    seen = {low.choice.keep}
    for _ in range(TRIES):
        if held[1] >= latency * (1 - TOLERANCE) or missed[1] <= held[1]:
            return
        share = min(max((latency - held[1]) / (missed[1] - held[1]), 0.0), 1.0)
        choice = knapsack.allowing(held[0] + share * (missed[0] - held[0]))
        if choice.keep in seen or not _codes_any(knapsack, choice):
            return
        seen.add(choice.keep)
        found = attempt(choice)
        if found.holds(latency):
            held = (choice.given_back, found.measured.ratio)
        else:
            missed = (choice.given_back, found.measured.ratio)


def _codes_any(knapsack: Knapsack, choice: Choice) -> bool:
    return len(choice.keep) < len(knapsack.costs)
