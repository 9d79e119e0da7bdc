# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A Q/DQ ONNX becomes what TensorRT up to 10.16 builds from without quantizers: a float ONNX and a cache of scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.engines.tensorrt.cache import CalibrationCache
from yolo_compress.errors import UnsupportedModel, UsageError, require
from yolo_compress.quantize.constants import Constants, code_type
from yolo_compress.quantize.placement import Wiring
from yolo_compress.quantize.scheme import PASSING
from yolo_compress.quantize.source import read_quantized

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# what these put out is what came in, at other places, so that its scale is known
CARRYING = (*PASSING, "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
AGAIN = "quantize the float model again with: yolo-compress quantize model=FLOAT.onnx data=... target=tensorrt"


@dataclass(frozen=True)
class Stripped:
    """A Q/DQ graph in the parts that an implicit build takes.

    Attributes:
        cache: The scale of each tensor that had a quantizer, and of those that carry its codes on unchanged.
        model: The graph without quantizers; weights are what their codes stand for.
        pins: Layers that compute in float: those with weights, or products, without quantizers, and what lies between
            the last of them and the outputs. An implicit build has to keep them in half precision by name.
        unscaled: Layers with quantizers whose output, behind the activation, has none: TensorRT, which wants a scale on
            both sides, may run them in half precision.
    """

    cache: CalibrationCache
    model: onnx.ModelProto
    pins: tuple[str, ...]
    unscaled: tuple[str, ...]


def strip_quantizers(source: Path, *, version: int, algorithm: str) -> Stripped:
    """Take a Q/DQ graph, ours or another's, apart.

    Args:
        source: An ONNX with QuantizeLinear and DequantizeLinear nodes; activations int8, symmetric, one scale each.
        version: Of the TensorRT that is to read the cache, see `version_number`.
        algorithm: Of the calibrator that is to read it, such as EntropyCalibration2.

    Raises:
        DataError: It cannot be read.
        UsageError: It has no quantizers, or activations in a form that a cache cannot say.
        UnsupportedModel: Codes are read by something else than a DequantizeLinear, or made by something unknown.
    """
    model = read_quantized(source)
    walk = _Walk(model.graph, source)
    for node in model.graph.node:
        walk.take(node)
    if not walk.scales:
        raise UsageError(
            f"'{source}' has quantized weights and no quantized activation, so there is no scale to write; {AGAIN}"
        )
    result = _without_quantizers(model, walk)
    wiring = Wiring(result.graph)
    coded = {index for index, node in enumerate(wiring.nodes) if node.output[0] in walk.coded}
    pins = tuple(wiring.nodes[index].name for index in _pins(result, wiring, coded, walk.scales))
    unscaled = tuple(
        wiring.nodes[index].name
        for index in sorted(coded)
        if wiring.nodes[index].op_type in WEIGHTED and _behind_activation(wiring, index) not in walk.scales
    )
    return Stripped(CalibrationCache(version, algorithm, walk.scales), result, pins, unscaled)


@dataclass
class _Walk:
    """What is known of a graph's tensors, node after node.

    Attributes:
        graph: With quantizers.
        source: Its file.
        scales: By float tensor.
        nodes: Those that stay, reading float tensors.
        coded: Outputs of nodes whose inputs all came as codes.
    """

    graph: onnx.GraphProto
    source: Path
    scales: dict[str, float] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    coded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.constants = Constants(self.graph)
        self._codes: dict[str, tuple[str, np.float32]] = {}  # codes: the float tensor and the scale
        self._stands_for: dict[str, str] = {}  # what a DequantizeLinear put out: the float tensor
        self._brought: dict[str, float] = {}  # tensors that come as codes: the scale

    def take(self, node: onnx.NodeProto) -> None:
        if self.constants.fold(node):
            return
        if node.op_type == "QuantizeLinear":
            self._quantize(node)
        elif node.op_type == "DequantizeLinear":
            self._dequantize(node)
        else:
            self._keep(node)

    def _quantize(self, node: onnx.NodeProto) -> None:
        tensor = self._stands_for.get(node.input[0], node.input[0])
        scale = self._scale(node, tensor)
        if self.scales.setdefault(tensor, float(scale)) != float(scale):
            raise UnsupportedModel(
                f"'{self.source}' quantizes '{tensor}' with scale {scale:g} and with {self.scales[tensor]:g} as well, "
                f"and a cache has one for each tensor; {AGAIN}"
            )
        self._codes[node.output[0]] = (tensor, scale)

    def _dequantize(self, node: onnx.NodeProto) -> None:
        if node.input[0] not in self._codes:
            raise UnsupportedModel(
                f"'{node.name}' of '{self.source}' reads codes '{node.input[0]}' that no QuantizeLinear before it "
                f"makes; {AGAIN}"
            )
        tensor, scale = self._codes[node.input[0]]
        if self._scale(node, tensor) != scale:
            raise UnsupportedModel(
                f"'{self.source}' quantizes '{tensor}' with scale {scale:g} and reads it with another; {AGAIN}"
            )
        self._stands_for[node.output[0]] = tensor
        self._brought[node.output[0]] = float(scale)

    def _keep(self, node: onnx.NodeProto) -> None:
        for name in node.input:
            if name in self._codes:
                raise UnsupportedModel(
                    f"'{node.name}' ({node.op_type}) of '{self.source}' computes on the codes of "
                    f"'{self._codes[name][0]}' without a DequantizeLinear; {AGAIN}"
                )
        if any(item.HasField("g") or item.graphs for item in node.attribute):
            raise UnsupportedModel(
                f"'{node.name}' ({node.op_type}) of '{self.source}' has a graph of its own; export without control flow"
            )
        data = [name for name in node.input if name and not self.constants.known(name)]
        weights = [name for name in node.input[1:2] if node.op_type in WEIGHTED and self.constants.known(name)]
        if data and all(name in self._brought for name in data) and all(map(self.constants.coded, weights)):
            self.coded.add(node.output[0])
            self._carry(node, {self._brought[name] for name in data})
        kept = type(node)()
        kept.CopyFrom(node)
        kept.name = node.name or node.output[0]  # pins go by name
        for position, name in enumerate(node.input):
            kept.input[position] = self._stands_for.get(name, name)
        if node.op_type in WEIGHTED:
            self.constants.rename(kept)
        self.nodes.append(kept)

    def _carry(self, node: onnx.NodeProto, scales: set[float]) -> None:
        """Give the outputs of an operation that moves codes, all of one scale, that scale."""
        mode = next((item.s for item in node.attribute if item.name == "mode"), b"nearest")
        if node.op_type not in CARRYING or len(scales) > 1 or (node.op_type == "Resize" and mode != b"nearest"):
            return
        (scale,) = scales
        for name in node.output:
            self.scales.setdefault(name, scale)
            self._brought[name] = scale

    def _scale(self, node: onnx.NodeProto, tensor: str) -> np.float32:
        """Return the scale of an activation's quantizer, and refuse what a cache cannot say."""
        values = [self.constants.value(name) for name in node.input[1:] if name]
        if any(value is None for value in values):
            raise UnsupportedModel(f"the scale of '{tensor}' in '{self.source}' is computed, not constant; {AGAIN}")
        scale, zero = values[0], values[1] if len(values) > 1 else None
        if scale.size != 1:
            raise UsageError(
                f"'{self.source}' quantizes '{tensor}' with {scale.size} scales, and a cache has one for each tensor; "
                f"{AGAIN}"
            )
        kind = code_type(node, zero) if node.op_type == "QuantizeLinear" else np.dtype(np.int8)
        if kind != np.int8 or (zero is not None and zero.any()):
            centre = 0 if zero is None else int(zero.flat[0])
            raise UsageError(
                f"'{self.source}' quantizes '{tensor}' with {kind} codes and zero point {centre}, and a calibration "
                f"cache holds nothing but scales, of int8 codes around zero; {AGAIN}"
            )
        if scale.dtype != np.float32:
            raise UsageError(f"'{self.source}' has scales of type {scale.dtype}, and here they are float32; {AGAIN}")
        return scale.reshape(())[()]

    def end(self) -> Iterator[tuple[str, str]]:
        """Yield the graph's outputs that came as codes, with the float tensors that they stand for."""
        for value in self.graph.output:
            if value.name in self._codes:
                raise UnsupportedModel(f"'{self.source}' puts out codes ('{value.name}'); {AGAIN}")
            if value.name in self._stands_for:
                yield value.name, self._stands_for[value.name]


def _without_quantizers(model: onnx.ModelProto, walk: _Walk) -> onnx.ModelProto:
    onnx = require("onnx", extra="onnx", purpose="quantization")
    nodes = list(walk.nodes)
    for output, tensor in walk.end():
        nodes.append(onnx.helper.make_node("Identity", [tensor], [output], output))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for part in (result.graph.node, result.graph.initializer, result.graph.value_info):
        del part[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    result.graph.initializer.extend(walk.constants.tensors(used))
    made = used | {name for node in nodes for name in node.output}
    result.graph.value_info.extend(value for value in model.graph.value_info if value.name in made)
    # what we say of a quantized graph is no longer true of this one
    kept = [item for item in model.metadata_props if item.key != "yolo_compress"]
    del result.metadata_props[:]
    result.metadata_props.extend(kept)
    onnx.checker.check_model(result)
    return result


def _pins(model: onnx.ModelProto, wiring: Wiring, coded: set[int], scales: Mapping[str, float]) -> list[int]:
    """Return the nodes with weights or products that read no codes, and what follows them with no quantizer behind."""
    floating = {i for i, node in enumerate(wiring.nodes) if node.op_type in WEIGHTED and i not in coded}
    before: set[int] = set()  # nodes that a quantizer follows, near or far
    for index in reversed(range(len(wiring.nodes))):
        readers = {reader for name in wiring.nodes[index].output for reader, _ in wiring.readers[name]}
        if readers & (before | coded) or any(name in scales for name in wiring.nodes[index].output):
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


def _behind_activation(wiring: Wiring, index: int) -> str:
    """Return what a layer puts out behind its activation, SiLU or one of a single node."""
    tensor = wiring.nodes[index].output[0]
    readers = [wiring.nodes[reader] for reader, _ in wiring.readers[tensor]]
    kinds = sorted(node.op_type for node in readers)
    if kinds == ["Mul", "Sigmoid"]:
        gate, product = sorted(readers, key=lambda node: node.op_type == "Mul")
        if gate.output[0] in product.input:
            return product.output[0]
    if kinds in (["Relu"], ["LeakyRelu"], ["HardSwish"], ["Clip"], ["Sigmoid"]):
        return readers[0].output[0]
    return tensor
