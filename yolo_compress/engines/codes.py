# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which codes each runtime can take in a quantized graph, and refusing a graph that holds others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolo_compress.errors import UsageError, require


@dataclass(frozen=True)
class Taken:
    """What a runtime takes.

    Attributes:
        codes: ONNX types that QuantizeLinear and DequantizeLinear may have around convolutions.
        dynamic: Whether it multiplies codes whose scale is found at run time.
    """

    codes: frozenset[str]
    dynamic: bool = False


# TensorRT has INT4 for matrix products alone, in blocks of two-dimensional weights, and no zero points: int8 it is.
# OpenVINO 2026.4 computes zeros from codes that are unsigned 16-bit numbers; DynamicQuantizeLinear and ConvInteger it
# takes apart into float operations, and stores the weights in float.
INT8_ONLY = Taken(frozenset({"INT8"}))
TAKEN = {
    "onnxruntime": Taken(frozenset({"INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16"}), dynamic=True),
    "openvino": Taken(frozenset({"INT4", "UINT4", "INT8", "UINT8", "INT16"})),
    "tensorrt": INT8_ONLY,
    "tensorrt_rtx": INT8_ONLY,
}
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
BIAS = "INT32"  # codes of biases, which runtimes add as they like


def check_codes(engine: str, graph: Path) -> None:
    """Refuse a graph with codes that a runtime cannot take; engines that read no graphs take any.

    Raises:
        UsageError: It has such codes, or finds scales at run time where the runtime cannot.
    """
    taken = TAKEN.get(engine)
    if taken is None:
        return
    onnx = require("onnx", extra="onnx", purpose="ONNX files")
    read = onnx.load(str(graph), load_external_data=False).graph
    types = {value.name: onnx.TensorProto.DataType.Name(value.data_type) for value in read.initializer}
    found = {
        types[name] for node in read.node if node.op_type in QUANTIZERS for name in node.input[::2] if name in types
    }
    if strange := sorted(found - taken.codes - {BIAS}):
        raise UsageError(
            f"'{graph}' holds codes of type {', '.join(strange)}, which {engine} cannot run around convolutions; it "
            f"serves as a simulation in ONNX Runtime. For {engine}, quantize the float model again with: "
            f"yolo-compress quantize target={engine.removesuffix('_rtx')}, with 8-bit activations and "
            "weight_storage=bytes"
        )
    if not taken.dynamic and any(node.op_type == "DynamicQuantizeLinear" for node in read.node):
        raise UsageError(
            f"'{graph}' finds the ranges of activations while it runs (activations=dynamic), which {engine} cannot do "
            f"on codes; quantize the float model again with: yolo-compress quantize target={engine} activations=static"
        )
