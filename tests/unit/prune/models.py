# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Small random models whose channels all matter, and plans for them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from tests.tiny import tiny_yaml
from yolo_compress.host.ultralytics import Attention, DetectionModel
from yolo_compress.prune import Plan, Target, Widths, allocate, build_graph, normalised

IMGSZ = 64
FAMILIES = ("yolov8n", "yolo11n", "yolo26n")


def lively(model: nn.Module, *, seed: int = 0, imgsz: int = IMGSZ) -> nn.Module:
    """Randomise every BatchNorm so that signals neither vanish nor explode, and leave the model in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0, 0.3, generator=generator)
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(torch.rand(4, 3, imgsz, imgsz, generator=generator))
    for norm in norms:
        norm.momentum = 0.03
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.7, 1.4, generator=generator))
    return model.eval()


def build(family: str, *, width: float = 0.125, seed: int = 0) -> nn.Module:
    """Build a family's architecture with three classes at a share of its width."""
    torch.manual_seed(seed)
    return lively(DetectionModel(tiny_yaml(family, width=width), verbose=False), seed=seed)


def with_heads(model: nn.Module, heads: int) -> nn.Module:
    """Read the same attention weights as more and narrower heads, in place, where the width allows it."""
    for module in model.modules():
        if isinstance(module, Attention) and module.head_dim % (2 * heads) == 0:
            assert module.head_dim == 2 * module.key_dim
            module.num_heads *= heads
            module.head_dim, module.key_dim = module.head_dim // heads, module.key_dim // heads
            module.scale = module.key_dim**-0.5
    return model


def raw(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what the head gives in training, by branch, with BatchNorm in eval mode."""
    head = model.model[-1]
    head.training = True
    try:
        with torch.no_grad():
            found = model(images.to(next(model.parameters()).dtype))
    finally:
        head.training = False
    branches = found if "one2many" in found else {"one2many": found}
    return {f"{b}.{k}": v[k] for b, v in branches.items() for k in ("boxes", "scores")}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest absolute difference between two results of `raw`."""
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def make_plan(
    model: nn.Module,
    share: float,
    *,
    kind: Literal["ratio", "flops"] = "ratio",
    scope: Literal["local", "global"] = "local",
    round_to: int = 8,
    keep: tuple[str, ...] = (),
) -> Plan:
    """Plan with random scores, so that tests do not lean on any importance."""
    graph = build_graph(model, imgsz=IMGSZ, keep=keep)
    scores = normalised(np.random.default_rng(0).uniform(0.1, 1, graph.channels), graph)
    return allocate(graph, scores, target=Target(kind, share), widths=Widths(round_to, 0.8), scope=scope)
