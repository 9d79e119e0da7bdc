# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Channel pruning: a smaller model of the same stock classes, from a trained one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import nn

from yolo_compress.errors import UsageError
from yolo_compress.prune.allocation import (
    TOLERANCE as BUDGET_TOLERANCE,
)
from yolo_compress.prune.allocation import (
    Plan,
    Target,
    Widths,
    allocate,
    check_reachable,
    full_widths,
    most_removable,
    plan_at,
)
from yolo_compress.prune.blocks import BlockRow, Shortened, residual_blocks, take_blocks, without
from yolo_compress.prune.cost import CostModel
from yolo_compress.prune.graph import ChannelGraph, build_graph
from yolo_compress.prune.importance import IMPORTANCES, Importance, normalised
from yolo_compress.prune.inputs import FloatArray, Images, Inputs, Labelled, OutputWeights
from yolo_compress.prune.latency import LayerTimes, Timing, measure_layers
from yolo_compress.prune.reconstruct import reconstruct_
from yolo_compress.prune.repair import reestimate_
from yolo_compress.prune.surgery import apply
from yolo_compress.prune.trace import Convolution
from yolo_compress.prune.verify import mask, unfold
from yolo_compress.prune.weights import Masks, apply_masks_, compressed_bytes, find_masks, zero_share
from yolo_compress.recipe import PRUNE_TARGETS, PruneSection

__all__ = (
    "IMPORTANCES",
    "BlockRow",
    "ChannelGraph",
    "Importance",
    "Inputs",
    "LayerRow",
    "Masks",
    "OutputWeights",
    "Plan",
    "PruneResult",
    "Target",
    "Timing",
    "Widths",
    "allocate",
    "apply",
    "apply_masks_",
    "build_graph",
    "check_reachable",
    "compressed_bytes",
    "layer_times",
    "mask",
    "mask_weights_",
    "normalised",
    "prune",
    "reconstruct_",
    "reestimate_",
    "repair_",
    "residual_blocks",
    "set_masks_",
    "take_blocks",
    "unfold",
    "without",
    "zero_share",
)

PROGRESS_SECONDS = 5.0
NOTHING = np.empty(0, dtype=np.int64)  # widths of no unit: everything is whole
ROUND_TO = 8
LATENCY_TOLERANCE = 0.01  # of the wanted time, below which no further plan is tried
LATENCY_TRIES = 8
NEAR = 0.03  # of the wanted time, within which a measurement is repeated
REPEATS = 2
SHORTEST_STEP = 0.6  # of the last share that the next one may be at least


@dataclass(frozen=True)
class LayerRow:
    """What happened to the outputs of one convolution.

    Attributes:
        name: The layer, such as `model.4.m.0.cv1`.
        params_before: Parameters of the convolution and of the BatchNorm behind it.
        score_kept_share: Share of the outputs' importance that the kept ones hold.
        why: Why it was pruned or kept.
    """

    name: str
    width_before: int
    width_after: int
    params_before: int
    params_after: int
    score_kept_share: float
    why: str


@dataclass(frozen=True)
class PruneResult:
    """A pruned model and what was done; operations count two per multiply-accumulate, unfused, at `imgsz` pixels.

    Attributes:
        latency: Measured share of the full model's time on the target, None without a latency target.
        blocks: Whole blocks that went before channels did; `plan` and `layers` speak of the model without them.
        masks: Which single weights stay, by parameter name; empty without a mask.
    """

    model: nn.Module
    plan: Plan
    layers: tuple[LayerRow, ...]
    params_before: int
    params_after: int
    gflops_before: float
    gflops_after: float
    imgsz: int
    settings: dict[str, Any]
    graph_seconds: float
    seconds: float
    notes: tuple[str, ...]
    latency: float | None = None
    blocks: tuple[BlockRow, ...] = ()
    masks: Masks = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return what was done in builtin types, without times, so that the same work leaves the same facts."""
        return {
            "settings": dict(self.settings),
            "params_before": self.params_before,
            "params_after": self.params_after,
            "gflops_before": self.gflops_before,
            "gflops_after": self.gflops_after,
            "imgsz": self.imgsz,
            "blocks": [asdict(row) for row in self.blocks],
            "layers": [asdict(row) for row in self.layers],
            "zero_share": zero_share(self.masks),
            "notes": list(self.notes),
        }


def prune(
    model: nn.Module,
    *,
    config: PruneSection,
    imgsz: int,
    loss_batches: Labelled | None = None,
    image_batches: Images | None = None,
    timing: Timing | None = None,
    progress: Callable[[str], None] | None = None,
) -> PruneResult:
    """Return a narrower copy of a trained detection model; the same input gives the same result.

    Args:
        model: An unfused DetectionModel; left as it is.
        config: Target, importance and limits.
        imgsz: Image side in pixels that operations are counted at.
        loss_batches: Gives labelled batches in the form of `host.data.labelled_batches`; needed by scores of the loss.
        image_batches: Gives (N, 3, H, W) float32 images in 0 to 1; needed by scores of the output and by repair.
        timing: The runtime that a `latency` target refers to.
        progress: Called with a line now and then.

    Raises:
        UsageError: The target cannot be reached, a name in `keep` is unknown, or images that the settings need are
            not given.
        UnsupportedModel: The model is fused or cannot be traced.
        DataError: Images or labels are needed and there are none.
    """
    start = time.perf_counter()
    say = _seldom(progress)
    entry = IMPORTANCES[config.importance]
    channels = any(getattr(config, name) is not None for name in PRUNE_TARGETS)
    if channels and entry.needs == "labels" and loss_batches is None:
        raise UsageError(f"importance={entry.name} needs labelled images; give data=, or importance=l2")
    if channels and entry.needs == "images" and image_batches is None:
        raise UsageError(f"importance={entry.name} needs images; give data=, or importance=l2")
    if config.blocks and image_batches is None:
        raise UsageError(f"blocks={config.blocks} needs images to tell which ones; give data=, or leave blocks out")
    if config.repair != "nothing" and image_batches is None:
        raise UsageError(f"repair={config.repair} needs images; give data=, or repair=nothing")
    if config.latency is not None and timing is None:
        raise UsageError(f"latency={config.latency:g} needs a runtime to time on; give target=, such as openvino:int8")
    graph = build_graph(model, imgsz=imgsz, keep=config.keep)
    graph_seconds = time.perf_counter() - start
    params_before, ops_before = CostModel(graph)((), NOTHING)
    inputs = Inputs(labelled=loss_batches, images=image_batches, weights=OutputWeights(**config.output_weights))
    cost = _cost_of(config, imgsz, timing)
    shortened = Shortened(model, {}, ())
    if config.blocks:
        assert image_batches is not None
        full_cost = cost(model)
        shortened = take_blocks(
            model,
            config.blocks,
            images=image_batches,
            weights=inputs.weights,
            saving=lambda shorter: 1 - cost(shorter) / full_cost,
            keep=config.keep,
            progress=say,
        )
        kept = [name for name, before in shortened.origin.items() if before in config.keep]
        graph = build_graph(shortened.model, imgsz=imgsz, keep=kept)
    short = shortened.model

    def scores() -> FloatArray:
        return normalised(entry.function(short, graph, inputs, say), graph, additive=entry.additive)

    notes = [*graph.notes, *(f"taken out whole: {row.name}" for row in shortened.blocks)]
    latency: float | None = None
    wanted = _rest(config, shortened.blocks)
    if wanted is None:
        plan = plan_at(graph, full_widths(graph))
    elif config.latency is not None and timing is not None:
        plan, latency = _timed_plan(short, graph, config, scores, timing, say)
        notes.append(
            f"measured on {config.target}: {latency:.3f} of the time (asked for {config.latency:g}), "
            f"widths in steps of {plan.round_to}"
        )
    else:
        widths = Widths(config.round_to or ROUND_TO, config.max_share)
        check_reachable(graph, target=wanted, widths=widths)
        plan = allocate(graph, scores(), target=wanted, widths=widths, scope=config.scope)
    notes += plan.notes
    pruned = apply(short, plan).eval()
    if image_batches is not None:
        given = {"kind": config.repair, "origin": shortened.origin, "progress": say}
        notes += repair_(pruned, model, plan, image_batches(), **given)
    assert sum(p.numel() for p in pruned.parameters()) == plan.params_after
    masks, told = mask_weights_(pruned, config, inputs, imgsz=imgsz, progress=say)
    notes += told
    return PruneResult(
        model=pruned,
        plan=plan,
        layers=tuple(_row(conv, plan, shortened.origin) for conv in graph.convolutions),
        params_before=params_before,
        params_after=plan.params_after,
        gflops_before=ops_before / 1e9,
        gflops_after=plan.ops_after / 1e9,
        imgsz=imgsz,
        settings=config.model_dump(mode="json"),
        graph_seconds=graph_seconds,
        seconds=time.perf_counter() - start,
        notes=tuple(notes),
        latency=latency,
        blocks=shortened.blocks,
        masks=masks,
    )


def mask_weights_(
    model: nn.Module,
    config: PruneSection,
    inputs: Inputs,
    *,
    imgsz: int,
    level: float = 1.0,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Masks, list[str]]:
    """Set single weights of a model to zero in place, repair the rest, and return the masks and what was done.

    Args:
        model: Unfused, in eval mode.
        config: Pattern, share, score and repair; nothing is done without a mask.
        inputs: Images, for scores by gradient and for repair.
        imgsz: Image side in pixels that the graph is built at.
        level: Share of `mask_share` to go to; below 1 a 2:4 mask is not set yet.
        progress: Takes a line now and then.

    Raises:
        UsageError: Nothing can be masked, or images are needed and not given.
    """
    if config.mask == "nothing" or (config.mask == "2:4" and level < 1):
        return {}, []
    if config.mask_importance == "gradient" and inputs.images is None:
        raise UsageError("mask_importance=gradient needs images; give data=, or mask_importance=magnitude")
    graph = build_graph(model, imgsz=imgsz)
    share = {"pattern": config.mask, "share": level * config.mask_share, "importance": config.mask_importance}
    masks = find_masks(model, graph, **share, inputs=inputs, progress=progress)
    before = compressed_bytes(model)
    set_masks_(model, masks, kind=config.repair, images=inputs.images, imgsz=imgsz, progress=progress)
    after, total = compressed_bytes(model), sum(kept.numel() for kept in masks.values())
    return masks, [
        f"{100 * zero_share(masks):.1f} % of {total:,} weights are zero (mask={config.mask}): {after / 1e6:.2f} MB "
        f"compressed in half precision, {before / 1e6:.2f} MB without the mask"
    ]


def set_masks_(
    model: nn.Module,
    masks: Masks,
    *,
    kind: str,
    images: Images | None,
    imgsz: int,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Set masked weights to zero in place and repair, towards what the model was before; in eval mode afterwards.

    Args:
        model: Unfused.
        masks: Which weights stay.
        kind: `reconstruct`, `batchnorm` or `nothing`.
        images: Give batches for repair; without them there is none.
        imgsz: Image side in pixels that the graph is built at.
        progress: Takes a line now and then.
    """
    before = deepcopy(model)
    apply_masks_(model, masks)
    model.eval()
    if images is not None and masks and kind != "nothing":
        graph = build_graph(before, imgsz=imgsz)
        if kind == "reconstruct":
            whole = plan_at(graph, full_widths(graph))
            reconstruct_(model, before, whole, images(), masks=masks, progress=progress)
        else:
            reestimate_(model, images(), progress=progress)


def _cost_of(config: PruneSection, imgsz: int, timing: Timing | None) -> Callable[[nn.Module], float]:
    """Return what measures a model in the terms of the target; operations where there is none."""
    if config.latency is not None and timing is not None:
        return timing.ratio
    which = 0 if config.ratio is not None else 1
    return lambda model: float(CostModel(build_graph(model, imgsz=imgsz))((), NOTHING)[which])


def _rest(config: PruneSection, blocks: Sequence[BlockRow]) -> Target | None:
    """Return what channels have to remove of the model without the blocks, or None where nothing is left to do.

    Raises:
        UsageError: The blocks alone remove more than is asked for.
    """
    kind = next((name for name in PRUNE_TARGETS if getattr(config, name) is not None), None)
    if kind is None:
        return None
    asked = float(getattr(config, kind))
    share = 1 - asked if kind == "latency" else asked
    gone = blocks[-1].saving if blocks else 0.0
    if gone > share * (1 + BUDGET_TOLERANCE):
        within = sum(row.saving <= share for row in blocks)
        reached = f"{1 - gone:.3f} of the time" if kind == "latency" else f"{gone:.3f} of the cost"
        raise UsageError(
            f"blocks={len(blocks)} alone leads to {reached}, past {kind}={asked:g}; give blocks={within}, or ask "
            "for more"
        )
    if blocks and gone >= share * (1 - BUDGET_TOLERANCE):
        return None
    return Target(kind, 1 - (1 - share) / (1 - gone))


def repair_(
    pruned: nn.Module,
    full: nn.Module,
    plan: Plan,
    batches: Iterable[np.ndarray],
    *,
    kind: str,
    origin: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Repair a pruned model in place, without training, and say what was done.

    Args:
        pruned: What surgery made of `full`; in eval mode afterwards.
        full: The model before.
        plan: What was removed.
        batches: (N, 3, H, W) float32 in 0 to 1.
        kind: `reconstruct`, `batchnorm` or `nothing`.
        origin: Names in `full` by names in `pruned`, where blocks were taken out as well.
        progress: Takes a line now and then.

    Raises:
        DataError: There is not one batch.
    """
    if kind == "batchnorm":
        return [f"BatchNorm statistics re-estimated on {reestimate_(pruned, batches, progress=progress)} images"]
    if kind == "reconstruct":
        count = reconstruct_(pruned, full, plan, batches, origin=origin, progress=progress)
        return [f"layers reconstructed on {count} images"]
    return []


def _timed_plan(
    model: nn.Module,
    graph: ChannelGraph,
    config: PruneSection,
    scores: Callable[[], FloatArray],
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
    ranked = scores()
    whole = timing.ratio(model) if config.blocks else 1.0  # blocks that went are part of what is saved
    tried = [(1.0, whole)]  # share of layer times, and measured share of the full model's time
    asked, best = config.latency / whole, (math.inf, 1.0, None)
    for _ in range(LATENCY_TRIES):
        target = Target("latency", 1 - asked)
        plan = allocate(graph, ranked, target=target, widths=widths, scope=config.scope, times=times)
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


def _row(conv: Convolution, plan: Plan, origin: Mapping[str, str]) -> LayerRow:
    kept = plan.kept[conv.outputs]
    total = float(plan.scores[conv.outputs].sum())
    reasons = [plan.graph.frozen[c] for c in conv.outputs.tolist() if c in plan.graph.frozen]
    if not kept.all():
        why = "pruned"
    elif len(reasons) == len(kept):
        why = reasons[0]
    else:
        why = "full width is the nearest that rounding and the target allow"
    return LayerRow(
        name=origin.get(conv.layer, conv.layer),
        width_before=len(kept),
        width_after=int(kept.sum()),
        params_before=_params(conv, len(conv.inputs), len(kept)),
        params_after=_params(conv, int(plan.kept[conv.inputs].sum()), int(kept.sum())),
        score_kept_share=float(plan.scores[conv.outputs][kept].sum()) / total if total else 1.0,
        why=why,
    )


def _params(conv: Convolution, inputs: int, outputs: int) -> int:
    per_filter = 1 if conv.depthwise else inputs // conv.groups
    return outputs * (conv.area * per_filter + conv.bias + (2 if conv.norm else 0))


def _seldom(progress: Callable[[str], None] | None) -> Callable[[str], None]:
    """Pass lines on, but at most one every few seconds."""
    last = 0.0

    def say(line: str) -> None:
        nonlocal last
        if progress is not None and time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            progress(line)

    return say
