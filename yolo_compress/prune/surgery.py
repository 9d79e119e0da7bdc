# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Cut a model to a plan, inside the stock Ultralytics classes that it is made of."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from yolo_compress.prune.allocation import Plan
from yolo_compress.prune.trace import Convolution, IntArray


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy of a model without the channels that the plan drops.

    Blocks keep their classes: only tensors, and the widths that modules state about themselves, become smaller. So the
    result pickles without this package, and stock Ultralytics runs it. `model.yaml` still describes the full widths.
    """
    result = deepcopy(model)
    modules = dict(result.named_modules())
    graph = plan.graph
    for conv in graph.convolutions:
        _cut_convolution(modules[conv.name], plan, conv)
    for norm in graph.norms:
        _cut_norm(modules[norm.name], _index(plan, norm.channels))
    for item in graph.attributes:
        setattr(modules[item.module], item.attribute, len(plan.positions(item.channels)))
    for layer in result.model:
        if hasattr(layer, "np"):  # the parameter count that Ultralytics prints per layer
            layer.np = sum(p.numel() for p in layer.parameters())
    return result


def _cut_convolution(module: nn.Conv2d, plan: Plan, conv: Convolution) -> None:
    rows, columns = _index(plan, conv.outputs), _index(plan, conv.inputs)
    _replace(module, "weight", module.weight[rows] if module.groups > 1 else module.weight[rows][:, columns])
    if module.bias is not None:
        _replace(module, "bias", module.bias[rows])
    module.out_channels, module.in_channels = len(rows), len(columns)
    if conv.depthwise:
        module.groups = len(rows)


def _cut_norm(norm: nn.BatchNorm2d, rows: torch.Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(norm, name) is not None:
            _replace(norm, name, getattr(norm, name)[rows])
    norm.num_features = len(rows)


def _index(plan: Plan, channels: IntArray) -> torch.Tensor:
    return torch.from_numpy(plan.positions(channels))


def _replace(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Put a smaller tensor in the place of a parameter or buffer, with its requires_grad."""
    old = getattr(module, name)
    new = value.detach().clone()
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new)
