# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Scores by derivatives of the training loss: how much it changes when a channel is masked.

A mask m multiplies a channel at every place that carries it: the output of each BatchNorm, or of a convolution that
none follows. At m = 1 the model is as it was, at m = 0 the channel is gone. BatchNorm runs on its running statistics,
and the work is done on a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from yolo_compress.host.detect import detection_loss
from yolo_compress.prune.graph import ChannelGraph, IntArray
from yolo_compress.prune.inputs import FloatArray, Inputs, Progress


class Masked:
    """A frozen copy of a model whose channels can be multiplied by a mask that gradients flow to."""

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        self.model = deepcopy(model).eval()
        # Only masks need gradients; without those of the weights a third of the backward pass is saved.
        self.model.requires_grad_(False)
        self.channels = graph.channels
        self.like = next(self.model.parameters())
        self.mask = self.like.new_ones(1, graph.channels)
        modules = dict(self.model.named_modules())
        for name, channels in _places(graph).items():
            modules[name].register_forward_hook(self._multiply(torch.from_numpy(channels).to(self.like.device)))

    def fresh(self, rows: int) -> torch.Tensor:
        """Set the mask to ones (rows, channels), one row per image or one for all of them, and return it."""
        self.mask = self.like.new_ones(rows, self.channels).requires_grad_()
        return self.mask

    def _multiply(self, channels: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda module, inputs, output: output * self.mask[:, channels, None, None]


def taylor(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by the absolute first-order change of the training loss when a channel is masked, summed over images.

    I_c = sum over images n of |sum over places i of dL/dm_nci|, where m_nci = 1 multiplies channel c of image n at
    place i. Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2017.

    Raises:
        DataError: There is not one batch.
    """
    batches = inputs.batches("taylor", _device(model))
    return sum(np.abs(g).sum(0) for g in mask_gradients(model, graph, batches, detection_loss, progress))


def fisher(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by half the squared first-order change of the training loss, summed over images.

    I_c = 1/2 sum over images n of (sum over places i of dL/dm_nci)^2: the diagonal of the empirical Fisher information
    of the masks, which stands for their Hessian, with coupled places added before they are squared. Summed over the
    images of a batch, one term is g dL/dg + b dL/db for BatchNorm weight g and bias b. Liu et al., "Group Fisher
    Pruning for Practical Network Compression", 2021.

    Raises:
        DataError: There is not one batch.
    """
    batches = inputs.batches("fisher", _device(model))
    return sum(np.square(g).sum(0) for g in mask_gradients(model, graph, batches, detection_loss, progress)) / 2


def hessian(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by the second-order change of the training loss when a channel is masked, summed over batches.

    I_c = 1/2 |sum over batches of d^2L/dm_c^2|, with one mask for all images and places. The diagonal is estimated as
    the mean of v * Hv over random signs v, one draw per batch. LeCun et al., "Optimal Brain Damage", 1990, where the
    gradient of a trained model is taken as zero; estimate of Bekas et al., "An estimator for the diagonal of a matrix",
    2007.

    Raises:
        DataError: There is not one batch.
    """
    masked = Masked(model, graph)
    generator = torch.Generator().manual_seed(inputs.seed)
    total, images = torch.zeros(graph.channels, dtype=torch.float64), 0
    for batch in inputs.batches("hessian", masked.like.device):
        signs = torch.randint(0, 2, (1, graph.channels), generator=generator).to(masked.like) * 2 - 1
        mask = masked.fresh(1)
        loss = detection_loss(masked.model, batch)
        total += hessian_diagonal(loss, mask, [signs]).flatten().cpu().double()
        images += len(batch["img"])
        progress(f"prune: importance on {images} images")
    return total.abs().numpy() / 2


def hessian_diagonal(loss: torch.Tensor, at: torch.Tensor, probes: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the sum of v * Hv over probes v, with H the Hessian of a scalar at a tensor.

    Over random signs its mean estimates the diagonal; over all unit vectors the sum is the diagonal.
    """
    (gradient,) = torch.autograd.grad(loss, at, create_graph=True)
    products = (torch.autograd.grad(gradient, at, v, retain_graph=True)[0] * v for v in probes)
    return torch.stack(list(products)).sum(0)


def mask_gradients(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[dict[str, torch.Tensor]],
    objective: Callable[[nn.Module, dict[str, torch.Tensor]], torch.Tensor],
    progress: Progress,
) -> Iterator[FloatArray]:
    """Yield the derivatives of a scalar by the mask of each image, (images of the batch, channels)."""
    masked, images = Masked(model, graph), 0
    for batch in batches:
        mask = masked.fresh(len(batch["img"]))
        (gradient,) = torch.autograd.grad(objective(masked.model, batch), mask)
        yield gradient.cpu().double().numpy()
        images += len(batch["img"])
        progress(f"prune: importance on {images} images")


def _places(graph: ChannelGraph) -> dict[str, IntArray]:
    """Return the channels at each module whose output a channel is masked at, where any of them may go."""
    found = {norm.name: norm.channels for norm in graph.norms}
    found |= {conv.name: conv.outputs for conv in graph.convolutions if conv.norm is None}
    return {name: ch for name, ch in found.items() if any(c not in graph.frozen for c in ch.tolist())}


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
