# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Masks over single weights: shapes stay, and chosen weights are zero.

`unstructured` takes the weights that score lowest anywhere. `2:4` takes the two that score lower of every four in a row
along the input channels, the pattern that sparse tensor cores compute on (Mishra et al., "Accelerating Sparse Deep
Neural Networks", 2021). Scores:

* `magnitude`: w^2 over the sum of the squares of all weights of the layer that are not smaller, so that layers compare
  (LAMP; Lee et al., "Layer-Adaptive Sparsity for the Magnitude-based Pruning", 2021);
* `gradient`: w^2 / 2 times the diagonal of the Hessian of the distance between detections with and without the mask, by
  the `probe` of `output.py`: what zeroing the weight changes, to second order. Label-free.

The first convolution, depthwise ones, and the last ones of the head stay dense: they hold few weights and many say
something that no other weight does.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Literal

import torch
from torch import nn

from yolo_compress.artifacts import MEGABYTE
from yolo_compress.errors import UsageError
from yolo_compress.host.detect import responses
from yolo_compress.prune.allocation import full_widths, plan_at
from yolo_compress.prune.graph import ChannelGraph, build_graph
from yolo_compress.prune.inputs import Images, Inputs, Progress
from yolo_compress.prune.output import probe
from yolo_compress.prune.reconstruct import reconstruct_
from yolo_compress.prune.repair import reestimate_
from yolo_compress.recipe import PruneSection

Pattern = Literal["unstructured", "2:4"]
Masks = dict[str, torch.Tensor]  # by parameter name, True where a weight stays

OF = 4  # weights of a row that `2:4` looks at, of which half stay


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
    without, left = before / MEGABYTE, after / MEGABYTE
    return masks, [
        f"{100 * zero_share(masks):.1f} % of {total:,} weights are zero (mask={config.mask}): {left:.2f} MB "
        f"compressed in half precision, {without:.2f} MB without the mask"
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


def maskable(graph: ChannelGraph, pattern: Pattern) -> list[str]:
    """Return the names of the convolutions whose weights may be masked."""
    first = graph.convolutions[0].name
    return [
        conv.name
        for conv in graph.convolutions
        if not conv.depthwise
        and conv.groups == 1
        and conv.name != first
        and not (conv.norm is None and all(channel in graph.frozen for channel in conv.outputs.tolist()))
        and (pattern != "2:4" or len(conv.inputs) % OF == 0)
    ]


def find_masks(
    model: nn.Module,
    graph: ChannelGraph,
    *,
    pattern: Pattern,
    share: float,
    importance: Literal["magnitude", "gradient"],
    inputs: Inputs,
    progress: Progress = lambda _: None,
) -> Masks:
    """Choose which weights stay; the model is only read.

    Args:
        model: Unfused DetectionModel.
        graph: Of the model.
        pattern: What sets of weights may go.
        share: Share of the maskable weights that go, in (0, 1); a `2:4` mask always takes half.
        importance: Score of a weight.
        inputs: Images, for `gradient`.
        progress: Takes a line now and then.

    Raises:
        UsageError: No layer can be masked.
        DataError: `gradient` got no image.
    """
    names = maskable(graph, pattern)
    if not names:
        raise UsageError(f"mask={pattern} finds no layer to mask in this model; give mask=unstructured or leave it out")
    squares = {name: model.get_submodule(name).weight.detach().double().square().cpu() for name in names}
    if importance == "gradient":
        curvature = _curvature(model, names, inputs, progress)
        scores = {name: square * curvature[name] / 2 for name, square in squares.items()}
    else:
        scores = {name: lamp(square) for name, square in squares.items()}
    if pattern == "2:4":
        return {f"{name}.weight": two_of_four(score) for name, score in scores.items()}
    flat = torch.cat([score.flatten() for score in scores.values()])
    gone = round(share * len(flat))
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[torch.argsort(flat, stable=True)[:gone]] = False
    parts = kept.split([score.numel() for score in scores.values()])
    return {
        f"{name}.weight": part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def lamp(squares: torch.Tensor) -> torch.Tensor:
    """Return each square over the sum of all that are not smaller, in the same shape."""
    flat = squares.flatten()
    order = torch.argsort(flat, stable=True)
    left = flat[order].flip(0).cumsum(0).flip(0)
    scores = torch.zeros_like(flat)
    scores[order] = torch.where(left > 0, flat[order] / left, 0.0)
    return scores.reshape(squares.shape)


def two_of_four(scores: torch.Tensor) -> torch.Tensor:
    """Return a mask that keeps the better two of every four inputs in a row, for weights (out, in, kh, kw)."""
    out, inputs, *kernel = scores.shape
    rows = scores.reshape(out, inputs // OF, OF, *kernel)
    best = rows.argsort(dim=2, descending=True, stable=True)[:, :, : OF // 2]
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(2, best, True).reshape(scores.shape)


def apply_masks_(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> None:
    """Set masked weights to zero, in place."""
    if masks:
        with torch.no_grad():
            for name, mask in masks.items():
                weight = model.get_parameter(name)
                weight.mul_(mask.to(weight.device, weight.dtype))


def zero_share(masks: Mapping[str, torch.Tensor]) -> float:
    """Return the share of the maskable weights that masks set to zero."""
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / total if total else 0.0


def compressed_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's tensors in half precision behind a general compressor (deflate, level 9).

    What masks save on disk or on the way to a device; in memory, and for a runtime that knows no sparsity, a masked
    model is as large and as slow as a dense one.
    """
    stream = io.BytesIO()
    for value in model.state_dict().values():
        tensor = value.detach().cpu()
        stream.write((tensor.half() if tensor.is_floating_point() else tensor).contiguous().numpy().tobytes())
    return len(zlib.compress(stream.getvalue(), 9))


def _curvature(model: nn.Module, names: list[str], inputs: Inputs, progress: Progress) -> dict[str, torch.Tensor]:
    """Return the diagonal of the Hessian of the distance by weight, summed over images, estimated by random signs.

    Each batch draws its signs anew, so that products of different outputs, and of different images, cancel.
    """
    twin = deepcopy(model).eval().requires_grad_(False)
    weights = [twin.get_submodule(name).weight.requires_grad_() for name in names]
    signs = torch.Generator(device=weights[0].device).manual_seed(inputs.seed)
    sums = [torch.zeros_like(weight, dtype=torch.float64, device="cpu") for weight in weights]
    count = 0
    for images in inputs.pictures("gradient", weights[0]):
        objective = probe(responses(twin, images), inputs.weights, signs)
        for total, gradient in zip(sums, torch.autograd.grad(objective, weights, allow_unused=True), strict=True):
            if gradient is not None:
                total += gradient.square().double().cpu()
        count += len(images)
        progress(f"prune: what single weights do, on {count} images")
    return dict(zip(names, sums, strict=True))
