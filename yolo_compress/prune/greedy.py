# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Steps of removal, each the one that changes the detections least for what it saves, measured as it stands.

What a removal costs depends on what is gone already: two narrow layers in the same branch of a head push its detections
the same way. So no list of costs, however well measured one by one, adds up. Here the model that is left after each
step is run on images, and every next step is judged by the change of the detections that the model would have *with*
it. In a step some channels of one layer go, those that leave the smallest error in the layers that read them, and these
layers are adjusted in closed form (`obs`).

Judging all steps after each would take hours. A step that was too dear before is seldom cheap later, so steps wait in
the order of what they were last measured to cost, and only the first is measured again: if it stays first, it is taken
(Minoux, "Accelerated Greedy Algorithms for Maximizing Submodular Set Functions", 1978).
"""

from __future__ import annotations

import heapq
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from yolo_compress.bench.response import distance
from yolo_compress.host.detect import head_responses
from yolo_compress.prune.allocation import Target, Widths, full_widths
from yolo_compress.prune.graph import ChannelGraph, IntArray
from yolo_compress.prune.importance import check_finite
from yolo_compress.prune.inputs import FloatArray, Inputs, Progress
from yolo_compress.prune.latency import LayerTimes, TimedCost
from yolo_compress.prune.obs import Reader, Statistics, adjustment, readers_by_channel, statistics
from yolo_compress.prune.trace import Convolution
from yolo_compress.prune.walk import Walk

STEPS = 80  # a step saves at least this part of what is to be saved, where its layer has that much


@dataclass(frozen=True)
class Step:
    """A unit narrower by some channels, and what that is known to do."""

    unit: int
    width: int
    gone: tuple[IntArray, ...]  # places in each of the unit's groups
    change: float  # of the detections, from the full model to the one with this step
    weights: dict[str, torch.Tensor]


def removal_steps(
    model: nn.Module,
    graph: ChannelGraph,
    inputs: Inputs,
    *,
    target: Target,
    widths: Widths,
    times: LayerTimes | None = None,
    progress: Progress,
) -> tuple[FloatArray, FloatArray]:
    """Return for each channel the number of the step that removes it, from 1 on, and the error of removing it alone.

    Steps are taken until the target is met.

    Channels that no step removes have a number behind the last. Cut at any number, they are the widths after that step:
    `allocate` with `scope="steps"` does so. Rows of a bundle, such as attention heads, are left whole.

    Args:
        model: In any mode; left as it is.
        graph: Of the model.
        inputs: With images; labels are not needed.
        target: What is to be removed.
        widths: What widths layers may take.
        times: Layer times, which a latency target is counted in.
        progress: Takes a line now and then.

    Raises:
        DataError: There is not one image.
        CompressError: The model's detections are not finite.
    """
    twin = deepcopy(model).eval().requires_grad_(False)
    found, images = statistics(twin, graph, inputs, progress)
    with torch.no_grad():
        work = Work(twin, graph, found, images, inputs)
        alone = check_finite(work.errors())
        return _run(work, graph, target=target, widths=widths, times=times, progress=progress), alone


def _run(
    work: Work, graph: ChannelGraph, *, target: Target, widths: Widths, times: LayerTimes | None, progress: Progress
) -> FloatArray:
    which = ("ratio", "flops", "latency").index(target.kind)
    costs = TimedCost(graph, times)
    current = full_widths(graph)
    before = here = costs(current)[which]
    least = target.share * before / STEPS
    steps = np.zeros(graph.channels)
    change, number, measured = 0.0, 0, 0

    def narrower(unit: int) -> tuple[int, float] | None:
        """Return the next width that saves enough, or the narrowest, and what it saves."""
        best = None
        for width in widths.allowed(len(graph.groups[graph.units[unit][0]]), 1).tolist():
            if width < current[unit]:
                moved = current.copy()
                moved[unit] = width
                saved = here - costs(moved)[which]
                if saved > 0:
                    best = width, float(saved)
                if saved >= least:
                    break
        return best

    waiting: list[tuple[float, int, int]] = []  # cost per saving, unit, number of steps taken when it was measured
    known: dict[int, Step] = {}

    def wait(unit: int) -> None:
        nonlocal measured
        next_ = narrower(unit)
        if next_ is None:
            return
        known[unit] = work.judge(unit, next_[0], int(current[unit]))
        measured += 1
        heapq.heappush(waiting, ((known[unit].change - change) / next_[1], unit, number))

    for unit in range(len(graph.units)):
        if unit in work.units:
            wait(unit)
            progress(f"prune: what a step of layer group {unit + 1} of {len(graph.units)} would change")
    while waiting and here > (1 - target.share) * before:
        _, unit, when = heapq.heappop(waiting)
        if when < number:
            wait(unit)
            continue
        step = known.pop(unit)
        number += 1
        work.take(step)
        for group, gone in zip(graph.units[unit], step.gone, strict=True):
            steps[graph.groups[group][gone]] = number
        current[unit], change = step.width, step.change
        here = costs(current)[which]
        progress(f"prune: {1 - here / before:.3f} removed in {number} steps, {measured} measured")
        wait(unit)
    steps[steps == 0] = number + 1
    return steps


class Work:
    """The model with what is gone so far: channels stay in place, and no layer that reads them listens any more."""

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, found: dict[str, Statistics], images: torch.Tensor, inputs: Inputs
    ) -> None:
        self.model, self.graph, self.found, self.weights = model, graph, found, inputs.weights
        self.head = model.model[-1]
        self.inverse = {name: item.inverse() for name, item in found.items()}
        self.weight = {name: item.scaled() for name, item in found.items()}
        self.convs = {conv.name: conv for conv in graph.convolutions if conv.name in found}
        readers = readers_by_channel(graph, found)
        bundled = {group for bundle in graph.bundles for group in (bundle.group, bundle.follower)}
        self.readers: dict[int, list[tuple[str, Reader]]] = {}
        self.units = []
        for number, unit in enumerate(graph.units):
            firsts = [int(graph.groups[group][0]) for group in unit]
            if bundled & set(unit) or any(c in graph.frozen or c not in readers for c in firsts):
                continue
            self.units.append(number)
            for group, first in zip(unit, firsts, strict=True):
                self.readers[group] = [(c.name, self._reader(c, graph.groups[group])) for c in readers[first]]
        self.gone = {group: np.empty(0, dtype=np.int64) for group in self.readers}
        self.walk = Walk(model, [images])
        self.walk.run_from(0)
        self.full = head_responses(self.walk.end(self.head)[0])

    def errors(self) -> FloatArray:
        """Return what removing each channel alone leaves in the layers that read it, zero for those that stay."""
        errors = np.zeros(self.graph.channels)
        for group, readers in self.readers.items():
            errors[self.graph.groups[group]] = sum(reader.errors() for _, reader in readers).numpy()
        return errors.clip(min=0)

    def judge(self, unit: int, width: int, current: int) -> Step:
        """Measure what the detections become with a unit of the given width."""
        gone, places = [], {}
        for group in self.graph.units[unit]:
            errors = sum(reader.errors() for _, reader in self.readers[group]).numpy()
            errors[self.gone[group]] = np.inf
            chosen = np.argsort(errors, kind="stable")[: current - width]
            gone.append(chosen)
            for name, reader in self.readers[group]:
                places.setdefault(name, []).append(reader.columns[torch.from_numpy(chosen)].flatten())
        weights = {name: self._without(name, torch.cat(found)) for name, found in places.items()}
        before = [self.found[name].place(self.model, self.convs[name], weight) for name, weight in weights.items()]
        first = min(int(name.split(".")[1]) for name in weights)
        changed = head_responses(self.walk.end(self.model.model[first])[0])
        for put_back in before:
            put_back()
        change = float(distance(self.full, changed, self.weights).mean())
        check_finite(np.array([change]))
        return Step(unit, width, tuple(gone), change, weights)

    def take(self, step: Step) -> None:
        """Take a step that was judged with the model as it is."""
        for group, gone in zip(self.graph.units[step.unit], step.gone, strict=True):
            for _, reader in self.readers[group]:
                reader.remove(torch.from_numpy(gone))
            self.gone[group] = np.concatenate([self.gone[group], gone])
        for name, weight in step.weights.items():
            self.found[name].place(self.model, self.convs[name], weight)
        self.walk.run_from(min(int(name.split(".")[1]) for name in step.weights))

    def _reader(self, conv: Convolution, group: IntArray) -> Reader:
        """Return a reader of a group; all readers of one layer share its matrices."""
        return self.found[conv.name].reader(conv, group, self.inverse[conv.name], self.weight[conv.name])

    def _without(self, name: str, columns: torch.Tensor) -> torch.Tensor:
        """Return the weights of a layer, scaled, adjusted to some columns being gone."""
        weight = self.weight[name]
        adjusted = weight - weight[:, columns] @ adjustment(self.inverse[name], columns)
        adjusted[:, columns] = 0
        return adjusted
