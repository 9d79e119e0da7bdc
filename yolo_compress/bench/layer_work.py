# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What each layer of an exported graph has to do: operations, and the values that it reads and writes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress.bench.layers import module_scope
from yolo_compress.engines.openvino import process_core
from yolo_compress.errors import EngineError, UsageError, require

QUANTIZERS = ("DequantizeLinear", "FakeQuantize")
BYTES = {"fp32": 4, "fp16": 4, "bf16": 2, "int8": 1}  # fp16 compresses files; a processor computes in float32


@dataclass(frozen=True)
class LayerWork:
    """A convolution, or the matrix products of one module.

    Attributes:
        name: Module name, such as `model.2.cv1.conv`.
        operations: Two per multiply-accumulate.
        values: Weights, inputs and outputs, each counted once.
        quantized: Whether it computes in INT8.
    """

    name: str
    operations: int
    values: int
    quantized: bool


def layer_work(path: Path) -> tuple[LayerWork, ...]:
    """Return the layers of an .onnx file or an OpenVINO folder, those of one module as one.

    A convolution with i input channels per group, o outputs, kernel area a and p output positions does 2 a i o p
    operations, as `prune.cost` counts; a product of (m, k) and (k, n) does 2 m k n.

    Raises:
        UsageError: No graph can be read from such a file.
        EngineError: The graph has no fixed shapes.
    """
    if path.suffix == ".onnx":
        found = _of_onnx(path)
    elif path.is_dir():
        found = _of_openvino(path)
    else:
        raise UsageError(f"'{path}' does not tell its layers; give an .onnx file or an OpenVINO folder")
    return merged(found)


def convolution(
    name: str, weight: Sequence[int], given: Sequence[int], out: Sequence[int], *, quantized: bool
) -> LayerWork:
    """Return the work of a convolution: weight (o, i, *kernel) or (groups, o, i, *kernel), the others (N, C, H, W)."""
    positions = math.prod(out) // out[1]
    # o i a weights of a dense or grouped convolution, each used once per output position
    return LayerWork(
        name, 2 * math.prod(weight) * positions, math.prod(weight) + math.prod(given) + math.prod(out), quantized
    )


def product(
    name: str, left: Sequence[int], right: Sequence[int], out: Sequence[int], *, shared: int, quantized: bool
) -> LayerWork:
    """Return the work of a matrix product whose sums have `shared` terms."""
    return LayerWork(name, 2 * math.prod(out) * shared, math.prod(left) + math.prod(right) + math.prod(out), quantized)


def merged(layers: Iterable[LayerWork]) -> tuple[LayerWork, ...]:
    """Add the layers of one module up."""
    found: dict[str, LayerWork] = {}
    for layer in layers:
        before = found.get(layer.name)
        if before is not None:
            operations, values = before.operations + layer.operations, before.values + layer.values
            layer = LayerWork(layer.name, operations, values, before.quantized and layer.quantized)
        found[layer.name] = layer
    return tuple(found.values())


def _of_onnx(path: Path) -> list[LayerWork]:
    onnx = require("onnx", extra="onnx", purpose="layers of ONNX files")
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes.setdefault(value.name, tuple(d.dim_value for d in value.type.tensor_type.shape.dim))
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    found = []
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul"):
            continue
        left, right, out = (_fixed(shapes.get(name), node.name, path) for name in (*node.input[:2], node.output[0]))
        quantized = all(made_by.get(name) in QUANTIZERS for name in node.input[:2])
        name = module_scope(node.name) or node.name
        if node.op_type == "Conv":
            found.append(convolution(name, right, left, out, quantized=quantized))
        else:
            found.append(product(name, left, right, out, shared=left[-1], quantized=quantized))
    return found


def _of_openvino(path: Path) -> list[LayerWork]:
    file = next(iter(sorted(path.glob("*.xml"))), None)
    if file is None:
        raise EngineError(f"'{path}' holds no .xml model; build it again")
    found = []
    for node in process_core().read_model(str(file)).get_ordered_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        shapes = [_shape(node.input(index), node, path) for index in (0, 1)]
        out = _shape(node.output(0), node, path)
        quantized = all(_is_quantized(node.input_value(index).get_node()) for index in (0, 1))
        name = module_scope(node.get_friendly_name().removesuffix("/WithoutBiases")) or node.get_friendly_name()
        if kind == "MatMul":
            shared = shapes[0][-2 if node.get_attributes().get("transpose_a") else -1]
            found.append(product(name, *shapes, out, shared=shared, quantized=quantized))
        else:
            found.append(convolution(name, shapes[1], shapes[0], out, quantized=quantized))
    return found


def _is_quantized(node: Any) -> bool:
    """Tell whether a value comes from a quantizer, or from whole numbers by way of a scale and a zero point."""
    while True:
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            return True
        if kind == "Constant":
            return node.get_element_type().get_type_name() in ("i8", "u8", "i4", "u4")
        if kind not in ("Convert", "Multiply", "Subtract", "Reshape"):
            return False
        node = node.input_value(0).get_node()


def _shape(port: Any, node: Any, path: Path) -> tuple[int, ...]:
    partial = port.get_partial_shape()
    return _fixed(tuple(partial.to_shape()) if partial.is_static else None, node.get_friendly_name(), path)


def _fixed(shape: tuple[int, ...] | None, node: str, path: Path) -> tuple[int, ...]:
    if not shape or not all(shape):
        raise EngineError(
            f"'{path}' has no fixed shape at '{node}', so its work cannot be counted; export it with dynamic=False"
        )
    return shape
