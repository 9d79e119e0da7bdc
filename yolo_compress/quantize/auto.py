# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The range of each tensor chosen among those of several methods by what it does to the layers that read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.calibration import Runner
from yolo_compress.quantize.graph import conv_options, float_parameters, function_behind, source_tensor
from yolo_compress.quantize.placement import Group, Placement, Wiring

if TYPE_CHECKING:
    import onnx


def best_by_output(
    model: onnx.ModelProto,
    placement: Placement,
    candidates: Mapping[Group, Mapping[str, Affine]],
    images: Sequence[Path],
    *,
    imgsz: int,
    progress: Callable[[str], None] | None = None,
) -> dict[Group, str]:
    """Return the method whose range keeps the outputs of the layers behind a group nearest to what they are.

    For each quantized convolution that reads the group, in the float model: the energy of the change of its output
    behind the activation when only its input is quantized, as a share of the output's energy, summed over the layers.
    Groups that no quantized convolution reads are not in the answer.

    Args:
        model: The float model.
        placement: Where quantizers go.
        candidates: The quantizers of each group by the name of the method.
        images: Calibration images, letterboxed to `imgsz`.
        imgsz: Side of the square input in pixels.
        progress: Takes a line now and then.
    """
    wiring = Wiring(model.graph)
    groups = {name: group for group in candidates for name in group.tensors}
    readers = {
        layer.node: groups[source_tensor(wiring, wiring.nodes[layer.node].input[0], groups)]
        for layer in placement.layers
        if not layer.why
    }
    inputs = {node: wiring.nodes[node].input[0] for node in readers}
    changed: dict[tuple[int, str], float] = defaultdict(float)
    energy: dict[int, float] = defaultdict(float)
    for values in Runner(model, sorted(set(inputs.values())), imgsz).run(images, "comparing ranges", progress):
        for node, group in readers.items():
            layer = _Layer(wiring, node)
            x = values[inputs[node]]
            exact = layer(x)
            energy[node] += float((exact**2).sum())
            errors: dict[Affine, float] = {}  # methods often agree
            for name, quantizer in candidates[group].items():
                if quantizer not in errors:
                    errors[quantizer] = float(((layer(quantizer.round_trip(x)) - exact) ** 2).sum())
                changed[node, name] += errors[quantizer]
    shares: dict[Group, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (node, name), error in changed.items():
        shares[readers[node]][name] += error / max(energy[node], 1e-30)
    return {group: min(found, key=found.__getitem__) for group, found in shares.items()}


class _Layer:
    """A convolution of the float model with the activation behind it."""

    def __init__(self, wiring: Wiring, node: int) -> None:
        weight, bias = float_parameters(wiring, node)
        self.weight, self.bias = torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias)
        self.options, self.function = conv_options(wiring.nodes[node]), function_behind(wiring, node)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        top, left, bottom, right = self.options.pads
        padded = functional.pad(torch.from_numpy(x), (left, right, top, bottom))
        groups, strides = self.options.groups, self.options.strides
        return self.function(functional.conv2d(padded, self.weight, self.bias, stride=strides, groups=groups).numpy())
