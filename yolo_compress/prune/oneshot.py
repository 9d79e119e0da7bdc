# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Prune a model once: blocks, then channels, then single weights, each repaired."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from yolo_compress.bench.response import OutputWeights
from yolo_compress.errors import UsageError
from yolo_compress.prune.allocation import (
    TOLERANCE,
    Plan,
    Scope,
    Target,
    Widths,
    allocate,
    check_reachable,
    full_widths,
    plan_at,
)
from yolo_compress.prune.blocks import BlockRow, Shortened, take_blocks
from yolo_compress.prune.cost import CostModel
from yolo_compress.prune.graph import build_graph
from yolo_compress.prune.greedy import removal_steps
from yolo_compress.prune.importance import IMPORTANCES, normalised
from yolo_compress.prune.inputs import FloatArray, Images, Inputs, Labelled
from yolo_compress.prune.latency import LayerTimes, Timing
from yolo_compress.prune.repair import repair_
from yolo_compress.prune.surgery import apply
from yolo_compress.prune.timed import timed_plan
from yolo_compress.prune.trace import Convolution
from yolo_compress.prune.weights import Masks, mask_weights_, zero_share
from yolo_compress.recipe import PRUNE_TARGETS, PruneSection

PROGRESS_SECONDS = 5.0
ROUND_TO = 8


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
    params_before, ops_before = CostModel(graph).whole()
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

    alone: FloatArray | None = None  # what each channel costs alone, where the plan ranks steps

    def scores(target: Target, widths: Widths, times: LayerTimes | None) -> tuple[FloatArray, Scope]:
        if config.importance == "obs" and config.scope == "budget":
            nonlocal alone
            options = {"target": target, "widths": widths, "times": times, "progress": say}
            steps, alone = removal_steps(short, graph, inputs, **options)
            return steps, "steps"
        return normalised(entry.function(short, graph, inputs, say), graph, additive=entry.additive), config.scope

    notes = [*graph.notes, *(f"taken out whole: {row.name}" for row in shortened.blocks)]
    latency: float | None = None
    wanted = _rest(config, shortened.blocks)
    if wanted is None:
        plan = plan_at(graph, full_widths(graph))
    elif config.latency is not None and timing is not None:
        plan, latency = timed_plan(short, graph, config, scores, timing, say)
        notes.append(
            f"measured on {config.target}: {latency:.3f} of the time (asked for {config.latency:g}), "
            f"widths in steps of {plan.round_to}"
        )
    else:
        widths = Widths(config.round_to or ROUND_TO, config.max_share)
        check_reachable(graph, target=wanted, widths=widths)
        ranked, scope = scores(wanted, widths, None)
        plan = allocate(graph, ranked, target=wanted, widths=widths, scope=scope)
    plan = plan if alone is None else replace(plan, scores=alone)
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


def _cost_of(config: PruneSection, imgsz: int, timing: Timing | None) -> Callable[[nn.Module], float]:
    """Return what measures a model in the terms of the target; operations where there is none."""
    if config.latency is not None and timing is not None:
        return timing.ratio
    which = 0 if config.ratio is not None else 1
    return lambda model: float(CostModel(build_graph(model, imgsz=imgsz)).whole()[which])


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
    if gone > share * (1 + TOLERANCE):
        within = sum(row.saving <= share for row in blocks)
        reached = f"{1 - gone:.3f} of the time" if kind == "latency" else f"{gone:.3f} of the cost"
        raise UsageError(
            f"blocks={len(blocks)} alone leads to {reached}, past {kind}={asked:g}; give blocks={within}, or ask "
            "for more"
        )
    if blocks and gone >= share * (1 - TOLERANCE):
        return None
    return Target(kind, 1 - (1 - share) / (1 - gone))


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
