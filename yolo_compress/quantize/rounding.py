# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Rounding weights so that a layer's output changes least, not each weight for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from yolo_compress.quantize.weights import QuantizedWeight, WeightForm

SWEEPS = 12  # over all weights; most layers stop moving after four or five
DAMPING = 0.01  # of the mean curvature, so that directions which no image showed do not count as free
SMALLEST = 1e-12  # an input that is always zero has no curvature at all


@dataclass(frozen=True)
class Moments:
    """What has to be known of a convolution's inputs x' and of the outputs y that it should have, to choose its codes.

    Means over sampled output positions; `y` is without the bias. K is input channels per group x kernel area.

    Attributes:
        inputs: `E[x' x'^T]` as (groups, K, K).
        pull: `E[y x'^T]` as (groups, outputs per group, K).
        power: `E[y^2]` as (groups, outputs per group).
    """

    inputs: np.ndarray
    pull: np.ndarray
    power: np.ndarray


def output_error(values: np.ndarray, moments: Moments) -> np.ndarray:
    """Return the mean squared difference `E[(y - v x')^2]` of each output channel, as float64 (outputs,).

    Args:
        values: v, (outputs, inputs per group, height, width).
        moments: Of the layer.
    """
    v = by_group(values, moments)
    cross = (moments.pull * v).sum(axis=2, dtype=np.float64)
    own = ((v @ moments.inputs) * v).sum(axis=2, dtype=np.float64)
    return np.maximum(moments.power - 2 * cross + own, 0).reshape(-1)


def adaround(weight: np.ndarray, start: QuantizedWeight, form: WeightForm, moments: Moments) -> QuantizedWeight:
    """Return a weight rounded up or down, each code so that the layer's output is nearest to the float one.

    Minimises `E[(y - v x')^2]` over `v = s c` with `c` one of the two codes around `w / s`, the problem of Nagel et al.
    2020 (Up or Down? Adaptive Rounding for Post-Training Quantization), with inputs as the quantized model has them. It
    is quadratic in `c`, so second moments of the inputs are all that is needed. Where they relax it and follow
    gradients, this is coordinate descent: each code in turn takes the better of its two values given the others, until
    none moves. It begins twice, from the nearest codes and from those that `_compensated` finds, and each output
    channel keeps the better end; one whose error did not fall keeps the nearest codes.

    Args:
        weight: (outputs, inputs per group, height, width) float32.
        start: Its nearest codes, and the scales, which stay.
        form: Kind and bits of a code.
        moments: Of the layer.
    """
    problem = _Problem(weight, start, form, moments)
    best, error = start.steps, output_error(start.values, moments)
    for begin in (by_group(start.steps, moments), _compensated(problem)):
        steps = _descent(problem, np.clip(begin, problem.low, problem.high)).reshape(weight.shape)
        found = output_error(start.with_steps(steps).values, moments)
        best = np.where((found < error)[:, None, None, None], steps, best)
        error = np.minimum(found, error)
    return start.with_steps(best)


class _Problem:
    """What is minimised, per group of channels; a little is added to the curvature."""

    def __init__(self, weight: np.ndarray, start: QuantizedWeight, form: WeightForm, moments: Moments) -> None:
        self.scale = by_group(np.broadcast_to(start.spread, weight.shape), moments)
        exact = by_group(weight, moments)
        self.low, self.high = _around(exact / self.scale, form, start.table)
        mean = np.einsum("gkk->g", moments.inputs) / moments.inputs.shape[1]
        damping = DAMPING * np.maximum(mean, SMALLEST)[:, None, None]
        self.curvature = moments.inputs + damping * np.eye(moments.inputs.shape[1], dtype=moments.inputs.dtype)
        self.pull = moments.pull + damping * exact


def _around(ratio: np.ndarray, form: WeightForm, table: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return what the code below and the code above each weight stand for, in scales."""
    if form.kind == "uniform":
        low, high = (np.clip(edge(ratio), -form.highest, form.highest) for edge in (np.floor, np.ceil))
        return low, high
    levels = form.levels if table is None else table
    assert levels is not None
    above = np.searchsorted(levels, ratio, side="right")
    last = len(levels) - 1
    return tuple(levels[np.clip(place, 0, last)].astype(ratio.dtype) for place in (above - 1, above))


def _nearer(wanted: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.where(wanted - low <= high - wanted, low, high)


def _descent(problem: _Problem, codes: np.ndarray) -> np.ndarray:
    """Return codes (groups, outputs, K) of which no single one can be improved any more."""
    scale, curvature = problem.scale, problem.curvature
    codes = codes.astype(scale.dtype)
    for _ in range(SWEEPS):
        # half the gradient; made anew for each sweep, so that rounding errors do not add up
        slope = codes * scale @ curvature - problem.pull
        moved = False
        for k in range(codes.shape[2]):
            best = codes[..., k] - slope[..., k] / (curvature[:, k, k][:, None] * scale[..., k])
            new = _nearer(best, problem.low[..., k], problem.high[..., k])
            group, row = np.nonzero(new != codes[..., k])
            if len(row):
                moved = True
                change = (new - codes[..., k])[group, row] * scale[group, row, k]
                codes[..., k] = new
                slope[group, row] += change[:, None] * curvature[group, k]
        if not moved:
            break
    return codes


def _compensated(problem: _Problem) -> np.ndarray:
    """Return codes chosen in order, the error of each made up for by the weights that are not rounded yet.

    Source: Frantar et al. 2022, GPTQ, algorithm 1, from the weights that fit the quantized inputs best, and with each
    code one of its two.
    """
    codes = np.zeros_like(problem.scale)
    for group, curvature in enumerate(problem.curvature):
        inverse = np.linalg.inv(curvature.astype(np.float64))
        left = problem.pull[group].astype(np.float64) @ inverse
        upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
        for k in range(len(curvature)):
            wanted = left[:, k] / problem.scale[group, :, k]
            codes[group, :, k] = _nearer(wanted, problem.low[group, :, k], problem.high[group, :, k])
            error = (left[:, k] - codes[group, :, k] * problem.scale[group, :, k]) / upper[k, k]
            left[:, k:] -= error[:, None] * upper[k, k:]
    return codes


def by_group(weight: np.ndarray, moments: Moments) -> np.ndarray:
    """Return a weight as (groups, outputs per group, K)."""
    groups, inputs = moments.inputs.shape[:2]
    return np.ascontiguousarray(weight.reshape(groups, -1, inputs))


Rounder = Callable[[np.ndarray, QuantizedWeight, WeightForm, Moments], QuantizedWeight]


@dataclass(frozen=True)
class Rounding:
    """An entry of ROUNDINGS: how codes are chosen, beginning with the nearest ones; None where those stay."""

    name: str
    description: str
    choose: Rounder | None


ROUNDINGS = {
    entry.name: entry
    for entry in (
        Rounding("nearest", "Each weight to the nearest code.", None),
        Rounding("adaround", "Up or down, so that the layer's output on calibration images changes least.", adaround),
    )
}
