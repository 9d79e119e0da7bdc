# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Walking through a Q/DQ graph in its order, to learn the scale of each tensor and what stays without quantizers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.errors import UnsupportedModel, UsageError
from yolo_compress.quantize.constants import Constants, code_type
from yolo_compress.quantize.scheme import PASSING

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # of which constants are weights
# what these put out is what came in, at other places, so that its scale is known
CARRYING = (*PASSING, "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
AGAIN = "quantize the float model again with: yolo-compress quantize model=FLOAT.onnx data=... target=tensorrt"


@dataclass
class Unquantized:
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
        """Take in the next node.

        Raises:
            UsageError: An activation is quantized in a form that a cache cannot say.
            UnsupportedModel: Codes come from, or go to, something that is not known here.
        """
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
        """Yield the graph's outputs that came as codes, with the float tensors that they stand for.

        Raises:
            UnsupportedModel: An output is codes itself.
        """
        for value in self.graph.output:
            if value.name in self._codes:
                raise UnsupportedModel(f"'{self.source}' puts out codes ('{value.name}'); {AGAIN}")
            if value.name in self._stands_for:
                yield value.name, self._stands_for[value.name]
