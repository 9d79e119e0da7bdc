# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which codes each runtime can take in a quantized graph, and refusing a graph that holds others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolo_compress.errors import UsageError, require


@dataclass(frozen=True)
class Taken:
    """What a runtime takes around convolutions.

    Attributes:
        weights: ONNX types of constants that it makes floats of, or multiplies as they are.
        activations: ONNX types that QuantizeLinear may have.
        dynamic: Whether it multiplies codes whose scale is found at run time.
    """

    weights: frozenset[str]
    activations: frozenset[str]
    dynamic: bool = False


BYTES = frozenset({"INT8", "UINT8"})
WIDE = frozenset({"INT16", "UINT16"})
NIBBLES = frozenset({"INT4", "UINT4"})
# TensorRT has INT4 for matrix products alone, in blocks of two-dimensional weights, and no zero points: int8 it is.
INT8_ONLY = Taken(frozenset({"INT8"}), frozenset({"INT8"}))
# OpenVINO 2026.4 leaves quantizers of 16-bit activations out, limits and all. DynamicQuantizeLinear and ConvInteger it
# takes apart into float operations, and stores the weights in float.
TAKEN = {
    "onnxruntime": Taken(NIBBLES | BYTES | WIDE, BYTES | WIDE, dynamic=True),
    "openvino": Taken(NIBBLES | BYTES | WIDE, BYTES),
    "tensorrt": INT8_ONLY,
    "tensorrt_rtx": INT8_ONLY,
}


def check_codes(engine: str, graph: Path) -> None:
    """Refuse a graph with codes that a runtime cannot take; engines that read no graphs take any.

    Raises:
        UsageError: It has such codes, or finds scales at run time where the runtime cannot.
    """
    taken = TAKEN.get(engine)
    if taken is None:
        return
    target = engine.removesuffix("_rtx")
    onnx = require("onnx", extra="onnx", purpose="ONNX files")
    read = onnx.load(str(graph), load_external_data=False).graph
    types = {value.name: onnx.TensorProto.DataType.Name(value.data_type) for value in read.initializer}
    weights, activations = set(), set()
    for node in read.node:
        if node.op_type in ("DequantizeLinear", "Cast"):
            weights.add(types.get(node.input[0], ""))
        elif node.op_type == "QuantizeLinear" and len(node.input) > 2:
            activations.add(types.get(node.input[2], ""))
    weights &= NIBBLES | BYTES | WIDE  # codes of biases and narrow floats are taken by all
    strange = [
        f"{what} of type {', '.join(sorted(kinds))}"
        for what, kinds in (
            ("weights", weights - taken.weights),
            ("activations", activations & (BYTES | WIDE) - taken.activations),
        )
        if kinds
    ]
    if strange:
        raise UsageError(
            f"'{graph}' holds {' and '.join(strange)}, which {engine} cannot run around convolutions; it serves as a "
            f"simulation in ONNX Runtime. For {engine}, quantize the float model again with: yolo-compress quantize "
            f"target={target}, 8-bit activations, and weight_storage=bytes"
        )
    if not taken.dynamic and any(node.op_type == "DynamicQuantizeLinear" for node in read.node):
        raise UsageError(
            f"'{graph}' finds the ranges of activations while it runs (activations=dynamic), which {engine} cannot do "
            f"on codes; quantize the float model again with: yolo-compress quantize target={target} activations=static"
        )
