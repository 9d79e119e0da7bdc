# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Two other ways to build a pruned model, which surgery must agree with."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from yolo_compress.host.ultralytics import C2PSA, C2f, C3k2, Conv
from yolo_compress.prune.allocation import Plan


def mask(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy at full width whose dropped channels are zero: BatchNorm weight and bias are 0 there.

    Where no BatchNorm follows a convolution, its filters and biases are zeroed instead.
    """
    result = deepcopy(model)
    modules = dict(result.named_modules())
    places = [(norm.name, norm.channels) for norm in plan.graph.norms]
    places += [(conv.name, conv.outputs) for conv in plan.graph.convolutions if conv.norm is None]
    with torch.no_grad():
        for name, channels in places:
            dropped = torch.from_numpy(~plan.kept[channels])
            for tensor in (modules[name].weight, modules[name].bias):
                if tensor is not None:
                    tensor[dropped] = 0
    return result


def unfold(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a pruned copy in which every chunked convolution is two convolutions, one per half.

    There each half keeps its own channels by construction, so that nothing depends on the position of the cut: what
    the stock form, with one convolution and an equal chunk, has to reproduce.
    """
    result = deepcopy(model)
    modules = dict(result.named_modules())
    for conv in plan.graph.convolutions:
        rows, columns = plan.positions(conv.outputs), plan.positions(conv.inputs)
        module = modules[conv.name]
        module.weight.data = module.weight.data[rows]
        if conv.depthwise:
            module.groups = len(rows)
        elif conv.groups == 1:
            module.weight.data = module.weight.data[:, columns]
        if conv.bias:
            module.bias.data = module.bias.data[rows]
    for norm in plan.graph.norms:
        rows = plan.positions(norm.channels)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(modules[norm.name], name).data = getattr(modules[norm.name], name).data[rows]
    for item in plan.graph.attributes:
        setattr(modules[item.module], item.attribute, len(plan.positions(item.channels)))
    outputs = {conv.name: conv.outputs for conv in plan.graph.convolutions}
    for name, block in modules.items():
        if isinstance(block, C2f | C3k2 | C2PSA):
            kept = plan.kept[outputs[f"{name}.cv1.conv"]]
            parent, _, key = name.rpartition(".")
            setattr(modules[parent], key, _TwoConvolutions(block, int(kept[: len(kept) // 2].sum())))
    return result


class _TwoConvolutions(nn.Module):
    """C2f, C3k2 or C2PSA with a convolution for each half instead of a chunk."""

    def __init__(self, block: nn.Module, first: int) -> None:
        super().__init__()
        self.i, self.f, self.chain = getattr(block, "i", None), getattr(block, "f", None), isinstance(block, C2f)
        self.first, self.second = _part(block.cv1, slice(None, first)), _part(block.cv1, slice(first, None))
        self.m, self.cv2 = block.m, block.cv2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute both halves on their own, then as the stock block does."""
        parts = [self.first(x), self.second(x)]
        if self.chain:
            for block in self.m:
                parts.append(block(parts[-1]))
        else:
            parts[1] = self.m(parts[1])
        return self.cv2(torch.cat(parts, 1))


def _part(conv: Conv, rows: slice) -> Conv:
    part = deepcopy(conv)
    part.conv.weight.data = part.conv.weight.data[rows]
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(part.bn, name).data = getattr(part.bn, name).data[rows]
    return part
