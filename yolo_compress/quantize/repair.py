# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Making up for what quantization costs, layer by layer and without labels: rounding and biases that fit the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.foreground import Places
from yolo_compress.quantize.graph import Parameters, conv_options, float_parameters, function_behind, insert
from yolo_compress.quantize.placement import Group, Layer, Placement, Wiring
from yolo_compress.quantize.ranges import Function
from yolo_compress.quantize.rounding import Moments, Rounder
from yolo_compress.quantize.stepwise import Stepwise
from yolo_compress.quantize.weights import WeightForm

if TYPE_CHECKING:
    import onnx

POSITIONS = 256  # of each layer's output that are looked at in an image
KEPT = 64  # of those, whose inputs are kept until the bias is chosen
NEWTON_STEPS = 6
STEP, TINY = 1e-4, 1e-30


def repair_layers(
    model: onnx.ModelProto,
    placement: Placement,
    quantizers: Mapping[Group, Affine],
    parameters: Mapping[int, Parameters],
    images: Sequence[Path],
    *,
    imgsz: int,
    form: WeightForm,
    rounder: Rounder | None,
    bias: bool,
    foreground: float,
    int32_bias: bool,
    progress: Callable[[str], None] | None = None,
) -> tuple[dict[int, Parameters], dict[int, tuple[float, float]]]:
    """Choose codes and biases of each convolution so that its output stays what it is in the float model.

    Layers are taken in order: the inputs of one are those that the quantized layers before it produce, repaired. Layers
    that depend on each other in no way are taken together. What stays in float is left as it is: the head's outputs are
    scores, most of them of nothing, and a mean over those says little.

    Args:
        model: The float model.
        placement: Where quantizers go.
        quantizers: Scale and zero point of each group.
        parameters: The codes and biases to begin with, by node.
        images: Calibration images, letterboxed to `imgsz`.
        imgsz: Side of the square input in pixels.
        form: Of the weights.
        rounder: Chooses codes, from `ROUNDINGS`; the nearest ones stay without.
        bias: Add to each bias by how much the output is too low (Nagel et al. 2019, Data-Free Quantization, section
            4.2), judged behind the activation.
        foreground: Share of the positions looked at that is drawn where the float model detects something, see
            `Places`.
        int32_bias: Biases are stored as int32.
        progress: Takes a line now and then.

    Returns:
        Parameters by node; and for each quantized layer the energy of its output's error behind the activation, as a
        share of the output's own, before and after.
    """
    wiring = Wiring(model.graph)
    result, told = dict(parameters), dict[int, tuple[float, float]]()
    waves = waves_of(wiring, placement.layers)
    floating, changed = Stepwise(images, imgsz), Stepwise(images, imgsz)
    places = Places.of(model, images, imgsz, foreground)
    for number, wave in enumerate(waves):
        quantized = insert(model, placement, quantizers, result, int32_bias=int32_bias)
        for layer, seen in _look(floating, changed, model, quantized, wiring, wave, places).items():
            weight, given = float_parameters(wiring, layer.node)[0], result[layer.node]
            codes, function = given.weight, function_behind(wiring, layer.node)
            assert codes is not None
            offset = 0.0 if given.bias is None else given.bias.astype(np.float64)[:, None]
            exact, got = seen.outputs(codes.values)
            before = _share(function(exact + offset), function(got + offset))
            if rounder:
                codes = rounder(weight, codes, form, seen.moments)
                exact, got = seen.outputs(codes.values)
            corrected = given.bias
            if bias and given.bias is not None:
                shift = best_shift(exact + offset, got + offset, function)
                corrected = (given.bias + shift).astype(np.float32)
                got = got + shift[:, None]
            told[layer.node] = (before, _share(function(exact + offset), function(got + offset)))
            result[layer.node] = Parameters(codes, corrected)
        if progress and (number + 1) * 4 // len(waves) > number * 4 // len(waves):
            done, all_of_them = sum(map(len, waves[: number + 1])), sum(map(len, waves))
            progress(f"repairing: {done} of {all_of_them} layers")
    return result, told


def best_shift(exact: np.ndarray, got: np.ndarray, function: Function) -> np.ndarray:
    """Return what to add to each output so that it is nearest to the exact one behind a function.

    Minimises `E[(f(y) - f(y' + s))^2]` by Gauss-Newton steps from zero. Without a function that is the mean difference
    (Nagel et al. 2019, Data-Free Quantization, section 4.2). Behind SiLU the mean would be one of mostly outputs that
    are cut off, where a difference does not matter. A shift stays between the smallest and the largest difference that
    was seen, so that an output which is cut off on all of these images is not lost for others. An output for which the
    error does not fall is not shifted.

    Args:
        exact: y, (outputs, positions), with the bias.
        got: y', in the same shape.
        function: f, monotone but for a small dip.
    """
    wanted, shift = function(exact), np.zeros((len(exact), 1))
    low, high = (limit(exact - got, axis=1, keepdims=True) for limit in (np.min, np.max))
    for _ in range(NEWTON_STEPS):
        now = got + shift
        slope = (function(now + STEP) - function(now - STEP)) / (2 * STEP)
        curvature = (slope**2).sum(axis=1, keepdims=True)
        step = (slope * (wanted - function(now))).sum(axis=1, keepdims=True) / np.maximum(curvature, TINY)
        shift = np.clip(shift + step, low, high)
    before = ((wanted - function(got)) ** 2).sum(axis=1)
    after = ((wanted - function(got + shift)) ** 2).sum(axis=1)
    return np.where(after < before, shift[:, 0], 0.0)


def _share(exact: np.ndarray, got: np.ndarray) -> float:
    return float(((exact - got) ** 2).sum() / max(float((exact**2).sum()), TINY))


class Seen:
    """Sums over the positions that were looked at, of one convolution."""

    def __init__(self, weight: np.ndarray, conv: onnx.NodeProto) -> None:
        self.options = conv_options(conv)
        self.weight = weight
        groups = self.options.groups
        self.rows = weight.reshape(groups, len(weight) // groups, -1)
        _, outputs, size = self.rows.shape
        self.inputs = np.zeros((groups, size, size), np.float32)
        self.pull = np.zeros((groups, outputs, size), np.float32)
        self.power = np.zeros((groups, outputs))
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []  # inputs and outputs at some positions
        self.count = 0

    def add(self, exact: np.ndarray, got: np.ndarray, batch: int, places: Places) -> None:
        """Take in the inputs (N, C, H, W) of the float and of the quantized model at the same random positions."""
        random = np.random.default_rng(batch)
        for image, (one, other) in enumerate(zip(exact, got, strict=True)):
            windows, quantized = self._windows(one), self._windows(other)
            rows, columns = windows.shape[1:3]
            drawn = places.drawn(batch, image, (rows, columns), POSITIONS, random)
            x, z = (self._taken(w, drawn // columns, drawn % columns) for w in (windows, quantized))
            y = x @ self.rows.transpose(0, 2, 1)  # (groups, positions, outputs)
            self.inputs += z.transpose(0, 2, 1) @ z
            self.pull += y.transpose(0, 2, 1) @ z
            self.power += (y.astype(np.float64) ** 2).sum(axis=1)
            self.kept.append((z[:, :KEPT].copy(), y[:, :KEPT].copy()))
            self.count += len(drawn)

    @property
    def moments(self) -> Moments:
        """Means over all positions."""
        return Moments(self.inputs / self.count, self.pull / self.count, self.power / self.count)

    def outputs(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the float layer puts out and what it does with other weights, (outputs, positions), no bias."""
        rows = values.reshape(self.rows.shape).transpose(0, 2, 1)
        exact = np.concatenate([y for _, y in self.kept], axis=1)
        got = np.concatenate([z @ rows for z, _ in self.kept], axis=1)
        return tuple(np.moveaxis(y, 1, 2).reshape(len(values), -1).astype(np.float64) for y in (exact, got))

    def _windows(self, values: np.ndarray) -> np.ndarray:
        top, left, bottom, right = self.options.pads
        padded = np.pad(values, ((0, 0), (top, bottom), (left, right)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.weight.shape[2:], axis=(1, 2))
        return windows[:, :: self.options.strides[0], :: self.options.strides[1]]

    def _taken(self, windows: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        taken = windows[:, rows, columns]  # (channels, positions, height, width)
        groups = self.options.groups
        taken = taken.reshape(groups, -1, *taken.shape[1:]).transpose(0, 2, 1, 3, 4)
        return np.ascontiguousarray(taken).reshape(groups, len(rows), -1)


def _look(
    floating: Stepwise,
    changed: Stepwise,
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    wiring: Wiring,
    wave: Sequence[Layer],
    places: Places,
) -> dict[Layer, Seen]:
    """Run both models up to the inputs of some layers."""
    by_output = {node.output[0]: node for node in quantized.graph.node}
    exact = {layer: wiring.nodes[layer.node].input[0] for layer in wave}
    got = {layer: by_output[wiring.nodes[layer.node].output[0]].input[0] for layer in wave}
    seen = {layer: Seen(float_parameters(wiring, layer.node)[0], wiring.nodes[layer.node]) for layer in wave}
    steps = floating.advance(model, list(exact.values())), changed.advance(quantized, list(got.values()))
    for number, (one, other) in enumerate(zip(*steps, strict=True)):
        for layer, sums in seen.items():
            sums.add(one[exact[layer]], other[got[layer]], number, places)
    return seen


def waves_of(wiring: Wiring, layers: Sequence[Layer]) -> list[list[Layer]]:
    """Sort quantized layers by how many others stand before them on the longest path."""
    by_node = {layer.node: layer for layer in layers}
    depth: dict[int, int] = {}
    for index in range(len(wiring.nodes)):
        before = [depth[wiring.makers[name]] for _, name in wiring.data_inputs(index) if name in wiring.makers]
        depth[index] = max(before, default=0) + (index in by_node)
    waves: dict[int, list[Layer]] = defaultdict(list)
    for layer in layers:
        if not layer.why:
            waves[depth[layer.node]].append(layer)
    return [waves[number] for number in sorted(waves)]
