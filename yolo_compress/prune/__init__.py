# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Channel pruning: a smaller model of the same stock classes, from a trained one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from yolo_compress.errors import UsageError
from yolo_compress.prune.allocation import Plan, Target, Widths, allocate, check_reachable
from yolo_compress.prune.graph import ChannelGraph, build_graph
from yolo_compress.prune.importance import IMPORTANCES, Importance, normalised
from yolo_compress.prune.repair import reestimate_
from yolo_compress.prune.surgery import apply
from yolo_compress.prune.trace import Convolution
from yolo_compress.prune.verify import mask, unfold
from yolo_compress.recipe import PruneSection

__all__ = (
    "IMPORTANCES",
    "ChannelGraph",
    "Importance",
    "LayerRow",
    "Plan",
    "PruneResult",
    "Target",
    "Widths",
    "allocate",
    "apply",
    "build_graph",
    "check_reachable",
    "mask",
    "normalised",
    "prune",
    "reestimate_",
    "unfold",
)

PROGRESS_SECONDS = 5.0


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
    """A pruned model and what was done; operations count two per multiply-accumulate, unfused, at `imgsz` pixels."""

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

    def facts(self) -> dict[str, Any]:
        """Return what was done in builtin types, without times, so that the same work leaves the same facts."""
        return {
            "settings": dict(self.settings),
            "params_before": self.params_before,
            "params_after": self.params_after,
            "gflops_before": self.gflops_before,
            "gflops_after": self.gflops_after,
            "imgsz": self.imgsz,
            "layers": [asdict(row) for row in self.layers],
            "notes": list(self.notes),
        }


def prune(
    model: nn.Module,
    *,
    config: PruneSection,
    imgsz: int,
    loss_batches: Callable[[], Iterable[dict[str, torch.Tensor]]] | None = None,
    image_batches: Callable[[], Iterable[np.ndarray]] | None = None,
    progress: Callable[[str], None] | None = None,
) -> PruneResult:
    """Return a narrower copy of a trained detection model; the same input gives the same result.

    Args:
        model: An unfused DetectionModel; left as it is.
        config: Target, importance and limits.
        imgsz: Image side in pixels that operations are counted at.
        loss_batches: Gives labelled batches in the form of `host.data.labelled_batches`; needed by `taylor`.
        image_batches: Gives (N, 3, H, W) float32 images in 0 to 1; needed by `reestimate`.
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
    if entry.needs_labels and loss_batches is None:
        raise UsageError(f"importance={entry.name} needs labelled images; give data=, or importance=l2")
    if config.reestimate and image_batches is None:
        raise UsageError("reestimate=True needs images; give data=, or reestimate=False")
    graph = build_graph(model, imgsz=imgsz, keep=config.keep)
    graph_seconds = time.perf_counter() - start
    target = Target("ratio", config.ratio) if config.ratio is not None else Target("flops", float(config.flops or 0))
    widths = Widths(config.round_to, config.max_share)
    check_reachable(graph, target=target, widths=widths)
    scores = normalised(entry.function(model, graph, loss_batches, say), graph)
    plan = allocate(graph, scores, target=target, widths=widths, scope=config.scope)
    pruned = apply(model, plan).eval()
    notes = [*graph.notes, *plan.notes]
    if config.reestimate and image_batches is not None:
        images = reestimate_(pruned, image_batches(), progress=say)
        notes.append(f"BatchNorm statistics re-estimated on {images} images")
    assert sum(p.numel() for p in pruned.parameters()) == plan.params_after
    return PruneResult(
        model=pruned,
        plan=plan,
        layers=tuple(_row(conv, plan) for conv in graph.convolutions),
        params_before=plan.params_before,
        params_after=plan.params_after,
        gflops_before=plan.ops_before / 1e9,
        gflops_after=plan.ops_after / 1e9,
        imgsz=imgsz,
        settings=config.model_dump(mode="json"),
        graph_seconds=graph_seconds,
        seconds=time.perf_counter() - start,
        notes=tuple(notes),
    )


def _row(conv: Convolution, plan: Plan) -> LayerRow:
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
        name=conv.layer,
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
