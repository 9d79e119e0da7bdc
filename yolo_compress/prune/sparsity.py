# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Sparse training: penalties that draw whole channels towards zero before they are removed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from yolo_compress.prune.graph import ChannelGraph, IntArray

Penalty = Callable[[nn.Module], torch.Tensor]


def bn_scale_l1(graph: ChannelGraph) -> Penalty:
    """Return the mean absolute BatchNorm scale over the channels that may go.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017.
    """
    free = {norm.name: _free(graph, norm.channels) for norm in graph.norms if norm.affine}
    total = sum(len(index) for index in free.values())

    def penalty(model: nn.Module) -> torch.Tensor:
        scales = [model.get_submodule(name).weight[index].abs().sum() for name, index in free.items() if len(index)]
        return torch.stack(scales).sum() / max(total, 1)

    return penalty


def group_lasso(graph: ChannelGraph) -> Penalty:
    """Return the mean over channels of |W_c|_2 / sqrt(n_c), W_c being all n_c weights that write channel c.

    Coupled channels, such as both ends of a residual, are one group, so that they vanish together or not at all.

    Source: Wen et al., "Learning Structured Sparsity in Deep Neural Networks", 2016, with groups of unequal size
    normalised as in Yuan and Lin, 2006.
    """
    places = [(conv.name, torch.from_numpy(conv.outputs)) for conv in graph.convolutions]
    free = torch.ones(graph.channels, dtype=torch.bool)
    free[list(graph.frozen)] = False

    def penalty(model: nn.Module) -> torch.Tensor:
        weights = {name: model.get_submodule(name).weight for name, _ in places}
        like = next(iter(weights.values()))
        squares = torch.zeros(graph.channels, device=like.device)
        counts = torch.zeros(graph.channels, device=like.device)
        for name, channels in places:
            rows = weights[name].float().flatten(1)
            index = channels.to(like.device)
            squares = squares.index_add(0, index, rows.square().sum(1))
            counts = counts.index_add(0, index, torch.full((len(rows),), float(rows.shape[1]), device=like.device))
        kept = free.to(like.device) & (counts > 0)
        # the gradient of a square root is infinite at zero, where a channel is as sparse as it can be
        return ((squares[kept] + torch.finfo(torch.float32).eps).sqrt() / counts[kept].sqrt()).mean()

    return penalty


PENALTIES: dict[str, Callable[[ChannelGraph], Penalty]] = {"bn_l1": bn_scale_l1, "group_lasso": group_lasso}


def _free(graph: ChannelGraph, channels: IntArray) -> torch.Tensor:
    return torch.tensor([i for i, c in enumerate(channels.tolist()) if c not in graph.frozen], dtype=torch.long)
