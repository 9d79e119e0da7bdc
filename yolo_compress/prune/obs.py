# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Optimal brain surgeon on channels: what removing one costs *after* the layers that read it were adjusted.

A layer reads rows x with covariance C and computes y = W x. If the columns B of W have to go, the least-squares
adjustment of all others leaves the error tr(W_B^T W_B (C^-1_BB)^-1). A channel whose content the others hold costs next
to nothing, however large its filters are. Rows of W count by how much the detections listen to them, measured by the
`output` distance: the error is tr(W_B^T diag(g) W_B (C^-1_BB)^-1), summed over all layers that read the channel.

Channels go one after the other, each time the cheapest, and what they held moves to the rest. The adjustment is found
on one half of the images and what it leaves is measured on the other: where a layer reads many inputs at few positions,
as the coarse levels of a detector do, the first half alone would promise a repair that other images do not see.

This ranks the channels of a group, and estimates to second order what k of them cost. How groups compare is measured:
with 1/16, 1/8, 1/4, 1/2 and 3/4 of a group gone and its readers adjusted, the model runs on images that were held out,
and the change of its detections is what that many channels cost; the estimate only says how the cost rises in between.
The scores are these costs, in the order of removal. Hassibi and Stork, "Second Order Derivatives for Network Pruning:
Optimal Brain Surgeon", 1993; structured as in Kurtic et al., "ZipLM: Inference-Aware Structured Pruning of Language
Models", 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import nn
from torch.utils.hooks import RemovableHandle

from yolo_compress.host.detect import head_responses, responses
from yolo_compress.prune.graph import ChannelGraph, IntArray
from yolo_compress.prune.inputs import FloatArray, Inputs, Progress
from yolo_compress.prune.output import distance, probe
from yolo_compress.prune.patches import Moments, draw, patches
from yolo_compress.prune.trace import Convolution
from yolo_compress.prune.walk import Walk

POSITIONS = 64  # per image and layer
DAMPING = 0.01  # share of the mean variance that is added to every variance, so that no inverse blows up
MEASURED = 32  # images that show what a removal does to the detections
MARKS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)  # shares of a group after which that is looked at
STEPS = 64  # a group goes in at most so many steps, several channels at a time where it has more


@dataclass
class Reader:
    """A layer that reads a group of channels.

    Attributes:
        inverse: (d, d) inverse of the damped covariance of what it reads.
        weight: (out, d), each row scaled by the square root of how much the detections listen to it.
        columns: (channels of the group, b) columns of each channel.
        held_out: (d, d) covariance of what it reads on other images.
    """

    inverse: torch.Tensor
    weight: torch.Tensor
    columns: torch.Tensor
    held_out: torch.Tensor

    def __post_init__(self) -> None:
        self.full = self.weight.clone()

    def errors(self) -> torch.Tensor:
        """Return the error that removing each channel alone would leave, (channels,)."""
        blocks = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
        filters = self.weight[:, self.columns].movedim(1, 0)  # (channels, out, b)
        return torch.linalg.solve(blocks, filters.transpose(1, 2) @ filters).diagonal(dim1=1, dim2=2).sum(1)

    def remove(self, channels: torch.Tensor) -> None:
        """Remove channels together and adjust what is left."""
        gone = self.columns[channels].flatten()
        filters, rows = self.weight[:, gone], self.inverse[gone]
        solved = torch.linalg.solve(rows[:, gone], rows)
        self.weight -= filters @ solved
        self.inverse -= rows.T @ solved
        self.weight[:, gone] = 0
        self.inverse[gone], self.inverse[:, gone] = 0, 0
        self.inverse[gone, gone] = 1  # keeps the block of a channel that is gone solvable; its filters are zero

    def error(self) -> float:
        """Return the error of everything that was removed and adjusted, on the images that were held out."""
        change = self.weight - self.full
        return float(((change @ self.held_out) * change).sum())


def obs(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by the change of the detections that remains after the layers that read a channel were adjusted.

    The formula is that of this module. Scores are the costs of one channel after the other, per image, so the sum of
    the lowest k of a group is the cost of removing k. Label-free.

    Raises:
        DataError: There is not one image.
    """
    twin = deepcopy(model).eval().requires_grad_(False)
    statistics, held_out = _statistics(twin, graph, inputs, progress)
    readers: dict[int, list[Convolution]] = {}
    for conv in graph.convolutions:
        if conv.name in statistics:
            for channel in np.unique(conv.inputs).tolist():
                readers.setdefault(channel, []).append(conv)
    groups: dict[str, list[IntArray]] = {}  # by the first top-level module that reads them
    for group in graph.groups:
        convs = readers.get(int(group[0]), [])
        if convs and int(group[0]) not in graph.frozen:
            first = min(int(conv.name.split(".")[1]) for conv in convs)
            groups.setdefault(f"model.{first}", []).append(group)
    scores = np.zeros(graph.channels)
    done, count = 0, sum(map(len, groups.values()))
    with torch.no_grad():
        walk = Walk(twin, [held_out])
        full = head_responses(twin.model[-1], walk.end(twin.model[0])[0])

        def change(layer: nn.Module, convs: list[Convolution], found: list[Reader]) -> float:
            with ExitStack() as stack:
                for conv, reader in zip(convs, found, strict=True):
                    stack.enter_context(statistics[conv.name].adjusted(twin, conv, reader))
                adjusted = head_responses(twin.model[-1], walk.end(layer)[0])
            return float(distance(full, adjusted, inputs.weights).mean())

        for name, layer, _ in walk.modules():
            inverses: dict[str, torch.Tensor] = {}
            for group in groups.get(name, []):
                convs = readers[int(group[0])]
                for conv in convs:
                    if conv.name not in inverses:
                        inverses[conv.name] = statistics[conv.name].inverse()
                found = [statistics[conv.name].reader(conv, group, inverses[conv.name]) for conv in convs]

                measure = partial(change, layer, convs, found)
                scores[group] = removal_costs(len(group), found, measure)
                done += 1
                progress(f"prune: removal costs of group {done} of {count}")
    return scores


def removal_costs(count: int, readers: list[Reader], measure: Callable[[], float] | None = None) -> FloatArray:
    """Return what each of `count` channels costs when its turn comes, evened out so that costs rise along the order.

    Args:
        count: Channels of the group.
        readers: Of the group; all channels are gone from them afterwards.
        measure: Gives what the model loses with the readers as they are; without it, their own errors count.
    """
    order: list[int] = []
    totals = [0.0]
    at_once = max(1, count // STEPS)
    seen = {0: 0.0}
    marks = sorted({max(1, round(share * count)) for share in MARKS} if measure else ())
    while len(order) < count:
        errors = sum(reader.errors() for reader in readers).numpy()
        errors[order] = np.inf
        chosen = np.argsort(errors, kind="stable")[: min(at_once, count - len(order))]
        for reader in readers:
            reader.remove(torch.from_numpy(chosen))
        whole = sum(reader.error() for reader in readers)
        totals += np.linspace(totals[-1], whole, len(chosen) + 1)[1:].tolist()
        order += chosen.tolist()
        if measure is not None and marks and len(order) >= marks[0]:
            seen[len(order)] = measure()
            marks = [mark for mark in marks if mark > len(order)]
    estimated = np.maximum.accumulate(totals)
    costs = np.zeros(count)
    steps = isotonic_regression(np.diff(_through(estimated, seen))).x.clip(min=0)
    costs[order] = steps * (1 + 1e-9 * np.arange(count))  # equal steps keep their order
    return costs


def _through(estimated: FloatArray, seen: dict[int, float]) -> FloatArray:
    """Return costs that pass through what was seen, and rise in between and behind as the estimate does."""
    if len(seen) == 1:
        return estimated
    *_, before, last = sorted(seen)
    costs = np.interp(estimated, estimated[sorted(seen)], [seen[k] for k in sorted(seen)])
    slope = max(seen[last] - seen[before], 0.0) / max(estimated[last] - estimated[before], 1e-30)
    costs[last:] = seen[last] + slope * (estimated[last:] - estimated[last])
    return costs


@dataclass
class _Statistics:
    weight: torch.Tensor
    halves: tuple[Moments, Moments]
    heard: torch.Tensor

    def inverse(self) -> torch.Tensor:
        covariance = self.halves[0].covariance()
        covariance.diagonal().add_(DAMPING * covariance.diagonal().mean().clamp(min=1e-12))
        return torch.linalg.inv(covariance)

    def reader(self, conv: Convolution, group: IntArray, inverse: torch.Tensor) -> Reader:
        places = np.stack([np.flatnonzero(conv.inputs == channel) for channel in group])  # the same number for each
        columns = (places[:, :, None] * conv.area + np.arange(conv.area)).reshape(len(group), -1)
        scaled = self.weight * self.heard.sqrt()[:, None]
        return Reader(inverse.clone(), scaled, torch.from_numpy(columns), self.halves[1].covariance())

    @contextmanager
    def adjusted(self, model: nn.Module, conv: Convolution, reader: Reader) -> Iterator[None]:
        """Give a layer the weights that a reader has come to, and the mean output that it had, for a while."""
        module = model.get_submodule(conv.name)
        scale = self.heard.sqrt()[:, None]
        weight = torch.where(scale > 0, reader.weight / scale.clamp(min=1e-30), self.weight)
        shift = (self.weight - weight) @ (self.halves[0].total / self.halves[0].count)
        place = model.get_submodule(conv.norm).running_mean if conv.norm is not None else module.bias
        before = module.weight.clone(), None if place is None else place.clone()
        module.weight.copy_(weight.reshape(module.weight.shape))
        if place is not None:
            place.sub_(shift.to(place)) if conv.norm is not None else place.add_(shift.to(place))
        try:
            yield
        finally:
            module.weight.copy_(before[0])
            if place is not None:
                place.copy_(before[1])


def _statistics(
    twin: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress
) -> tuple[dict[str, _Statistics], torch.Tensor]:
    """Run images through the model and back: what each layer reads, how much the detections listen, held-out images."""
    like = next(twin.parameters())
    modules = dict(twin.named_modules())
    generator = torch.Generator().manual_seed(inputs.seed)
    signs = torch.Generator(device=like.device).manual_seed(inputs.seed)
    found: dict[str, _Statistics] = {}
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
        found[conv.name] = _Statistics(weight, (Moments(weight.shape[1]), Moments(weight.shape[1])), heard)
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
    return found, every[:: max(1, len(every) // MEASURED)][:MEASURED]
