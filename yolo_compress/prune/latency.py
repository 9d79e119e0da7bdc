# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What the layers of a model cost in time at any widths, from a table of measured layers.

Each kind of layer (kernel, stride, size of its input, full widths) is measured at a few widths and interpolated between
them. A table never gets slower by taking channels away: measured noise to the contrary is evened out. The sum of all
layers only tells which channels are worth removing; how long the finished model takes is measured on the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from yolo_compress.bench.layers import LayerSpec
from yolo_compress.prune.cost import CostModel
from yolo_compress.prune.graph import ChannelGraph, IntArray
from yolo_compress.prune.trace import Convolution

SHARES = (0.5, 1.0)  # of the full width, where layers are measured: each costs about a second of building
GRID = 16  # measured widths are multiples of this, where no step of any hardware falls between
STEPS = (64, 32, 16, 8)
STEP_LAYERS = 3  # costliest layers that the step is found on
STAIRS = 0.25  # largest share of a step's gain that may come before its end


class Table(Protocol):
    """Times of layers; `bench.layers.LayerTable` is one."""

    def measure(self, specs: Iterable[LayerSpec], *, progress: Callable[[str], None]) -> None:
        """Measure layers that are not known yet."""
        ...

    def __getitem__(self, spec: LayerSpec) -> float:
        """Return seconds."""
        ...


class Timing(Protocol):
    """A runtime that models are timed on."""

    table: Table

    def ratio(self, model: nn.Module) -> float:
        """Return how long a model takes relative to the one that is being pruned, measured in turns."""
        ...


class LayerTimes:
    """Seconds of all convolutions of a graph, as a function of their widths."""

    def __init__(self, graph: ChannelGraph, table: Table, *, progress: Callable[[str], None] = lambda _: None) -> None:
        """Measure what the table lacks."""
        points = [self._points(conv, graph) for conv in graph.convolutions]
        specs = {
            spec_at(conv, i, o)
            for conv, (inputs, outputs) in zip(graph.convolutions, points, strict=True)
            for i in inputs
            for o in outputs
            if not conv.depthwise or i == o
        }
        table.measure(specs, progress=progress)
        made: dict[LayerSpec, npt.NDArray[np.float32]] = {}
        maps = []
        for conv, (inputs, outputs) in zip(graph.convolutions, points, strict=True):
            full = spec_at(conv, len(conv.inputs), len(conv.outputs))
            if full not in made:
                made[full] = _surface(conv, inputs, outputs, table)
            maps.append(made[full])
        self.strides = np.array([surface.shape[1] for surface in maps], dtype=np.int64)
        self.starts = np.cumsum([0, *(surface.size for surface in maps[:-1])])
        self.flat = np.concatenate([surface.ravel() for surface in maps])

    def __call__(self, inputs: IntArray, outputs: IntArray) -> float:
        """Return seconds at the given widths, one input and output width per convolution."""
        return float(self.flat[self.starts + inputs * self.strides + outputs].sum(dtype=np.float64))

    @staticmethod
    def _points(conv: Convolution, graph: ChannelGraph) -> tuple[list[int], list[int]]:
        inputs, outputs = (
            widths_measured(len(channels), movable=any(c not in graph.frozen for c in channels.tolist()))
            for channels in (conv.inputs, conv.outputs)
        )
        return inputs, outputs


def widths_measured(full: int, *, movable: bool) -> list[int]:
    """Return the widths at which a layer of a full width is measured, ascending."""
    if not movable:
        return [full]
    step = GRID if full > 2 * GRID else max(1, full // 4)
    return sorted({*(max(step, round(share * full / step) * step) for share in SHARES if share < 1), full})


def spec_at(conv: Convolution, inputs: int, outputs: int) -> LayerSpec:
    """Return what a convolution is at other widths."""
    return LayerSpec(
        kernel=round(conv.area**0.5),
        stride=conv.stride,
        size=conv.size,
        depthwise=conv.depthwise,
        inputs=inputs,
        outputs=outputs,
    )


def rewarded_step(graph: ChannelGraph, table: Table, *, progress: Callable[[str], None] = lambda _: None) -> int:
    """Find the coarsest step of widths between whose multiples this runtime gains next to nothing.

    The costliest layers are measured at all output widths from half to full, in the finest step.
    """
    movable = [
        c for c in graph.convolutions if not c.depthwise and any(x not in graph.frozen for x in c.outputs.tolist())
    ]
    costliest = sorted(movable, key=lambda c: -c.area * c.positions * len(c.inputs) * len(c.outputs))
    chosen: dict[LayerSpec, Convolution] = {}
    for conv in costliest:
        if len(conv.outputs) >= 2 * STEPS[0] or len(costliest) <= STEP_LAYERS:
            chosen.setdefault(spec_at(conv, len(conv.inputs), len(conv.outputs)), conv)
        if len(chosen) == STEP_LAYERS:
            break
    finest = STEPS[-1]
    sweeps = [
        {
            o: spec_at(conv, len(conv.inputs), o)
            for o in range(-(-len(conv.outputs) // 2), len(conv.outputs) + 1, finest)
        }
        for conv in chosen.values()
    ]
    table.measure([spec for sweep in sweeps for spec in sweep.values()], progress=progress)
    times = [{width: table[spec] for width, spec in sweep.items()} for sweep in sweeps]
    return coarsest(times)


def coarsest(sweeps: Sequence[Mapping[int, float]]) -> int:
    """Return the coarsest of `STEPS` that times rise in, from sweeps of width to seconds.

    Of what a layer gains by a whole step less, the share that it gains before the last multiple of the finest step is
    crossed tells stairs (0) from a slope (1 - finest / step).
    """
    finest = STEPS[-1]
    for step in STEPS[:-1]:
        inside = whole = 0.0
        for sweep in sweeps:
            for top in (w for w in sweep if w % step == 0 and w - step in sweep):
                inside += sweep[top] - sweep[top - step + finest]
                whole += sweep[top] - sweep[top - step]
        if whole > 0 and inside <= STAIRS * whole:
            return step
    return finest


def _surface(conv: Convolution, inputs: Sequence[int], outputs: Sequence[int], table: Table) -> npt.NDArray[np.float32]:
    """Return seconds at every width up to the full ones, (inputs + 1, outputs + 1)."""
    rows, columns = np.arange(len(conv.inputs) + 1), np.arange(len(conv.outputs) + 1)
    if conv.depthwise:
        line = np.array([table[spec_at(conv, w, w)] for w in outputs])
        spread = _interpolate(columns, outputs, np.maximum.accumulate(line))
        return np.repeat(spread[None].astype(np.float32), len(rows), axis=0)
    grid = np.array([[table[spec_at(conv, i, o)] for o in outputs] for i in inputs])
    grid = np.maximum.accumulate(np.maximum.accumulate(grid, axis=0), axis=1)
    wide = np.stack([_interpolate(columns, outputs, row) for row in grid])
    return np.stack([_interpolate(rows, inputs, column) for column in wide.T], axis=1).astype(np.float32)


def _interpolate(
    at: npt.NDArray[np.int64], known: Sequence[int], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Interpolate linearly, and below the narrowest known width go on towards no time at no width."""
    return np.interp(at, [0, *known], [0.0, *values])


class TimedCost:
    """Parameters, operations and seconds as a function of how many channels each group keeps."""

    def __init__(self, graph: ChannelGraph, times: LayerTimes | None = None) -> None:
        self.counts, self.times = CostModel(graph), times

    def __call__(self, units: Sequence[tuple[int, ...]], chosen: IntArray) -> tuple[int, int, float]:
        """Return the three costs; seconds are 0 without measured times."""
        widths = self.counts.widths(units, chosen)
        seconds = self.times(*self.counts.ends(widths)) if self.times is not None else 0.0
        return (*self.counts.at(widths), seconds)
