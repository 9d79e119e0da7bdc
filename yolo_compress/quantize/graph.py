# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Writing quantizers into an ONNX graph as QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.errors import require
from yolo_compress.quantize.affine import Affine, quantize_weight, weight_scales
from yolo_compress.quantize.placement import Group, Placement, Wiring

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


def insert(
    model: onnx.ModelProto,
    placement: Placement,
    quantizers: Mapping[Group, Affine],
    *,
    avoid_overflow: bool,
    int32_bias: bool,
) -> onnx.ModelProto:
    """Return a copy of a float model with quantizers in it; metadata, inputs and outputs stay as they are.

    Weights become int8 constants, symmetric per output channel, behind a DequantizeLinear.

    Args:
        model: The float model that `placement` was made for.
        placement: Where quantizers go.
        quantizers: Scale and zero point of each group.
        avoid_overflow: Choose weight scales that cannot saturate on CPUs without VNNI.
        int32_bias: Store biases as int32 under input scale x weight scale, else leave them float.
    """
    onnx = require("onnx", extra="onnx", purpose="quantization")
    wiring = Wiring(model.graph)
    by_tensor = {name: quantizer for group, quantizer in quantizers.items() for name in group.tensors}
    writer = _Writer(onnx, wiring, avoid_overflow)
    read = {wiring.nodes[index].input[position] for index, position in placement.reads}
    nodes = [node for name in wiring.inputs if name in read for node in writer.pair(name, by_tensor[name])]
    quantized = {layer.node for layer in placement.layers if not layer.why}
    for index, original in enumerate(wiring.nodes):
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if index in quantized:
            source = _quantizer_behind(wiring, original.input[0], by_tensor)
            nodes += writer.weight(node, source, int32_bias=int32_bias)
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

    def __init__(self, onnx: onnx, wiring: Wiring, avoid_overflow: bool) -> None:
        self.onnx, self.wiring, self.avoid_overflow = onnx, wiring, avoid_overflow
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

    def weight(self, conv: onnx.NodeProto, source: Affine, *, int32_bias: bool) -> list[onnx.NodeProto]:
        """Point a convolution to int8 weights, named after the convolution since weights can be shared."""
        to_array = self.onnx.numpy_helper.to_array
        weight = to_array(self.wiring.constants[conv.input[1]]).astype(np.float32)
        bias = to_array(self.wiring.constants[conv.input[2]]) if len(conv.input) > 2 and conv.input[2] else None
        scales = weight_scales(weight, avoid_overflow=self.avoid_overflow)
        if bias is not None and int32_bias:  # a channel of tiny weights must not push its bias out of int32
            scales = np.maximum(scales, np.abs(bias) / (INT32_LIMIT * source.scale)).astype(np.float32)
        codes = quantize_weight(weight, scales)
        nodes = [self._dequantize(conv, 1, f"{conv.name}/weight", codes, scales)]
        if bias is not None and int32_bias:
            bias_scales = (scales * source.scale).astype(np.float32)
            bias_codes = np.rint(bias / bias_scales).astype(np.int32)
            nodes.append(self._dequantize(conv, 2, f"{conv.name}/bias", bias_codes, bias_scales))
        return nodes

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
