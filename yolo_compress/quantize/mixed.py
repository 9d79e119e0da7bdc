# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Mixed precision: as few layers as possible go back to float until the accuracy is near enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from yolo_compress.errors import GateNotMet


@dataclass(frozen=True)
class Mixed:
    """What was given back.

    Attributes:
        keep: Layers that go back to float, the most costly one first.
        drops: mAP50-95 points below the float model that were measured, by how many layers were given back.
    """

    keep: tuple[str, ...]
    drops: dict[int, float]

    @property
    def note(self) -> str:
        """What happened, in one sentence."""
        first, last = self.drops[0], self.drops[len(self.keep)]
        if not self.keep:
            return f"quantization costs {first:.2f} mAP50-95 points, and no layer had to go back to float"
        return (
            f"{len(self.keep)} layers went back to float, so that quantization costs {last:.2f} mAP50-95 points and "
            f"not {first:.2f}: {', '.join(self.keep)}"
        )


def fewest_in_float(
    drop: Callable[[Sequence[str]], float],
    ranking: Callable[[], Sequence[str]],
    *,
    max_drop: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Mixed:
    """Find how many layers, the most costly first, have to stay in float for a drop to be met.

    The number doubles until the drop holds, and is then halved back to the fewest that were measured to hold. More
    layers in float are taken to cost no more than fewer, which noise of a few hundredths of a point can contradict.

    Args:
        drop: Returns mAP50-95 points below the float model with some layers in float.
        ranking: Returns the layers, the most costly first; asked for only when the drop does not hold at once.
        max_drop: Most points that quantization may cost.
        progress: Takes a line per measurement.

    Raises:
        GateNotMet: Not even all of them are enough.
    """
    layers: list[str] = []

    def most() -> int:
        layers.extend(ranking())
        return len(layers)

    count, drops = first_that_holds(
        lambda count: drop(layers[:count]),
        most,
        max_drop=max_drop,
        words=lambda count: f"{count} layers in float",
        progress=progress,
    )
    return Mixed(tuple(layers[:count]), drops)


def first_that_holds(
    drop: Callable[[int], float],
    most: Callable[[], int],
    *,
    max_drop: float,
    words: Callable[[int], str],
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[int, dict[int, float]]:
    """Find the first of ever more accurate choices that meets a drop; return its number and the drops measured.

    Args:
        drop: Returns the mAP50-95 points that a choice loses, by its number.
        most: Returns the number of the last choice; asked only when the first one, 0, does not hold.
        max_drop: Most points that may be lost.
        words: Names a choice.
        progress: Takes a line per measurement.

    Raises:
        GateNotMet: Not even the last one is enough.
    """
    drops: dict[int, float] = {}

    def holds(number: int) -> bool:
        drops[number] = drop(number)
        progress(f"{words(number)}: {drops[number]:.2f} points lost, at most {max_drop:g} allowed")
        return drops[number] <= max_drop

    if holds(0):
        return 0, drops
    last = most()
    low, high = 0, min(1, last)
    while high == 0 or not holds(high):
        if high == last:
            raise GateNotMet(
                f"quantization costs {drops[high]:.2f} mAP50-95 points with all {words(high)}, more than "
                f"max_drop={max_drop:g}; the images that were measured may be too few: allow more, or give more images"
            )
        low, high = high, min(2 * high, last)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high, drops
