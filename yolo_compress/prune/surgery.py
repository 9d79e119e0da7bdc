# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Cut a model to a plan, inside the stock Ultralytics classes that it is made of."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from yolo_compress.prune.allocation import Plan
from yolo_compress.prune.trace import IntArray

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Cut:
    """Which rows, and for a convolution's weight which columns, of a tensor stay."""

    rows: torch.Tensor
    columns: torch.Tensor | None = None

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        """Return the part that stays, as a tensor of its own."""
        kept = value.detach()[self.rows.to(value.device)]
        return kept.clone() if self.columns is None else kept[:, self.columns.to(value.device)].clone()


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy of a model without the channels that the plan drops.

    Blocks keep their classes: only tensors, and the widths that modules state about themselves, become smaller. So the
    result pickles without this package, and stock Ultralytics runs it. `model.yaml` still describes the full widths.
    """
    result = deepcopy(model)
    apply_(result, plan)
    return result


def apply_(model: nn.Module, plan: Plan) -> None:
    """Do in place what `apply` does on a copy: modules stay the same objects, parameters become new ones."""
    modules = dict(model.named_modules())
    graph = plan.graph
    for name, cut in cuts(plan).items():
        module, _, tensor = name.rpartition(".")
        if getattr(modules[module], tensor, None) is not None:
            _replace(modules[module], tensor, cut(getattr(modules[module], tensor)))
    for conv in graph.convolutions:
        module = modules[conv.name]
        module.out_channels, module.in_channels = len(plan.positions(conv.outputs)), len(plan.positions(conv.inputs))
        if conv.depthwise:
            module.groups = module.out_channels
    for norm in graph.norms:
        modules[norm.name].num_features = len(plan.positions(norm.channels))
    for item in graph.attributes:
        setattr(modules[item.module], item.attribute, len(plan.positions(item.channels)))
    for layer in model.model:
        if hasattr(layer, "np"):  # the parameter count that Ultralytics prints per layer
            layer.np = sum(p.numel() for p in layer.parameters())


def cuts(plan: Plan) -> dict[str, Cut]:
    """Return what stays of each tensor, by its name in the state dict; what is not named stays whole.

    The same cut narrows whatever has a parameter's shape, such as the momentum that an optimizer keeps for it.
    """
    found: dict[str, Cut] = {}
    for conv in plan.graph.convolutions:
        rows = _index(plan, conv.outputs)
        grouped = conv.depthwise or conv.groups > 1
        found[f"{conv.name}.weight"] = Cut(rows, None if grouped else _index(plan, conv.inputs))
        if conv.bias:
            found[f"{conv.name}.bias"] = Cut(rows)
    for norm in plan.graph.norms:
        for tensor in NORM_TENSORS:
            found[f"{norm.name}.{tensor}"] = Cut(_index(plan, norm.channels))
    return found


def _index(plan: Plan, channels: IntArray) -> torch.Tensor:
    return torch.from_numpy(plan.positions(channels))


def _replace(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Put a smaller tensor in the place of a parameter or buffer, with its requires_grad."""
    old = getattr(module, name)
    setattr(
        module, name, nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value
    )
