# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which range each tensor gets: by one method, or by what those of several do to the layers that read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.calibration import Runner, observe
from yolo_compress.quantize.graph import conv_options, float_parameters, function_behind, source_tensor
from yolo_compress.quantize.histogram import Histogram
from yolo_compress.quantize.placement import Group, Placement, Wiring
from yolo_compress.quantize.ranges import FUNCTIONS, RANGES, Form, RangeMethod, relative_error
from yolo_compress.quantize.scheme import Scheme

if TYPE_CHECKING:
    import onnx


TRIAL_IMAGES = 16  # of the calibration set, that ranges are compared on where layers decide


@dataclass(frozen=True)
class Ranges:
    """The quantizer of each group of tensors, the method that chose it, and what was seen of the group."""

    quantizers: Mapping[Group, Affine]
    methods: Mapping[Group, str]
    seen: Mapping[Group, Histogram]


def choose_ranges(
    model: onnx.ModelProto,
    placement: Placement,
    scheme: Scheme,
    method: RangeMethod,
    images: Sequence[Path],
    *,
    imgsz: int,
    seen: dict[Group, Histogram] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Ranges:
    """Run the float model over calibration images and choose the range of each group of tensors.

    Groups in `seen` are not looked at again, and it takes those that are.
    """
    known = {} if seen is None else seen
    if missing := [group for group in placement.groups if group not in known]:
        known.update(observe(model, missing, images, imgsz=imgsz, progress=progress))
    seen = {group: known[group] for group in placement.groups}
    form = Form(scheme.signed, scheme.symmetric)
    tried = {group: _tried(group, histogram, form, method) for group, histogram in seen.items()}
    decided: dict[Group, str] = {}
    if method.choose is None:
        decided = best_by_output(model, placement, tried, images[:TRIAL_IMAGES], imgsz=imgsz, progress=progress)
    # what no quantized layer reads is decided by the tensor itself
    methods = {group: decided.get(group) or _least_error(group, seen[group], tried[group]) for group in seen}
    return Ranges({group: tried[group][name] for group, name in methods.items()}, methods, seen)


def _tried(group: Group, seen: Histogram, form: Form, method: RangeMethod) -> dict[str, Affine]:
    """Return the quantizers that a group may get, by the name of the method: one, unless layers are to decide."""
    if group.fixed:
        return {"fixed": form.quantizer(*group.fixed)}
    through = FUNCTIONS.get(group.through)
    entries = [method] if method.choose else RANGES.values()
    return {entry.name: form.quantizer(*entry.choose(seen, form, through)) for entry in entries if entry.choose}


def _least_error(group: Group, seen: Histogram, tried: Mapping[str, Affine]) -> str:
    through = FUNCTIONS.get(group.through)
    return min(tried, key=lambda name: relative_error(seen, tried[name], through))


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
    layers = {node: _Layer(wiring, node) for node in readers}
    changed: dict[tuple[int, str], float] = defaultdict(float)
    energy: dict[int, float] = defaultdict(float)
    for values in Runner(model, sorted(set(inputs.values())), imgsz).run(images, "comparing ranges", progress):
        for node, group in readers.items():
            layer, x = layers[node], values[inputs[node]]
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
