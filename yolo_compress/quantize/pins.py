# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which layers of a graph whose quantizers were taken out have to be told to stay in float."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from yolo_compress.errors import require
from yolo_compress.quantize.placement import Wiring
from yolo_compress.quantize.unquantize import WEIGHTED

if TYPE_CHECKING:
    import onnx

SINGLE = ("Clip", "HardSwish", "LeakyRelu", "Relu", "Sigmoid")  # activations of one node


def float_layers(model: onnx.ModelProto, wiring: Wiring, coded: Collection[int], scales: Collection[str]) -> list[int]:
    """Return the nodes with weights or products that read no codes, and what follows them with no quantizer behind.

    Args:
        model: The graph without quantizers.
        wiring: Of that graph.
        coded: Nodes whose inputs all came as codes.
        scales: Tensors that had a quantizer, or carry codes on.
    """
    floating = {i for i, node in enumerate(wiring.nodes) if node.op_type in WEIGHTED and i not in coded}
    before: set[int] = set()  # nodes that a quantizer follows, near or far
    for index in reversed(range(len(wiring.nodes))):
        readers = {reader for name in wiring.nodes[index].output for reader, _ in wiring.readers[name]}
        if readers & (before | set(coded)) or any(name in scales for name in wiring.nodes[index].output):
            before.add(index)
    behind = set(floating)
    for index in range(len(wiring.nodes)):  # a graph is in topological order
        makers = {wiring.makers[name] for _, name in wiring.data_inputs(index) if name in wiring.makers}
        if index not in before and makers & behind:
            behind.add(index)
    numbers = _tensors_of_other_types(model)
    return sorted(index for index in behind if wiring.nodes[index].output[0] not in numbers)


def _tensors_of_other_types(model: onnx.ModelProto) -> set[str]:
    """Return what is no float tensor, such as shapes and class numbers: it has no precision to be pinned to."""
    onnx = require("onnx", extra="onnx", purpose="quantization")
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.value_info, *inferred.output]
    return {value.name for value in values if value.type.tensor_type.elem_type not in (0, onnx.TensorProto.FLOAT)}


def behind_activation(wiring: Wiring, index: int) -> str:
    """Return what a layer puts out behind its activation, SiLU or one of a single node."""
    tensor = wiring.nodes[index].output[0]
    readers = [wiring.nodes[reader] for reader, _ in wiring.readers[tensor]]
    kinds = sorted(node.op_type for node in readers)
    if kinds == ["Mul", "Sigmoid"]:
        gate, product = sorted(readers, key=lambda node: node.op_type == "Mul")
        if gate.output[0] in product.input:
            return product.output[0]
    if len(kinds) == 1 and kinds[0] in SINGLE:
        return readers[0].output[0]
    return tensor
