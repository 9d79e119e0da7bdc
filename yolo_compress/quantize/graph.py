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
from yolo_compress.quantize.weights import QuantizedWeight, WeightForm, nearest

if TYPE_CHECKING:
    import onnx

INT32_LIMIT = 2.0**30  # codes of a bias; half of int32, since the accumulator adds to it


@dataclass(frozen=True)
class Names:
    """What the nodes and constants of one tensor's quantizer are called."""

    scale: str
    zero_point: str
    codes: str
    values: str

    @staticmethod
    def of(tensor: str) -> Names:
        """Name them after the tensor."""
        return Names(f"{tensor}_scale", f"{tensor}_zero_point", f"{tensor}_quantized", f"{tensor}_dequantized")


@dataclass(frozen=True)
class Parameters:
    """Of a convolution as it is written.

    Attributes:
        weight: Its codes, None where it stays in float.
        bias: (outputs,) float32, None where it has none.
    """

    weight: QuantizedWeight | None
    bias: np.ndarray | None


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
) -> onnx.ModelProto:
    """Return a copy of a float model with quantizers in it; metadata, inputs and outputs stay as they are.

    Weights become integer constants, symmetric per output channel, behind a DequantizeLinear.

    Args:
        model: The float model that `placement` was made for.
        placement: Where quantizers go.
        quantizers: Scale and zero point of each group.
        parameters: Codes and bias of each convolution, by its node.
        int32_bias: Store biases as int32 under input scale x weight scale, else leave them float.
    """
    onnx = require("onnx", extra="onnx", purpose="quantization")
    wiring = Wiring(model.graph)
    by_tensor = {name: quantizer for group, quantizer in quantizers.items() for name in group.tensors}
    writer = _Writer(onnx)
    read = {wiring.nodes[index].input[position] for index, position in placement.reads}
    nodes = [node for name in wiring.inputs if name in read for node in writer.pair(name, by_tensor[name])]
    for index, original in enumerate(wiring.nodes):
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if index in parameters:
            given = parameters[index]
            if given.weight is not None:
                source = _quantizer_behind(wiring, original.input[0], by_tensor)
                nodes += writer.weight(node, given, source if int32_bias else None)
            elif given.bias is not None:
                writer.bias(node, given.bias)
        for position, name in enumerate(original.input):
            if (index, position) in placement.reads:
                node.input[position] = Names.of(name).values
        nodes.append(node)
        for name in original.output:
            if name in read:
                nodes += writer.pair(name, by_tensor[name])
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | set(wiring.outputs)
    constants = [value for value in [*model.graph.initializer, *writer.constants] if value.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(constants)
    onnx.checker.check_model(result)
    return result


def source_tensor(wiring: Wiring, name: str, quantized: Mapping[str, object]) -> str:
    """Return the quantized tensor whose codes a tensor carries; passing operations do not change them."""
    while name not in quantized:
        name = next(source for _, source in wiring.data_inputs(wiring.makers[name]))
    return name


def _quantizer_behind(wiring: Wiring, name: str, by_tensor: Mapping[str, Affine]) -> Affine:
    return by_tensor[source_tensor(wiring, name, by_tensor)]


class _Writer:
    """Makes nodes, and keeps the constants that they read."""

    def __init__(self, onnx: onnx) -> None:
        self.onnx = onnx
        self.constants: list[onnx.TensorProto] = []

    def pair(self, tensor: str, quantizer: Affine) -> list[onnx.NodeProto]:
        names = Names.of(tensor)
        self._constant(names.scale, np.array(quantizer.scale, np.float32))
        self._constant(names.zero_point, np.array(quantizer.zero_point, quantizer.dtype))
        make = self.onnx.helper.make_node
        constants = [names.scale, names.zero_point]
        return [
            make("QuantizeLinear", [tensor, *constants], [names.codes], f"{tensor}_QuantizeLinear"),
            make("DequantizeLinear", [names.codes, *constants], [names.values], f"{tensor}_DequantizeLinear"),
        ]

    def weight(self, conv: onnx.NodeProto, given: Parameters, source: Affine | None) -> list[onnx.NodeProto]:
        """Point a convolution to its codes, named after the convolution since weights can be shared.

        Args:
            conv: The node, changed in place.
            given: Codes and bias.
            source: The quantizer of its input where biases are int32.
        """
        assert given.weight is not None
        codes, scales = given.weight.codes, given.weight.scales
        nodes = []
        if scales.shape[1] == 1:
            nodes.append(self._dequantize(conv, 1, f"{conv.name}/weight", codes, scales[:, 0]))
        else:  # a scale per block needs opset 21, so blocks are rows until the weight has its shape again
            blocks = codes.reshape(scales.size, -1)
            nodes.append(self._dequantize(conv, 1, f"{conv.name}/weight", blocks, scales.reshape(-1)))
            shape = f"{conv.name}/weight_shape"
            self._constant(shape, np.array(codes.shape, np.int64))
            rows, conv.input[1] = conv.input[1], f"{conv.name}/weight_values"
            nodes.append(self.onnx.helper.make_node("Reshape", [rows, shape], [conv.input[1]], f"{conv.name}/Reshape"))
        if given.bias is not None and source is not None:
            bias_scales = (scales.max(axis=1) * source.scale).astype(np.float32)
            limit = np.iinfo(np.int32).max  # a corrected bias may be larger than the one that scales were chosen for
            bias_codes = np.clip(np.rint(given.bias.astype(np.float64) / bias_scales), -limit, limit).astype(np.int32)
            nodes.append(self._dequantize(conv, 2, f"{conv.name}/bias", bias_codes, bias_scales))
        elif given.bias is not None:
            self.bias(conv, given.bias)
        return nodes

    def bias(self, conv: onnx.NodeProto, values: np.ndarray) -> None:
        conv.input[2] = f"{conv.name}/bias"
        self._constant(conv.input[2], values.astype(np.float32))

    def _dequantize(
        self, conv: onnx.NodeProto, position: int, tensor: str, codes: np.ndarray, scales: np.ndarray
    ) -> onnx.NodeProto:
        names = Names.of(tensor)
        self._constant(names.codes, codes)
        self._constant(names.scale, scales)
        self._constant(names.zero_point, np.zeros(len(scales), codes.dtype))
        conv.input[position] = names.values
        inputs = [names.codes, names.scale, names.zero_point]
        return self.onnx.helper.make_node(
            "DequantizeLinear", inputs, [names.values], f"{tensor}_DequantizeLinear", axis=0
        )

    def _constant(self, name: str, values: np.ndarray) -> None:
        self.constants.append(self.onnx.numpy_helper.from_array(values, name))
