# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Scores that look at the weights alone.

Filters are compared as they are, without the BatchNorm behind them: its running variance has the filter's scale in it
already, so that folding it in cancels what a norm says and ranks channels that hardly vary first; weight decay acts on
the filters, not on BatchNorm, and what it let shrink is what training could spare.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from yolo_compress.prune.graph import ChannelGraph
from yolo_compress.prune.inputs import FloatArray, Inputs, Progress


def l1(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by the sum of absolute weights of all filters that make a channel.

    For channel c made by the coupled filters w_i of shape (in, k, k), the score is sum_i |w_i|_1. Li et al., "Pruning
    Filters for Efficient ConvNets", 2017.
    """
    return _over_filters(model, graph, lambda filters: filters.abs().sum(1))


def l2(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by the norm of all filters that make a channel.

    For channel c made by the coupled filters w_i of shape (in, k, k), the score is sqrt(sum_i |w_i|^2). Group form of
    Li et al., "Pruning Filters for Efficient ConvNets", 2017.
    """
    return np.sqrt(_over_filters(model, graph, lambda filters: filters.square().sum(1)))


def bn_scale(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by the absolute BatchNorm weights that a channel passes, summed.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017.
    """
    scores, modules = np.zeros(graph.channels), dict(model.named_modules())
    for norm in graph.norms:
        if norm.affine:
            np.add.at(scores, norm.channels, modules[norm.name].weight.detach().abs().cpu().double().numpy())
    return scores


def lamp(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by a channel's share of the squared norm that is left once all smaller ones of its group are gone.

    With the squared norms of a group in ascending order, n_1 <= n_2 <= ..., channel k scores n_k / sum_{j >= k} n_j,
    which compares across layers. Channel form of Lee et al., "Layer-Adaptive Sparsity for the Magnitude-based
    Pruning", 2021.
    """
    squares = _over_filters(model, graph, lambda filters: filters.square().sum(1))
    scores = np.zeros(graph.channels)
    for group in graph.groups:
        order = group[np.argsort(squares[group], kind="stable")]
        left = np.cumsum(squares[order][::-1])[::-1]
        scores[order] = np.divide(squares[order], left, out=np.zeros_like(left), where=left > 0)
    return scores


def fpgm(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by the summed distances of a filter to the other filters of its layer, over coupled layers.

    What lies near the geometric median can be stood in for by the rest. He et al., "Filter Pruning via Geometric
    Median for Deep Convolutional Neural Networks Acceleration", 2019.
    """
    return _over_filters(model, graph, lambda filters: torch.cdist(filters, filters).sum(1))


def random(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by chance, uniform in (0, 1): what every other score has to beat."""
    return np.random.default_rng(inputs.seed).uniform(np.finfo(float).tiny, 1, graph.channels)


def _over_filters(model: nn.Module, graph: ChannelGraph, measure: Callable[[torch.Tensor], torch.Tensor]) -> FloatArray:
    """Sum a measure of filters, given as (out, in k k) in float64, over the convolutions that make each channel."""
    scores, modules = np.zeros(graph.channels), dict(model.named_modules())
    with torch.no_grad():
        for conv in graph.convolutions:
            filters = modules[conv.name].weight.cpu().double().flatten(1)
            np.add.at(scores, conv.outputs, measure(filters).numpy())
    return scores
