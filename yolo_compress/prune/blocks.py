# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Take whole residual blocks out: x + f(x) without f is the identity, and nothing around it notices.

In a chain the block is simply left out. In C2f and C3k2, whose last convolution reads the output of every block, the
output of a block that is gone equals the one before it, so that the filters for both are added up. Either is exact: the
model without the block computes what the full one computes with the last BatchNorms of f set to zero.

Blocks go one after the other, each time the one that changes the detections least for what it saves, measured by
`bench.response.distance` on unlabelled images, before or after BatchNorm is re-estimated, whichever is less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from yolo_compress.bench.response import OutputWeights, distance
from yolo_compress.errors import UsageError
from yolo_compress.host.detect import Response, responses
from yolo_compress.host.ultralytics import C2PSA, C3, Bottleneck, C2f, C3k, C3k2, PSABlock
from yolo_compress.prune.inputs import Images, Progress
from yolo_compress.prune.repair import reestimate_

RESIDUAL = (Bottleneck, PSABlock)
CHAINS = (C3, C3k, C2PSA)  # their `m` is a chain
CONCATENATED = (C2f, C3k2)  # the output of each entry of their `m` is read at the end


@dataclass(frozen=True)
class BlockRow:
    """A block that was taken out.

    Attributes:
        name: In the model that was given, such as `model.4.m.1`.
        params: Parameters that went with it, filters that read it included.
        output_change: Mean distance of the detections to those of the full model, with all blocks so far gone.
        saving: Share of the targeted cost of the full model that is gone with all blocks so far.
    """

    name: str
    params: int
    output_change: float
    saving: float


@dataclass(frozen=True)
class Shortened:
    """A model without some blocks.

    Attributes:
        origin: Name in the full model of every module that is left, by its name now.
        blocks: What went, in that order.
    """

    model: nn.Module
    origin: Mapping[str, str]
    blocks: tuple[BlockRow, ...]


def residual_blocks(model: nn.Module, *, keep: Sequence[str] = ()) -> list[str]:
    """Return the names of the blocks that can go, in the order of the model.

    Args:
        model: A detection model.
        keep: Modules, by name or prefix at a dot, that stay with all that is in them.
    """
    found = []
    for name, module in model.named_modules():
        if type(module) in (*CHAINS, *CONCATENATED):
            for key, child in module.m.named_children():
                inner = child.named_children() if type(child) is nn.Sequential else [("", child)]
                found += [".".join(filter(None, (name, "m", key, k))) for k, block in inner if _is_residual(block)]
    kept = tuple(f"{wanted}." for wanted in keep)
    return [name for name in found if not f"{name}.".startswith(kept or ("\0",))]


def _is_residual(block: nn.Module) -> bool:
    return type(block) in RESIDUAL and bool(block.add)


def without(model: nn.Module, names: Sequence[str]) -> Shortened:
    """Return a copy of a model without blocks that `residual_blocks` names."""
    result = deepcopy(model)
    before = {id(module): name for name, module in result.named_modules()}
    for name in sorted(names, key=lambda n: [int(part) if part.isdigit() else part for part in n.split(".")])[::-1]:
        holder, _, index = name.rpartition(".")
        chain = result.get_submodule(holder)
        owner = result.get_submodule(holder.rpartition(".")[0])
        if type(owner) in CONCATENATED and chain is owner.m:
            _fold(owner, int(index))
        del chain[int(index)]
    for layer in result.model:
        if hasattr(layer, "np"):  # the parameter count that Ultralytics prints per layer
            layer.np = sum(p.numel() for p in layer.parameters())
    return Shortened(result, {name: before[id(module)] for name, module in result.named_modules()}, ())


def _fold(owner: nn.Module, index: int) -> None:
    """Add the filters that read block `index` to those that read what stands before it."""
    conv, c = owner.cv2.conv, owner.c
    start = (2 + index) * c
    with torch.no_grad():
        weight = conv.weight.detach().clone()
        weight[:, start - c : start] += weight[:, start : start + c]
        left = torch.cat([weight[:, :start], weight[:, start + c :]], 1)
    conv.weight = nn.Parameter(left, requires_grad=conv.weight.requires_grad)
    conv.in_channels = left.shape[1]


def take_blocks(
    model: nn.Module,
    count: int,
    *,
    images: Images,
    weights: OutputWeights,
    saving: Callable[[nn.Module], float],
    keep: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> Shortened:
    """Take the blocks out that change the detections least for what they save.

    Args:
        model: Unfused DetectionModel; only read.
        count: Blocks to take.
        images: Gives (N, 3, H, W) float32 images in 0 to 1.
        weights: Of the terms of the distance.
        saving: Returns the share of the targeted cost that a shorter model saves against `model`.
        keep: Modules that stay.
        progress: Takes a line per block that was tried.

    Raises:
        UsageError: The model has fewer blocks.
    """
    candidates = residual_blocks(model, keep=keep)
    if count > len(candidates):
        listed = f" ({', '.join(candidates)})" if candidates else ""
        advice = f"give blocks={len(candidates)} or less" if candidates else "leave blocks out"
        raise UsageError(f"blocks={count}: this model has {len(candidates)} residual blocks to take{listed}; {advice}")
    batches = [torch.from_numpy(np.ascontiguousarray(batch)) for batch in images()]
    wanted = _seen(model, batches)
    gone: list[str] = []
    rows: list[BlockRow] = []
    size = _size(model)
    while len(gone) < count:
        tried = []
        already = rows[-1].saving if rows else 0.0
        for name in (n for n in candidates if n not in gone):
            shorter = without(model, [*gone, name]).model
            saved = saving(shorter)
            change = _change(wanted, shorter, batches, weights)
            reestimate_(shorter, images())
            change = min(change, _change(wanted, shorter, batches, weights))  # few images can make it worse
            more = saved - already
            tried.append((change / more if more > 0 else math.inf, name, change, saved, _size(shorter)))
            progress(f"prune: without {name} detections change by {change:.3f} for {saved:.3f} of the cost")
        _, name, change, saved, left = min(tried)
        gone.append(name)
        rows.append(BlockRow(name, size - left, change, saved))
        size = left
    made = without(model, gone)
    return Shortened(made.model.eval(), made.origin, tuple(rows))


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _change(
    wanted: Sequence[Sequence[Response]], shorter: nn.Module, batches: Sequence[torch.Tensor], weights: OutputWeights
) -> float:
    with torch.no_grad():
        found = _seen(shorter, batches)
        return float(torch.cat([distance(a, b, weights) for a, b in zip(wanted, found, strict=True)]).mean())


def _seen(model: nn.Module, batches: Sequence[torch.Tensor]) -> list[list[Response]]:
    like, training = next(model.parameters()), model.training
    model.eval()
    try:
        with torch.no_grad():
            return [responses(model, batch.to(like)) for batch in batches]
    finally:
        model.train(training)
