# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Reading the ONNX that quantization begins with or has made, and refusing what it cannot begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from yolo_compress.errors import DataError, UnsupportedModel, UsageError, require

if TYPE_CHECKING:
    import onnx

PAIR = ("QuantizeLinear", "DequantizeLinear")
FUSED = ("DynamicQuantizeLinear", "QLinearConv", "ConvInteger")
QUANTIZED = (*PAIR, *FUSED)


def read_float(path: Path) -> onnx.ModelProto:
    """Read a detector that Ultralytics exported to float ONNX.

    Raises:
        DataError: There is no such file, or it cannot be read.
        UsageError: It is quantized already.
        UnsupportedModel: It is something else.
    """
    model = _read(path)
    onnx = require("onnx", extra="onnx", purpose="quantization")
    kinds = {node.op_type for node in model.graph.node}
    task = next((item.value for item in model.metadata_props if item.key == "task"), None)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    found = sorted(kinds.intersection(QUANTIZED))
    ours = any(item.key == "yolo_compress" for item in model.metadata_props)  # codebooks and casts have no such nodes
    if found or ours:
        reason = f"has {found[0]} nodes" if found else "says so in its metadata"
        raise UsageError(f"'{path}' is quantized already (it {reason}); give the float ONNX or the checkpoint")
    if task != "detect":
        raise UnsupportedModel(
            f"'{path}' says task={task} in its metadata; give a detector from: yolo export format=onnx"
        )
    if model.graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UnsupportedModel(f"'{path}' does not take float32 images; export it without quantize=16")
    if "BatchNormalization" in kinds:
        raise UnsupportedModel(f"'{path}' has unfolded BatchNorm layers; export it with: yolo export format=onnx")
    if opset < 13:
        raise UnsupportedModel(f"'{path}' uses opset {opset}, before weights had a scale per channel; export opset=17")
    return model


def read_quantized(path: Path) -> onnx.ModelProto:
    """Read a graph whose quantizers are QuantizeLinear and DequantizeLinear nodes, from wherever it comes.

    Raises:
        DataError: There is no such file, or it cannot be read.
        UsageError: It has no quantizers, or they are part of its operations.
    """
    model = _read(path)
    kinds = {node.op_type for node in model.graph.node}
    if fused := sorted(kinds.intersection(FUSED)):
        raise UsageError(
            f"'{path}' computes on codes in {fused[0]} nodes, in which quantizers and weights cannot be told apart; "
            "quantize the float model into Q/DQ form: yolo-compress quantize model=FLOAT.onnx data=... target=tensorrt"
        )
    if not kinds.issuperset(PAIR):
        raise UsageError(f"'{path}' holds no quantizers; run first: yolo-compress quantize model={path} data=...")
    return model


def _read(path: Path) -> onnx.ModelProto:
    onnx = require("onnx", extra="onnx", purpose="quantization")
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; export one with: yolo export format=onnx")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker have hierarchies of their own
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"'{path}' is not a readable ONNX file ({reason}); export it again") from error
    return model
