# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How much each channel matters: one function and one line in `IMPORTANCES` per score."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from yolo_compress.errors import CompressError, DataError
from yolo_compress.host.detect import detection_loss
from yolo_compress.prune.graph import ChannelGraph, IntArray

FloatArray = npt.NDArray[np.float64]
Batches = Callable[[], Iterable[dict[str, torch.Tensor]]]
Progress = Callable[[str], None]


class Score(Protocol):
    """Gives each channel of a graph a number of at least 0, without changing the model."""

    def __call__(
        self, model: nn.Module, graph: ChannelGraph, batches: Batches | None, progress: Progress
    ) -> FloatArray:
        """Return one number per channel, larger for what matters more; `batches` is given where labels are needed."""
        ...


@dataclass(frozen=True)
class Importance:
    """An entry of the registry."""

    name: str
    description: str
    needs_labels: bool
    function: Score


def l2(model: nn.Module, graph: ChannelGraph, batches: Batches | None, progress: Progress) -> FloatArray:
    """Score by the norm of all filters that make a channel.

    For channel c made by the coupled filters w_i of shape (in, k, k), the score is sqrt(sum_i |w_i|^2). Group form of
    Li et al., "Pruning Filters for Efficient ConvNets", 2017.

    BatchNorm is left out on purpose. Its running variance has the filter's scale in it already, so that folding it in
    cancels what the norm says and ranks channels that hardly vary first; weight decay acts on the filters, not on
    BatchNorm, and what it let shrink is what training could spare.
    """
    squares = np.zeros(graph.channels)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for conv in graph.convolutions:
            norms = modules[conv.name].weight.cpu().double().square().flatten(1).sum(1)
            np.add.at(squares, conv.outputs, norms.numpy())
    return np.sqrt(squares)


def taylor(model: nn.Module, graph: ChannelGraph, batches: Batches | None, progress: Progress) -> FloatArray:
    """Score by the squared first-order change of the training loss when a channel is masked, summed over images.

    I_c = sum over images n of (sum over places i of dL/dm_nci)^2, where m_nci = 1 multiplies channel c of image n at
    the output of each BatchNorm i (or bare convolution) that carries it. Summed over the images of a batch, one term
    is g dL/dg + b dL/db for BatchNorm weight g and bias b. Squares per image, as Fisher information asks for.
    Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019; coupled places as in Liu et al.,
    "Group Fisher Pruning", 2021.

    BatchNorm runs on its running statistics. The work is done on a copy.

    Raises:
        DataError: There is not one batch.
    """
    copy = deepcopy(model).eval()
    # A mask of ones needs no gradient of any weight, which saves a third of the backward pass.
    copy.requires_grad_(False)
    places = _places(graph)
    masks: dict[str, torch.Tensor] = {}
    modules = dict(copy.named_modules())
    for name in places:
        modules[name].register_forward_hook(_mask_with_ones(name, masks))
    device = next(copy.parameters()).device
    scores, images = np.zeros(graph.channels), 0
    for batch in batches() if batches is not None else ():
        masks.clear()
        loss = detection_loss(copy, {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()})
        gradients = torch.autograd.grad(loss, [masks[name] for name in places], allow_unused=True)
        per_image = np.zeros((len(batch["img"]), graph.channels))
        for channels, gradient in zip(places.values(), gradients, strict=True):
            if gradient is not None:
                np.add.at(per_image.T, channels, gradient.flatten(1).cpu().double().numpy().T)
        scores += np.square(per_image).sum(0)
        images += len(batch["img"])
        progress(f"prune: importance on {images} images")
    if not images:
        raise DataError("importance=taylor got no labelled image; give a data YAML with train images, or importance=l2")
    return scores


def normalised(scores: FloatArray, graph: ChannelGraph) -> FloatArray:
    """Scale the scores of each group to a mean of 1, so that groups compare; a group of zeros becomes all ones.

    Raises:
        CompressError: A score is not finite.
    """
    if not np.isfinite(scores).all():
        raise CompressError(
            "the importance scores are not finite, which points to weights or labels that are not; "
            "check that the model predicts, or use importance=l2"
        )
    result = np.ones_like(scores)
    for group in graph.groups:
        if (mean := scores[group].mean()) > 0:
            result[group] = scores[group] / mean
    return result


def _places(graph: ChannelGraph) -> dict[str, IntArray]:
    """Return the channels at each module whose output a channel is masked at, where any of them may go."""
    found = {norm.name: norm.channels for norm in graph.norms}
    found |= {conv.name: conv.outputs for conv in graph.convolutions if conv.norm is None}
    return {name: ch for name, ch in found.items() if any(c not in graph.frozen for c in ch.tolist())}


def _mask_with_ones(name: str, masks: dict[str, torch.Tensor]) -> Callable[..., torch.Tensor]:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        masks[name] = output.new_ones(*output.shape[:2], 1, 1).requires_grad_()
        return output * masks[name]

    return hook


IMPORTANCES: dict[str, Importance] = {
    entry.name: entry
    for entry in (
        Importance("taylor", "squared first-order change of the training loss, on labelled images", True, taylor),
        Importance("l2", "norm of the filters that make a channel; needs no images", False, l2),
    )
}
