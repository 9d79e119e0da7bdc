# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Writing quantizers into an ONNX graph as QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.errors import require
from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.placement import Group, Placement, Wiring
from yolo_compress.quantize.ranges import Function, silu
from yolo_compress.quantize.storage import assembled, raised
from yolo_compress.quantize.weights import WeightForm, nearest
from yolo_compress.quantize.writer import Names, Parameters, Writer

if TYPE_CHECKING:
    import onnx

INT32_LIMIT = 2.0**30  # codes of a bias; half of int32, since the accumulator adds to it


def float_parameters(wiring: Wiring, node: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return weight and bias of a convolution of the float model, as float32."""
    to_array = require("onnx", extra="onnx", purpose="quantization").numpy_helper.to_array
    names = wiring.nodes[node].input
    weight = to_array(wiring.constants[names[1]]).astype(np.float32)
    bias = to_array(wiring.constants[names[2]]).astype(np.float32) if len(names) > 2 and names[2] else None
    return weight, bias


@dataclass(frozen=True)
class ConvOptions:
    """How a convolution goes over its input; `pads` are top, left, bottom, right."""

    groups: int
    strides: tuple[int, ...]
    pads: tuple[int, ...]


def conv_options(node: onnx.NodeProto) -> ConvOptions:
    """Return the options of a Conv node."""
    found = {item.name: item for item in node.attribute}
    return ConvOptions(
        found["group"].i if "group" in found else 1,
        tuple(found["strides"].ints) if "strides" in found else (1, 1),
        tuple(found["pads"].ints) if "pads" in found else (0, 0, 0, 0),
    )


def function_behind(wiring: Wiring, node: int) -> Function:
    """Return SiLU where one follows the convolution, else the identity."""
    readers = wiring.readers[wiring.nodes[node].output[0]]
    return silu if any(wiring.nodes[reader].op_type == "Sigmoid" for reader, _ in readers) else np.asarray


def nearest_parameters(
    model: onnx.ModelProto,
    placement: Placement,
    quantizers: Mapping[Group, Affine],
    form: WeightForm,
    *,
    int32_bias: bool,
) -> dict[int, Parameters]:
    """Return the parameters of every convolution by its node, each weight rounded to the nearest code."""
    wiring = Wiring(model.graph)
    by_tensor = {name: quantizer for group, quantizer in quantizers.items() for name in group.tensors}
    found = {}
    for layer in placement.layers:
        weight, bias = float_parameters(wiring, layer.node)
        codes = None
        if not layer.why:
            smallest: np.ndarray | float = 0.0
            if bias is not None and int32_bias:  # a channel of tiny weights must not push its bias out of int32
                source = _quantizer_behind(wiring, wiring.nodes[layer.node].input[0], by_tensor)
                smallest = (np.abs(bias) / (INT32_LIMIT * source.scale)).astype(np.float32)[:, None]
            codes = nearest(weight, form, smallest)
        found[layer.node] = Parameters(codes, bias)
    return found


def insert(
    model: onnx.ModelProto,
    placement: Placement,
    quantizers: Mapping[Group, Affine],
    parameters: Mapping[int, Parameters],
    *,
    int32_bias: bool,
    packed: bool = False,
) -> onnx.ModelProto:
    """Return a copy of a float model with quantizers in it; metadata, inputs and outputs stay as they are.

    Weights become integer constants, symmetric per output channel, behind a DequantizeLinear. Codes of 4 and of 16 bits
    take opset 21, to which the copy is raised where they occur.

    Args:
        model: The float model that `placement` was made for.
        placement: Where quantizers go.
        quantizers: Scale and zero point of each group.
        parameters: Codes and bias of each convolution, by its node.
        int32_bias: Store biases as int32 under input scale x weight scale, else leave them float.
        packed: Store codes of weights as INT4, two to a byte.
    """
    onnx = require("onnx", extra="onnx", purpose="quantization")
    if (
        packed
        or any(quantizer.bits > 8 for quantizer in quantizers.values())
        or any(map(_is_wide, parameters.values()))
    ):
        model = raised(model)
    wiring = Wiring(model.graph)
    by_tensor = {name: quantizer for group, quantizer in quantizers.items() for name in group.tensors}
    writer = Writer(onnx, packed)
    read = {wiring.nodes[index].input[position] for index, position in placement.reads}
    nodes = [node for name in wiring.inputs if name in read for node in writer.pair(name, by_tensor[name])]
    for index, original in enumerate(wiring.nodes):
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if index in parameters:
            given = parameters[index]
            if given.weight is not None:
                source = _quantizer_behind(wiring, original.input[0], by_tensor) if int32_bias else None
                nodes += writer.weight(node, given, source)
            elif given.bias is not None:
                writer.bias(node, given.bias)
        for position, name in enumerate(original.input):
            if (index, position) in placement.reads:
                node.input[position] = Names.of(name).values
        nodes.append(node)
        for name in original.output:
            if name in read:
                nodes += writer.pair(name, by_tensor[name])
    return assembled(model, nodes, writer.constants)


def source_tensor(wiring: Wiring, name: str, quantized: Mapping[str, object]) -> str:
    """Return the quantized tensor whose codes a tensor carries; passing operations do not change them."""
    while name not in quantized:
        name = next(source for _, source in wiring.data_inputs(wiring.makers[name]))
    return name


def _quantizer_behind(wiring: Wiring, name: str, by_tensor: Mapping[str, Affine]) -> Affine:
    return by_tensor[source_tensor(wiring, name, by_tensor)]


def _is_wide(parameters: Parameters) -> bool:
    return parameters.weight is not None and parameters.weight.codes.dtype == np.int16
