# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which channels go: integer widths that meet a target as closely as rounding allows, then the least important ones.

With `local` and `global`, one number, the level, sets all widths at once: the same share everywhere, or everything that
scores below it. It is searched so that the *rounded* widths meet the target; between the last level that removes too
little and the first that removes too much, single steps are taken in the order of importance lost per saving. With
`budget`, all steps are taken in that order, from the full widths on: a knapsack, greedy, with savings counted anew
after each step, since what a channel saves depends on the layers around it. Scores are squared changes of what comes
out, and what a layer costs is the change itself, the root of the sum of what went from it: changes of different layers
point partly the same way, so that the changes add up and not their squares, and a little from everywhere costs more
than the squares would tell. `savings` takes the steps as if every channel cost alike, and leaves to the scores only
which channels of a layer go: it ends with the fewest channels removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from yolo_compress.errors import UsageError
from yolo_compress.prune.graph import ChannelGraph, IntArray
from yolo_compress.prune.inputs import FloatArray
from yolo_compress.prune.latency import LayerTimes, TimedCost

TOLERANCE = 0.03  # share of the target that the finished widths may miss before the result says so
POLISH = 0.005  # below this miss no width is moved away from what the level gives
MOVES = 50
LEVELS = 4001  # of the local scope: shares in steps of 0.00025, finer than one channel in 4000


Scope = Literal["budget", "savings", "local", "global", "steps"]
Kind = Literal["ratio", "flops", "latency"]


@dataclass(frozen=True)
class Target:
    """What is to be removed: `share` of the parameters (`ratio`), operations (`flops`) or layer times (`latency`)."""

    kind: Kind
    share: float


@dataclass(frozen=True)
class Widths:
    """What widths a layer may take."""

    round_to: int
    max_share: float

    def allowed(self, width: int, together: int = 1) -> IntArray:
        """Return the allowed widths from the full one down, of a layer that loses `together` channels at a time.

        They are the multiples of `round_to`, and the full width, down to (1 - `max_share`) of it. A layer of up to
        two such multiples may take half steps: otherwise a stem of 16 channels could only stay or lose half. Rows of a
        bundle, such as attention heads, have a size of their own and are not rounded.
        """
        if together > 1:
            left = np.arange(width, 0, -together)
            return left[(left == width) | (left >= (1 - self.max_share) * width - 1e-9)]
        step = max(1, self.round_to // 2) if width <= 2 * self.round_to else self.round_to
        least = max(step, math.ceil((1 - self.max_share) * width - 1e-9))
        multiples = np.arange(step, width, step)
        return np.concatenate([[width], multiples[multiples >= least][::-1]])

    def nearest(self, width: int, wanted: float, together: int = 1) -> int:
        """Round a wanted width to an allowed one; halfway, to the wider."""
        allowed = self.allowed(width, together)
        return int(allowed[np.abs(allowed - wanted).argmin()])


@dataclass(frozen=True)
class Plan:
    """Which channels of a graph stay, and what the finished model will cost, in seconds by layer times."""

    graph: ChannelGraph
    kept: npt.NDArray[np.bool_]
    scores: FloatArray
    target: Target
    params_before: int
    params_after: int
    ops_before: int
    ops_after: int
    seconds_before: float
    seconds_after: float
    notes: tuple[str, ...]
    round_to: int = 1

    def positions(self, channels: IntArray) -> IntArray:
        """Return where in an array of channels the kept ones are, ascending."""
        return np.flatnonzero(self.kept[channels])


def check_reachable(graph: ChannelGraph, *, target: Target, widths: Widths, times: LayerTimes | None = None) -> None:
    """Refuse a target before anything slow is done.

    Raises:
        UsageError: More than can go is asked for, or less than half of the smallest step.
    """
    _Search(graph, np.ones(graph.channels), target=target, widths=widths, scope="local", times=times).check()


def allocate(
    graph: ChannelGraph,
    scores: FloatArray,
    *,
    target: Target,
    widths: Widths,
    scope: Scope,
    times: LayerTimes | None = None,
) -> Plan:
    """Choose widths that meet the target, and in each group the channels with the best scores.

    Args:
        graph: Of the model to be pruned.
        scores: One per channel, normalised per group.
        target: What is to be removed.
        widths: What widths layers may take.
        scope: `local` takes the same share of each layer; `global` takes what scores lowest anywhere; `budget` takes
            what changes least per saving; `savings` takes what saves most per channel;
            `steps` takes scores for the numbers of steps that remove channels (`greedy`).
        times: Layer times, which a latency target is counted in.

    Raises:
        UsageError: The target cannot be reached.
    """
    search = _Search(graph, scores, target=target, widths=widths, scope=scope, times=times)
    search.check()
    chosen = search.run()
    share = search.removed(chosen)
    notes = ()
    if abs(share - target.share) > TOLERANCE * target.share:
        notes = (
            f"{target.kind}={target.share:g} became {share:.3f}: round_to={widths.round_to} allows nothing closer",
        )
    return replace(
        plan_at(graph, chosen, scores=scores, times=times), target=target, notes=notes, round_to=widths.round_to
    )


def plan_at(
    graph: ChannelGraph, chosen: IntArray, *, scores: FloatArray | None = None, times: LayerTimes | None = None
) -> Plan:
    """Return the plan of one width per unit; without scores the first channels of each group stay."""
    ranked = np.zeros(graph.channels) if scores is None else scores
    costs = TimedCost(graph, times)
    before, after = costs(full_widths(graph)), costs(chosen)
    kept = np.ones(graph.channels, dtype=bool)
    for unit, width in zip(graph.units, chosen.tolist(), strict=True):
        for rows, scores_ in _rows(graph, unit, ranked):
            left = width * len(rows) // len(graph.groups[unit[0]])
            best_first = np.argsort(-scores_, kind="stable")
            kept[rows[best_first[left:]]] = False
    return Plan(
        graph=graph,
        kept=kept,
        scores=ranked,
        target=Target("ratio", 1 - after[0] / before[0]),
        params_before=before[0],
        params_after=after[0],
        ops_before=before[1],
        ops_after=after[1],
        seconds_before=before[2],
        seconds_after=after[2],
        notes=(),
    )


def _rows(graph: ChannelGraph, unit: tuple[int, ...], scores: FloatArray) -> list[tuple[IntArray, FloatArray]]:
    """Return what a unit's groups lose channels by: (rows, channels of a row), and the sum of scores of each row.

    A row is one channel, or a row of a bundle with what follows it.
    """
    bundles = {bundle.group: bundle for bundle in graph.bundles}
    followers = {bundle.follower for bundle in graph.bundles}
    found = []
    for group in unit:
        if group in followers:
            continue
        bundle = bundles.get(group)
        rows = np.hstack([bundle.lead, bundle.following]) if bundle else graph.groups[group][:, None]
        found.append((rows, scores[rows].sum(axis=1)))
    return found


def change_curve(squares: FloatArray) -> FloatArray:
    """Return the largest convex curve below the root of summed squares, so that no step looks dearer than the next."""
    steps = isotonic_regression(np.diff(np.sqrt(squares))).x
    return np.concatenate([[0.0], np.cumsum(steps)])


def full_widths(graph: ChannelGraph) -> IntArray:
    """Return the width of each unit before pruning."""
    return np.array([len(graph.groups[unit[0]]) for unit in graph.units], dtype=np.int64)


def most_removable(graph: ChannelGraph, *, kind: Kind, widths: Widths, times: LayerTimes | None = None) -> float:
    """Return the largest share of the targeted cost that the allowed widths can remove."""
    target = Target(kind, 1.0)
    return _Search(graph, np.ones(graph.channels), target=target, widths=widths, scope="local", times=times).most()


class _Search:
    """The widths of all units, one integer each, and the search over them."""

    def __init__(
        self,
        graph: ChannelGraph,
        scores: FloatArray,
        *,
        target: Target,
        widths: Widths,
        scope: Scope,
        times: LayerTimes | None = None,
    ) -> None:
        self.target, self.widths, self.scope = target, widths, scope
        self.which = ("ratio", "flops", "latency").index(target.kind)
        self.costs = TimedCost(graph, times)
        self.full = full_widths(graph)
        self._before = self.cost(self.full)[self.which]
        self.together = [graph.together(unit) for unit in graph.units]
        pairs = zip(self.full.tolist(), self.together, strict=True)
        self.allowed = [widths.allowed(width, together) for width, together in pairs]
        # What the k-th channel to go costs: tied groups lose their k-th worst together.
        if scope == "savings":
            scores = np.ones_like(scores)
        parts = [self._profiles(graph, unit, scores) for unit in graph.units]
        self.profiles = [np.mean(part, axis=0) for part in parts]
        self.lost = [np.concatenate([[0.0], np.cumsum(np.sum(part, axis=0))]) for part in parts]
        if scope == "budget":
            self.lost = [change_curve(lost) for lost in self.lost]

    @staticmethod
    def _profiles(graph: ChannelGraph, unit: tuple[int, ...], scores: FloatArray) -> list[FloatArray]:
        """Return what the k-th channel to go costs, for each group that decides; channels of a row share its cost."""
        full = len(graph.groups[unit[0]])
        found = [np.sort(costs) for _, costs in _rows(graph, unit, scores)]
        return [np.repeat(costs, full // len(costs)) * len(costs) / full for costs in found]

    def cost(self, chosen: IntArray) -> tuple[int, int, float]:
        """Return parameters, operations and seconds at the given widths."""
        return self.costs(chosen)

    def removed(self, chosen: IntArray) -> float:
        """Return the share of the targeted cost that is gone at the given widths."""
        return 1 - self.cost(chosen)[self.which] / self._before

    def most(self) -> float:
        """Return the share of the targeted cost that the narrowest widths remove."""
        return self.removed(np.array([widths[-1] for widths in self.allowed], dtype=np.int64))

    def check(self) -> None:
        """Raise where the target lies outside of what the allowed widths can do."""
        kind, share = self.target.kind, self.target.share
        limits = f"round_to={self.widths.round_to}, max_share={self.widths.max_share:g} and the layers kept whole"
        most = self.most()
        if share > most * (1 + TOLERANCE) or most <= 0:
            floor = math.floor(most * 1000) / 1000
            advice = "lower round_to, or keep fewer layers"
            if floor > 0:
                advice = f"ask for {kind}={floor:g} or less, or raise max_share"
            raise UsageError(f"{kind}={share:g} cannot be reached: with {limits}, at most {floor:.3f} can go; {advice}")
        least = min(self.removed(self._moved(self.full, u, w[1])) for u, w in enumerate(self.allowed) if len(w) > 1)
        if share < least / 2:
            ceiling = math.ceil(least * 10000) / 10000
            raise UsageError(
                f"{kind}={share:g} removes nothing: with {limits}, the smallest step is {ceiling:g}; "
                f"ask for {kind}={ceiling:g} or more, or lower round_to"
            )

    def run(self) -> IntArray:
        """Return widths whose cost is as near to the target as they allow."""
        if self.scope in ("budget", "savings"):
            narrowest = np.array([widths[-1] for widths in self.allowed], dtype=np.int64)
            chosen = self._between(self.full, narrowest)
            return self._polish(chosen, wanted=chosen.astype(np.float64))
        low, high = self._bracket()
        return self._polish(self._between(self.at(low), self.at(high)), wanted=self._wanted(high))

    def at(self, level: float) -> IntArray:
        """Return the rounded widths at a level; they never grow with it."""
        layers = zip(self.full.tolist(), self._wanted(level), self.together, strict=True)
        return np.array([self.widths.nearest(*layer) for layer in layers], dtype=np.int64)

    def _wanted(self, level: float) -> FloatArray:
        if self.scope == "local":
            return self.full * (1 - level)
        return self.full - np.array([np.searchsorted(profile, level) for profile in self.profiles], dtype=np.float64)

    def _bracket(self) -> tuple[float, float]:
        """Return the last level that removes less than the target, and the next, which does not."""
        if self.scope == "local":
            levels = np.linspace(0, 1, LEVELS)
        else:
            levels = np.unique(np.concatenate([[0.0], *self.profiles, [np.inf]]))
        low, high = 0, len(levels) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.removed(self.at(levels[middle])) >= self.target.share:
                high = middle
            else:
                low = middle
        return float(levels[low]), float(levels[high])

    def _between(self, wide: IntArray, narrow: IntArray) -> IntArray:
        """Walk from wide to narrow, least importance per saving first, and return where the target was nearest.

        Parameters and operations fall evenly with width, so that steps to the next width are enough. Times fall in
        stairs: there each step may pass over widths that save nothing.
        """
        best = current = wide
        while self.removed(current) < self.target.share:
            here = self.cost(current)[self.which]
            steps: list[tuple[float, int, IntArray]] = []
            for unit in np.flatnonzero(current > narrow).tolist():
                for width in self._narrower(unit, int(current[unit]), int(narrow[unit])):
                    step = self._moved(current, unit, width)
                    lost = self._loss(unit, width) - self._loss(unit, int(current[unit]))
                    saved = here - self.cost(step)[self.which]
                    steps.append((lost / saved if saved > 0 else math.inf, unit, step))
            if not steps:
                break
            current = min(steps, key=lambda item: item[:2])[2]
            best = min(best, current, key=self._miss)
        return best

    def _narrower(self, unit: int, width: int, least: int) -> list[int]:
        """Return the widths that a step may lead to."""
        below = [int(w) for w in self.allowed[unit] if least <= w < width]
        return below if self.target.kind == "latency" else below[:1]

    def _polish(self, current: IntArray, *, wanted: FloatArray) -> IntArray:
        """Move single widths by one step while that brings the target nearer and it is not near enough.

        Of the moves that at least halve the miss, the one that leaves its layer nearest to the width that the level
        wants, relative to the layer: a wide layer gives way before a narrow one.
        """
        for _ in range(MOVES):
            miss = self._miss(current)
            if miss <= POLISH * self.target.share:
                break
            moves = [
                (self._miss(moved), abs(width - wanted[unit]) / self.full[unit], unit, moved)
                for unit in range(len(self.full))
                for direction in (1, -1)
                if (width := self._neighbour(unit, int(current[unit]), direction)) is not None
                for moved in [self._moved(current, unit, width)]
            ]
            halving = [move for move in moves if move[0] <= miss / 2]
            best = min(halving, key=lambda move: move[1:3]) if halving else min(moves, key=lambda move: move[0])
            if best[0] >= miss:  # one layer gives back more than is missing, and another takes the rest
                pairs = ((self._miss(pair), 0.0, 0, pair) for pair in self._exchanges(current))
                best = min(pairs, key=lambda move: move[0], default=best)
            if best[0] >= miss:
                break
            current = best[3]
        return current

    def _exchanges(self, current: IntArray) -> Iterator[IntArray]:
        """Yield what widening one narrowed unit by a step and narrowing another leads to."""
        for wider in np.flatnonzero(current < self.full).tolist():
            given = self._moved(current, wider, self._neighbour(wider, int(current[wider]), -1))
            for unit in range(len(self.full)):
                width = self._neighbour(unit, int(given[unit]), 1)
                if unit != wider and width is not None:
                    yield self._moved(given, unit, width)

    def _miss(self, chosen: IntArray) -> float:
        return abs(self.removed(chosen) - self.target.share)

    def _loss(self, unit: int, width: int) -> float:
        return float(self.lost[unit][self.full[unit] - width])

    def _neighbour(self, unit: int, width: int, direction: int) -> int | None:
        """Return the next allowed width, narrower for direction 1 and wider for -1."""
        allowed = self.allowed[unit].tolist()
        index = allowed.index(width) + direction
        return allowed[index] if 0 <= index < len(allowed) else None

    @staticmethod
    def _moved(chosen: IntArray, unit: int, width: int | None) -> IntArray:
        assert width is not None
        moved = chosen.copy()
        moved[unit] = width
        return moved
