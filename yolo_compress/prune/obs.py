# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Optimal brain surgeon on channels: what removing one costs *after* the layers that read it were adjusted.

A layer reads rows x with covariance C and computes y = W x. If the columns B of W have to go, the least-squares
adjustment of all others leaves the error tr(W_B^T W_B (C^-1_BB)^-1). A channel whose content the others hold costs next
to nothing, however large its filters are. Rows of W count by how much the detections listen to them, measured by the
`output` distance: the error is tr(W_B^T diag(g) W_B (C^-1_BB)^-1), summed over all layers that read the channel.

Channels go one after the other, each time the cheapest, and what they held moves to the rest. The adjustment is found
on one half of the images and what it leaves is measured on the other: where a layer reads many inputs at few positions,
as the coarse levels of a detector do, the first half alone would promise a repair that other images do not see. The
scores are these costs, in the order of removal. They rank the channels of a group well; across groups they have the
right order of magnitude, no more, which is why `greedy` measures instead. Hassibi and Stork, "Second Order Derivatives
for Network Pruning: Optimal Brain Surgeon", 1993; structured as in Kurtic et al., "ZipLM: Inference-Aware Structured
Pruning of Language Models", 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import nn
from torch.utils.hooks import RemovableHandle

from yolo_compress.host.detect import responses
from yolo_compress.prune.graph import ChannelGraph, IntArray
from yolo_compress.prune.inputs import FloatArray, Inputs, Progress
from yolo_compress.prune.output import probe
from yolo_compress.prune.patches import Moments, draw, patches
from yolo_compress.prune.trace import Convolution

POSITIONS = 64  # per image and layer
DAMPING = 0.01  # share of the mean variance that is added to every variance, so that no inverse blows up
HELD_OUT = 32  # images for measuring what a removal does to the detections
STEPS = 64  # a group goes in at most so many steps, several channels at a time where it has more


@dataclass
class Reader:
    """A layer that reads a group of channels.

    Attributes:
        inverse: (d, d) inverse of the damped covariance of what it reads.
        weight: (out, d), each row scaled by the square root of how much the detections listen to it.
        columns: (channels of the group, b) columns of each channel.
        held_out: (d, d) covariance of what it reads on other images, None where only the order matters.
    """

    inverse: torch.Tensor
    weight: torch.Tensor
    columns: torch.Tensor
    held_out: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.full = None if self.held_out is None else self.weight.clone()

    def errors(self) -> torch.Tensor:
        """Return the error that removing each channel alone would leave, (channels,)."""
        blocks = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
        filters = self.weight[:, self.columns].movedim(1, 0)  # (channels, out, b)
        return torch.linalg.solve(blocks, filters.transpose(1, 2) @ filters).diagonal(dim1=1, dim2=2).sum(1)

    def remove(self, channels: torch.Tensor) -> None:
        """Remove channels together and adjust what is left."""
        gone = self.columns[channels].flatten()
        rows, solved = self.inverse[gone], adjustment(self.inverse, gone)
        self.weight -= self.weight[:, gone] @ solved
        self.inverse -= rows.T @ solved
        self.weight[:, gone] = 0
        self.inverse[gone], self.inverse[:, gone] = 0, 0
        self.inverse[gone, gone] = 1  # keeps the block of a channel that is gone solvable; its filters are zero

    def error(self) -> float:
        """Return the error of everything that was removed and adjusted, on the images that were held out."""
        assert self.held_out is not None
        assert self.full is not None
        change = self.weight - self.full
        return float(((change @ self.held_out) * change).sum())


def adjustment(inverse: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """Return what each column that goes hands to the others, (b, d): W - W[:, gone] @ this is zero at what is gone."""
    rows = inverse[gone]
    return torch.linalg.solve(rows[:, gone], rows)


def readers_by_channel(graph: ChannelGraph, found: Mapping[str, Statistics]) -> dict[int, list[Convolution]]:
    """Return which of the convolutions that have statistics read a channel."""
    readers: dict[int, list[Convolution]] = {}
    for conv in graph.convolutions:
        if conv.name in found:
            for channel in np.unique(conv.inputs).tolist():
                readers.setdefault(channel, []).append(conv)
    return readers


def obs(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by the change of the detections that remains after the layers that read a channel were adjusted.

    The formula is that of this module. Scores are the costs of one channel after the other, so the sum of the lowest k
    of a group is the estimated cost of removing k. Label-free.

    Raises:
        DataError: There is not one image.
    """
    found, _ = statistics(deepcopy(model).eval().requires_grad_(False), graph, inputs, progress)
    scores = np.zeros(graph.channels)
    by_channel = readers_by_channel(graph, found)
    inverses: dict[str, torch.Tensor] = {}
    for index, group in enumerate(graph.groups):
        if int(group[0]) in graph.frozen:
            continue
        readers = []
        for conv in by_channel.get(int(group[0]), []):
            item = found[conv.name]
            if conv.name not in inverses:
                inverses[conv.name] = item.inverse()
            held_out = item.halves[1].covariance()
            readers.append(item.reader(conv, group, inverses[conv.name].clone(), item.scaled(), held_out))
        scores[group] = removal_costs(len(group), readers)
        progress(f"prune: removal costs of group {index + 1} of {len(graph.groups)}")
    return scores


def removal_costs(count: int, readers: list[Reader]) -> FloatArray:
    """Return what each of `count` channels costs when its turn comes, evened out so that costs rise along the order."""
    if not readers:
        return np.zeros(count)
    order: list[int] = []
    totals = [0.0]
    at_once = max(1, count // STEPS)
    while len(order) < count:
        errors = sum(reader.errors() for reader in readers).numpy()
        errors[order] = np.inf
        chosen = np.argsort(errors, kind="stable")[: min(at_once, count - len(order))]
        for reader in readers:
            reader.remove(torch.from_numpy(chosen))
        whole = sum(reader.error() for reader in readers)
        totals += np.linspace(totals[-1], whole, len(chosen) + 1)[1:].tolist()
        order += chosen.tolist()
    costs = np.zeros(count)
    steps = isotonic_regression(np.diff(totals)).x.clip(min=0)
    costs[order] = steps * (1 + 1e-9 * np.arange(count))  # equal steps keep their order
    return costs


@dataclass
class Statistics:
    """What a layer reads, on two halves of the images, and how much the detections listen to each output.

    Attributes:
        weight: (out, d), float64 as all below.
        offset: (out,), mean of the BatchNorm behind the layer, or its bias; None without either.
        halves: Moments of what is read.
        heard: (out,), mean square of the derivative of the `output` probe.
    """

    weight: torch.Tensor
    offset: torch.Tensor | None
    halves: tuple[Moments, Moments]
    heard: torch.Tensor

    def inverse(self) -> torch.Tensor:
        """Return the inverse of the damped covariance on the first half, (d, d)."""
        covariance = self.halves[0].covariance()
        covariance.diagonal().add_(DAMPING * covariance.diagonal().mean().clamp(min=1e-12))
        return torch.linalg.inv(covariance)

    def scaled(self) -> torch.Tensor:
        """Return the weights, each row by the root of how much the detections listen to it."""
        return self.weight * self.heard.sqrt()[:, None]

    def reader(
        self,
        conv: Convolution,
        group: IntArray,
        inverse: torch.Tensor,
        weight: torch.Tensor,
        held_out: torch.Tensor | None = None,
    ) -> Reader:
        """Return a reader of a group, which changes the matrices that it is given."""
        places = np.stack([np.flatnonzero(conv.inputs == channel) for channel in group])  # the same number for each
        columns = (places[:, :, None] * conv.area + np.arange(conv.area)).reshape(len(group), -1)
        return Reader(inverse, weight, torch.from_numpy(columns), held_out)

    def place(self, model: nn.Module, conv: Convolution, weight: torch.Tensor) -> Callable[[], None]:
        """Give a layer weights, scaled, and the mean output that it had; return what undoes that."""
        module = model.get_submodule(conv.name)
        offset = _offset(model, conv)
        before = module.weight.clone(), None if offset is None else offset.clone()
        scale = self.heard.sqrt()[:, None]
        unscaled = torch.where(scale > 0, weight / scale.clamp(min=1e-30), self.weight)
        unscaled[:, (weight == 0).all(0)] = 0  # what is gone, also of rows that the detections do not listen to
        module.weight.copy_(unscaled.reshape(module.weight.shape))
        if offset is not None:
            lost = (self.weight - unscaled) @ (self.halves[0].total / self.halves[0].count)
            offset.copy_(self.offset - lost if conv.norm is not None else self.offset + lost)

        def restore() -> None:
            module.weight.copy_(before[0])
            if offset is not None:
                offset.copy_(before[1])

        return restore


def _offset(model: nn.Module, conv: Convolution) -> torch.Tensor | None:
    """Return what can take up a change of the mean output: the mean of the BatchNorm behind, or the bias."""
    return model.get_submodule(conv.norm).running_mean if conv.norm is not None else model.get_submodule(conv.name).bias


def statistics(
    twin: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress
) -> tuple[dict[str, Statistics], torch.Tensor]:
    """Run images through the model and back: what each layer reads, how much the detections listen, held-out images."""
    like = next(twin.parameters())
    modules = dict(twin.named_modules())
    generator = torch.Generator().manual_seed(inputs.seed)
    signs = torch.Generator(device=like.device).manual_seed(inputs.seed)
    found: dict[str, Statistics] = {}
    outputs: dict[str, torch.Tensor] = {}
    hooks: list[RemovableHandle] = []

    def tap(name: str) -> Callable[..., torch.Tensor]:
        def hook(module: nn.Conv2d, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                at = draw(len(output), *output.shape[2:], POSITIONS, generator)
                rows = patches(module, given[0], at)
                middle = len(at.image) // 2  # a batch of one image is split by its positions
                for half, part in zip(found[name].halves, (rows[:middle], rows[middle:]), strict=True):
                    half.add(part)
            outputs[name] = output if output.requires_grad else output.requires_grad_()
            return output

        return hook

    for conv in graph.convolutions:
        if conv.depthwise or conv.groups > 1 or all(c in graph.frozen for c in conv.inputs.tolist()):
            continue
        weight = modules[conv.name].weight.flatten(1).double().cpu()
        heard = torch.zeros(len(weight), dtype=torch.float64)
        offset = _offset(twin, conv)
        offset = None if offset is None else offset.double().cpu()
        found[conv.name] = Statistics(weight, offset, (Moments(weight.shape[1]), Moments(weight.shape[1])), heard)
        hooks.append(modules[conv.name].register_forward_hook(tap(conv.name)))
    count = 0
    held_out = []
    for images in inputs.pictures("obs", like):
        held_out.append(images[len(images) // 2 :])
        outputs.clear()
        objective = probe(responses(twin, images), inputs.weights, signs)
        gradients = torch.autograd.grad(objective, list(outputs.values()), allow_unused=True)
        for name, gradient in zip(outputs, gradients, strict=True):
            if gradient is not None:
                found[name].heard += gradient.square().sum((0, 2, 3)).double().cpu() / 2
        count += len(images)
        progress(f"prune: what layers read, on {count} images")
    for item in found.values():
        item.heard /= count
    for hook in hooks:
        hook.remove()
    every = torch.cat(held_out)
    return found, every[:: max(1, len(every) // HELD_OUT)][:HELD_OUT]
