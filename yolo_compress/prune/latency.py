# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What the layers of a model cost in time at any widths, fitted to profiles of narrower variants of the model.

The model is profiled on its runtime at full width and at a few random widths. Each convolution with i of I inputs and o
of O outputs then gets

    t(i, o) = a + b i / I + c r(o) / O + d i r(o) / (I O),    a, b, c, d >= 0,

dispatch, reading, writing and arithmetic, where r rounds up to a multiple of the step that the hardware computes in.
The step is the one under which all layers fit best. Coefficients are not negative, so that a narrower layer never
seems slower.

The sum over layers only tells which channels are worth removing; how long the finished model takes is measured on the
model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from torch import nn

from yolo_compress.prune.cost import CostModel
from yolo_compress.prune.graph import ChannelGraph, IntArray
from yolo_compress.prune.inputs import FloatArray
from yolo_compress.prune.trace import Convolution

STEPS = (8, 16, 32, 64)
BETTER = 0.9  # a coarser step has to leave less than this share of the finer one's residual
VARIANTS = 12  # random structures that are profiled beside the full one
LEAST = 0.25  # of its width that a layer keeps in them


class Timing(Protocol):
    """A runtime that models are timed on."""

    def profile(self, model: nn.Module, layers: Iterable[str]) -> Mapping[str, float]:
        """Return seconds by layer, as they run inside the whole model."""
        ...

    def ratio(self, model: nn.Module) -> float:
        """Return how long a model takes relative to the one that is being pruned, measured in turns."""
        ...


class LayerTimes:
    """Seconds of all convolutions of a graph, as a function of their widths.

    Attributes:
        step: Multiple of output channels that the hardware computes in, one of `STEPS`.
        residual: Root mean square of (fitted - measured) / measured over layers and variants.
    """

    def __init__(
        self, graph: ChannelGraph, samples: Sequence[tuple[IntArray, IntArray, FloatArray]], *, step: int | None = None
    ) -> None:
        """Fit the layers.

        Args:
            graph: Of the full model.
            samples: (inputs, outputs, seconds) per variant, each with one entry per convolution of the graph.
            step: Of the outputs; the one that fits best when not given.
        """
        inputs, outputs, seconds = (np.stack([sample[part] for sample in samples]) for part in range(3))
        fits = {tried: _fit(graph.convolutions, inputs, outputs, seconds, tried) for tried in STEPS if step is None}
        self.step = coarsest({tried: squares for tried, (_, squares) in fits.items()}) if step is None else step
        self.coefficients, squares = fits.get(self.step) or _fit(
            graph.convolutions, inputs, outputs, seconds, self.step
        )
        self.residual = float(np.sqrt(squares / seconds.size))
        self.full_inputs = np.array([len(conv.inputs) for conv in graph.convolutions])
        self.full_outputs = np.array([len(conv.outputs) for conv in graph.convolutions])

    def __call__(self, inputs: IntArray, outputs: IntArray) -> float:
        """Return seconds at the given widths, one input and output width per convolution."""
        return float(self.each(inputs, outputs).sum())

    def each(self, inputs: IntArray, outputs: IntArray) -> FloatArray:
        """Return seconds per convolution."""
        features = _features(inputs, outputs, self.full_inputs, self.full_outputs, self.step)
        return (features * self.coefficients).sum(axis=1)


class TimedCost:
    """Parameters, operations and seconds as a function of how many channels each group keeps."""

    def __init__(self, graph: ChannelGraph, times: LayerTimes | None = None) -> None:
        self.counts, self.times = CostModel(graph), times

    def __call__(self, chosen: IntArray) -> tuple[int, int, float]:
        """Return the three costs; seconds are 0 without measured times."""
        widths = self.counts.widths(chosen)
        seconds = self.times(*self.counts.ends(widths)) if self.times is not None else 0.0
        return (*self.counts.at(widths), seconds)


def random_widths(graph: ChannelGraph, generator: np.random.Generator) -> IntArray:
    """Draw a width per unit, a multiple of the finest step where the unit has room for one."""
    drawn = []
    for unit in graph.units:
        full = len(graph.groups[unit[0]])
        step = graph.together(unit)
        if step == 1 and full >= 2 * STEPS[0]:
            step = STEPS[0]
        least = max(step, round(LEAST * full / step) * step)
        drawn.append(min(full, int(generator.integers(least // step, full // step + 1)) * step))
    return np.array(drawn, dtype=np.int64)


def coarsest(squares: Mapping[int, float]) -> int:
    """Return the coarsest step that fits clearly better than the finer ones, from sums of squares by step."""
    best = STEPS[0]
    for step in STEPS[1:]:
        if squares[step] < BETTER * squares[best]:
            best = step
    return best


def _fit(
    convolutions: Sequence[Convolution], inputs: IntArray, outputs: IntArray, seconds: FloatArray, step: int
) -> tuple[FloatArray, float]:
    """Return (a, b, c, d) per convolution and the sum of squared relative residuals; rows are variants."""
    coefficients = np.zeros((len(convolutions), 4))
    squares = 0.0
    for index, conv in enumerate(convolutions):
        wide = np.full(len(inputs), len(conv.inputs)), np.full(len(inputs), len(conv.outputs))
        features = _features(inputs[:, index], outputs[:, index], *wide, step)
        scaled = features / seconds[:, index, None]  # relative residuals: a layer's noise grows with its time
        coefficients[index], norm = nnls(scaled, np.ones(len(scaled)))
        squares += norm**2
    return coefficients, squares


def _features(
    inputs: IntArray, outputs: IntArray, full_inputs: IntArray, full_outputs: IntArray, step: int
) -> npt.NDArray[np.float64]:
    read = inputs / full_inputs
    written = -(-outputs // step) * step / full_outputs
    return np.stack([np.ones_like(read), read, written, read * written], axis=1)


def measure_layers(
    graph: ChannelGraph,
    timing: Timing,
    narrowed: Callable[[IntArray], nn.Module],
    *,
    variants: int = VARIANTS,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> LayerTimes:
    """Profile a model at full width and at random widths, and fit its layers.

    Args:
        graph: Of the full model.
        timing: The runtime.
        narrowed: Makes a model of one width per unit.
        variants: Random structures beside the full one.
        seed: Of their widths, so that the same ones are found in the runtime's cache.
        progress: Takes a line per variant.
    """
    costs, generator = CostModel(graph), np.random.default_rng(seed)
    full = np.array([len(graph.groups[unit[0]]) for unit in graph.units], dtype=np.int64)
    layers = [conv.layer for conv in graph.convolutions]
    samples = []
    for index in range(variants + 1):
        chosen = random_widths(graph, generator) if index else full
        seconds = timing.profile(narrowed(chosen), layers)
        ends = costs.ends(costs.widths(chosen))
        samples.append((*ends, np.array([seconds[layer] for layer in layers])))
        progress(f"layer times: {index + 1} of {variants + 1} profiles")
    return LayerTimes(graph, samples)
