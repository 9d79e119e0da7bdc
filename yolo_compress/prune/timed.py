# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Meet a latency: plans by layer times, judged by the finished model's time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from yolo_compress.errors import UsageError
from yolo_compress.prune.allocation import (
    Plan,
    Scope,
    Target,
    Widths,
    allocate,
    check_reachable,
    most_removable,
    plan_at,
)
from yolo_compress.prune.graph import ChannelGraph
from yolo_compress.prune.inputs import FloatArray
from yolo_compress.prune.latency import LayerTimes, Timing, measure_layers
from yolo_compress.prune.surgery import apply
from yolo_compress.recipe import PruneSection

LATENCY_TOLERANCE = 0.01  # of the wanted time, below which no further plan is tried
LATENCY_TRIES = 8
NEAR = 0.03  # of the wanted time, within which a measurement is repeated
REPEATS = 2
MARGIN = 1.3  # how much more of the layer times than asked for may have to go before the model meets the target
SHORTEST_STEP = 0.6  # of the last share that the next one may be at least


def timed_plan(
    model: nn.Module,
    graph: ChannelGraph,
    config: PruneSection,
    scores: Callable[[Target, Widths, LayerTimes], tuple[FloatArray, Scope]],
    timing: Timing,
    progress: Callable[[str], None],
) -> tuple[Plan, float]:
    """Find the plan whose finished model takes the wanted share of the time, and say what it was measured to take.

    Layer times tell which channels are worth removing, but their sum is not the model's time. So a plan is made, timed
    as a whole model, and the share that is asked of the layers moved along the line through what two plans gave, until
    the model meets the target.

    Raises:
        UsageError: The target cannot be met.
    """
    assert config.latency is not None
    times = layer_times(model, graph, timing, progress=progress)
    step = config.round_to or times.step
    widths = Widths(step, config.max_share)
    if not config.blocks:
        check_reachable(graph, target=Target("latency", 1 - config.latency), widths=widths, times=times)
    least = 1 - most_removable(graph, kind="latency", widths=widths, times=times)
    whole = timing.ratio(model) if config.blocks else 1.0  # blocks that went are part of what is saved
    tried = [(1.0, whole)]  # share of layer times, and measured share of the full model's time
    asked, best = config.latency / whole, (math.inf, 1.0, None)
    furthest = min(MARGIN * (1 - asked), 1 - least)
    ranked, scope = scores(Target("latency", furthest), widths, times)
    for _ in range(LATENCY_TRIES):
        target = Target("latency", 1 - asked)
        plan = allocate(graph, ranked, target=target, widths=widths, scope=scope, times=times)
        finished = apply(model, plan).eval()
        measured = timing.ratio(finished)
        if abs(measured - config.latency) <= NEAR * config.latency:
            # Of several noisy measurements the one that happens to hit is the one that is off: near the target, a
            # model is built and timed anew, and the median counts.
            measured = float(np.median([measured, *(timing.ratio(finished) for _ in range(REPEATS))]))
        predicted = plan.seconds_after / plan.seconds_before
        progress(f"prune: {predicted:.3f} of the layer times is {measured:.3f} of the model's time")
        miss = abs(measured - config.latency) / config.latency
        if miss < best[0]:
            best = (miss, measured, plan)
        if miss <= LATENCY_TOLERANCE:
            break
        if predicted <= least * (1 + LATENCY_TOLERANCE) and measured > config.latency:
            raise UsageError(
                f"latency={config.latency:g} cannot be met on {config.target}: the narrowest plan takes "
                f"{measured:.3f} of the time; ask for that or more, raise max_share, or lower round_to"
            )
        tried.append((predicted, measured))
        asked = max(_next_share(tried, config.latency), least)
    miss, measured, plan = best
    assert plan is not None
    return plan, measured


def layer_times(
    model: nn.Module, graph: ChannelGraph, timing: Timing, *, progress: Callable[[str], None] = lambda _: None
) -> LayerTimes:
    """Measure what a model's layers take on a runtime at any widths."""
    return measure_layers(graph, timing, lambda chosen: apply(model, plan_at(graph, chosen)).eval(), progress=progress)


def _next_share(tried: Sequence[tuple[float, float]], wanted: float) -> float:
    """Return the share of layer times that the two nearest tries point to, by a straight line through them."""
    (p, m), (q, n) = sorted(tried, key=lambda pair: abs(pair[1] - wanted))[:2]
    flat = abs(m - n) < 1e-6 or abs(p - q) < 1e-6
    share = p * wanted / m if flat else p + (wanted - m) * (p - q) / (m - n)
    return min(max(share, p * SHORTEST_STEP), 0.99)  # a line through two noisy points may point anywhere
