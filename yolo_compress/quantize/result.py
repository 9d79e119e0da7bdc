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
from yolo_compress.quantize.dynamic import insert_dynamic
from yolo_compress.quantize.format import NumberFormat
from yolo_compress.quantize.graph import Parameters, insert, source_tensor
from yolo_compress.quantize.histogram import Histogram
from yolo_compress.quantize.placement import Group, Placement, Wiring
from yolo_compress.quantize.ranges import relative_error

if TYPE_CHECKING:
    import onnx

FEW_IMAGES = 100  # below this, ranges depend visibly on which images were drawn


@dataclass(frozen=True)
class LayerRow:
    """What became of one convolution.

    Attributes:
        name: Module name, such as model.2.cv1.
        precision: `int8`, or another width of its input's codes; `weights` where its input stays float; `fp32`.
        weight: Form of the weight.
        activation: Range of its input that codes stand for, None in float and where it is found at run time.
        method: How that range was chosen.
        error: Energy of its input's quantization error as a share of the input's energy, None in float and where scales
            were learned or are found at run time.
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
    """A Q/DQ ONNX and how it came about.

    Attributes:
        path: The file.
        layers: What became of each convolution.
        notes: Footnotes.
        images: Calibration images that were looked at.
        size_bytes: Of the file.
        float_size_bytes: Of the float model.
    """

    path: Path
    layers: tuple[LayerRow, ...]
    notes: tuple[str, ...]
    images: int
    size_bytes: int
    float_size_bytes: int


@dataclass(frozen=True)
class Choices:
    """All that a Q/DQ graph is written from.

    Attributes:
        quantizers: Scale and zero point of each group of tensors.
        methods: How they were chosen.
        parameters: Codes and bias of each convolution, by its node.
        seen: What calibration saw of each group, as far as it looked.
        errors: By node, error of the output before and after repair, where there was any.
    """

    quantizers: Mapping[Group, Affine]
    methods: Mapping[Group, str]
    parameters: Mapping[int, Parameters]
    seen: Mapping[Group, Histogram] = field(default_factory=dict)
    errors: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def quantized_graph(
    model: onnx.ModelProto, placement: Placement, numbers: NumberFormat, made: Choices
) -> onnx.ModelProto:
    """Return the Q/DQ graph of a float model."""
    if numbers.activations == "dynamic":
        return insert_dynamic(model, placement, made.parameters)
    return insert(
        model, placement, made.quantizers, made.parameters, int32_bias=numbers.int32_bias, packed=numbers.packed
    )


def write_result(
    model: onnx.ModelProto,
    placement: Placement,
    numbers: NumberFormat,
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
    result = quantized_graph(model, placement, numbers, made)
    entry = result.metadata_props.add()
    entry.key, entry.value = "yolo_compress", json.dumps(dict(facts))
    written = result.SerializeToString()
    atomic_write(out, written)
    rows = _rows(model, placement, numbers, made)
    told = (_count(rows, numbers), *numbers.notes(), *notes)
    return QuantizeResult(out, rows, told, images, len(written), model.ByteSize())


def calibration_notes(images: int) -> list[str]:
    """Return what there is to say about the number of calibration images."""
    few = f"ranges come from {images} images; from {FEW_IMAGES} on they hardly depend on which ones"
    return [few] if images < FEW_IMAGES else []


def _rows(model: onnx.ModelProto, placement: Placement, numbers: NumberFormat, made: Choices) -> tuple[LayerRow, ...]:
    wiring = Wiring(model.graph)
    groups = {name: group for group in made.quantizers for name in group.tensors}
    rows = []
    for layer in placement.layers:
        weight = made.parameters[layer.node].weight
        if weight is None:
            rows.append(LayerRow(layer.name, "fp32", "fp32", None, "", None, None, layer.why))
            continue
        words, after = numbers.weights.words(weight.scales.shape[1]), made.errors.get(layer.node)
        words += " (INT4)" if numbers.packed else ""
        limits, method, error = None, "" if numbers.activations == "none" else numbers.activations, None
        if numbers.static:
            group = groups[source_tensor(wiring, wiring.nodes[layer.node].input[0], groups)]
            quantizer, seen = made.quantizers[group], made.seen.get(group)
            limits, method = quantizer.limits, made.methods[group]
            error = None if seen is None else relative_error(seen, quantizer)
        rows.append(LayerRow(layer.name, numbers.precision, words, limits, method, error, after, ""))
    return tuple(rows)


def _count(rows: Sequence[LayerRow], numbers: NumberFormat) -> str:
    floating = sum(row.precision == "fp32" for row in rows)
    made = "have quantized weights" if numbers.activations == "none" else f"are {numbers.precision}"
    return f"{len(rows) - floating} of {len(rows)} convolutions {made}, {floating} stay in float"
