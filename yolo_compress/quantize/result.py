# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A Q/DQ ONNX as it is written, and the table of what became of each layer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_compress.artifacts import atomic_write
from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.graph import Parameters, insert, source_tensor
from yolo_compress.quantize.histogram import Histogram
from yolo_compress.quantize.placement import Group, Placement, Wiring
from yolo_compress.quantize.ranges import relative_error
from yolo_compress.quantize.scheme import Scheme
from yolo_compress.quantize.weights import WeightForm

if TYPE_CHECKING:
    import onnx

FEW_IMAGES = 100  # below this, ranges depend visibly on which images were drawn


@dataclass(frozen=True)
class LayerRow:
    """What became of one convolution.

    Attributes:
        name: Module name, such as model.2.cv1.
        precision: `int8` or `fp32`.
        weight: Form of the weight.
        activation: Range of its input that codes stand for, None in float.
        method: How that range was chosen.
        error: Energy of its input's quantization error as a share of the input's energy, None in float and where scales
            were learned.
        output_error: The same of its output behind the activation, before and after repair, None without repair.
        why: What keeps it in float, empty where it is quantized.
    """

    name: str
    precision: str
    weight: str
    activation: tuple[float, float] | None
    method: str
    error: float | None
    output_error: tuple[float, float] | None
    why: str


@dataclass(frozen=True)
class QuantizeResult:
    """A Q/DQ ONNX and how it came about; `images` counts the calibration images."""

    path: Path
    layers: tuple[LayerRow, ...]
    notes: tuple[str, ...]
    images: int


@dataclass(frozen=True)
class Choices:
    """All that a Q/DQ graph is written from.

    Attributes:
        quantizers: Scale and zero point of each group of tensors.
        methods: How they were chosen.
        parameters: Codes and bias of each convolution, by its node.
        form: Of the weights.
        seen: What calibration saw of each group, as far as it looked.
        errors: By node, error of the output before and after repair, where there was any.
    """

    quantizers: Mapping[Group, Affine]
    methods: Mapping[Group, str]
    parameters: Mapping[int, Parameters]
    form: WeightForm
    seen: Mapping[Group, Histogram] = field(default_factory=dict)
    errors: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def write_result(
    model: onnx.ModelProto,
    placement: Placement,
    scheme: Scheme,
    made: Choices,
    out: Path,
    *,
    facts: Mapping[str, Any],
    images: int,
    notes: Sequence[str] = (),
) -> QuantizeResult:
    """Write the Q/DQ graph of a float model, with the facts in its metadata, and return the table of its layers.

    Raises:
        OutputError: `out` cannot be written.
    """
    result = insert(model, placement, made.quantizers, made.parameters, int32_bias=scheme.int32_bias)
    entry = result.metadata_props.add()
    entry.key, entry.value = "yolo_compress", json.dumps(dict(facts))
    atomic_write(out, result.SerializeToString())
    rows = _rows(model, placement, made)
    return QuantizeResult(out, rows, (*_notes(rows, scheme, made.form), *notes), images)


def calibration_notes(images: int) -> list[str]:
    """Return what there is to say about the number of calibration images."""
    few = f"ranges come from {images} images; from {FEW_IMAGES} on they hardly depend on which ones"
    return [few] if images < FEW_IMAGES else []


def _rows(model: onnx.ModelProto, placement: Placement, made: Choices) -> tuple[LayerRow, ...]:
    wiring = Wiring(model.graph)
    groups = {name: group for group in made.quantizers for name in group.tensors}
    rows = []
    for layer in placement.layers:
        weight = made.parameters[layer.node].weight
        if weight is None:
            rows.append(LayerRow(layer.name, "fp32", "fp32", None, "", None, None, layer.why))
            continue
        group = groups[source_tensor(wiring, wiring.nodes[layer.node].input[0], groups)]
        quantizer, seen = made.quantizers[group], made.seen.get(group)
        error = None if seen is None else relative_error(seen, quantizer)
        words = made.form.words(weight.scales.shape[1])
        after = made.errors.get(layer.node)
        rows.append(LayerRow(layer.name, "int8", words, quantizer.limits, made.methods[group], error, after, ""))
    return tuple(rows)


def _notes(rows: Sequence[LayerRow], scheme: Scheme, form: WeightForm) -> list[str]:
    floating = sum(row.precision == "fp32" for row in rows)
    notes = [f"{len(rows) - floating} of {len(rows)} convolutions are int8, {floating} stay in float"]
    if form.bits < 8:
        notes.append(f"weights have {form.bits} bits and are stored in bytes: a simulation, no smaller and no faster")
    if scheme.avoid_overflow and not form.avoid_overflow:
        notes.append("weights use all codes: on x86 CPUs without VNNI, sums saturate and accuracy is lost")
    return notes
