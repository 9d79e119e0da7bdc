# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What narrowing each layer alone would cost and save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from yolo_compress.bench.response import OutputWeights, distance
from yolo_compress.errors import DataError
from yolo_compress.host.detect import Response, responses
from yolo_compress.prune.allocation import Widths, full_widths, plan_at
from yolo_compress.prune.graph import ChannelGraph
from yolo_compress.prune.inputs import FloatArray, Images
from yolo_compress.prune.latency import LayerTimes
from yolo_compress.prune.repair import reestimate_
from yolo_compress.prune.surgery import apply


@dataclass(frozen=True)
class SensitivityRow:
    """One layer, narrowed alone.

    Attributes:
        layer: The convolution whose outputs went, such as `model.4.m.0.cv1`.
        output_change: Mean distance of the detections to those of the full model, by `bench.response.distance`.
        map_drop_points: mAP50-95 below the full model, None where it was not measured.
        ms_saved: By layer times, None without a runtime.
        change_per_saving: `map_drop_points`, or `output_change` without it, per millisecond, or per GFLOP without a
            runtime. What ranks: the lower, the better a layer to prune.
    """

    layer: str
    width_before: int
    width_after: int
    params_saved: int
    gflops_saved: float
    ms_saved: float | None
    output_change: float
    map_drop_points: float | None
    change_per_saving: float


def prune_sensitivity(
    model: nn.Module,
    graph: ChannelGraph,
    scores: FloatArray,
    *,
    share: float,
    widths: Widths,
    images: Images,
    weights: OutputWeights,
    times: LayerTimes | None = None,
    accuracy: Callable[[nn.Module], float] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[SensitivityRow]:
    """Narrow each layer alone by a share, re-estimate BatchNorm, and compare; the cheapest layers first.

    Args:
        model: Unfused DetectionModel; only read.
        graph: Of the model.
        scores: One per channel; say which channels of a layer go.
        share: Share of the layer's channels to take, rounded to an allowed width that is narrower than the full one.
        widths: What widths layers may take.
        images: Gives (N, 3, H, W) float32 images in 0 to 1, for BatchNorm and for the comparison.
        weights: Of the terms of the distance.
        times: Layer times of a runtime.
        accuracy: Returns mAP50-95 as a share.
        progress: Takes a line per layer.

    Raises:
        DataError: There is no image.
    """
    full = model.eval()
    batches = [torch.from_numpy(np.ascontiguousarray(batch)) for batch in images()]
    if not batches:
        raise DataError("sensitivity got no image; give a data YAML with train images")
    wanted = _detections(full, batches)
    widest = full_widths(graph)
    dense = accuracy(full) if accuracy is not None else None
    rows = []
    for index, unit in enumerate(graph.units):
        width = len(graph.groups[unit[0]])
        narrower = widths.allowed(width, graph.together(unit))[1:]
        if not len(narrower):
            continue
        after = int(narrower[np.abs(narrower - (1 - share) * width).argmin()])
        chosen = widest.copy()
        chosen[index] = after
        plan = plan_at(graph, chosen, scores=scores, times=times)
        narrow = apply(full, plan).eval()
        reestimate_(narrow, images())
        change = float(torch.cat(_distances(wanted, _detections(narrow, batches), weights)).mean())
        drop = 100 * (dense - accuracy(narrow)) if accuracy is not None and dense is not None else None
        saved_ms = 1e3 * (plan.seconds_before - plan.seconds_after) if times is not None else None
        gflops = (plan.ops_before - plan.ops_after) / 1e9
        saving = gflops if saved_ms is None else saved_ms
        loss = change if drop is None else drop
        rows.append(
            SensitivityRow(
                layer=_name(graph, unit),
                width_before=width,
                width_after=after,
                params_saved=plan.params_before - plan.params_after,
                gflops_saved=gflops,
                ms_saved=saved_ms,
                output_change=change,
                map_drop_points=drop,
                change_per_saving=loss / saving if saving > 0 else float("inf"),
            )
        )
        progress(f"sensitivity: {rows[-1].layer}, {index + 1} of {len(graph.units)}")
    return sorted(rows, key=lambda row: row.change_per_saving)


def _detections(model: nn.Module, batches: Sequence[torch.Tensor]) -> list[list[Response]]:
    like = next(model.parameters())
    with torch.no_grad():
        return [responses(model, batch.to(like)) for batch in batches]


def _distances(
    wanted: Sequence[Sequence[Response]], found: Sequence[Sequence[Response]], weights: OutputWeights
) -> list[torch.Tensor]:
    with torch.no_grad():
        return [distance(full, narrow, weights) for full, narrow in zip(wanted, found, strict=True)]


def _name(graph: ChannelGraph, unit: tuple[int, ...]) -> str:
    """Return the first convolution that makes the channels of a unit."""
    members = set(graph.groups[unit[0]].tolist())
    return next(conv.layer for conv in graph.convolutions if members & set(conv.outputs.tolist()))
