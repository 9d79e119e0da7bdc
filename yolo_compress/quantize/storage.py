# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How codes of weights lie in an ONNX file: in bytes, two to a byte, or as narrow floats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.errors import UnsupportedModel, require
from yolo_compress.quantize.weights import QuantizedWeight

if TYPE_CHECKING:
    import onnx

OPSET = 21  # the first whose quantizers take codes of 4 and of 16 bits, and blocks
IR_VERSION = 10  # of ONNX 1.16, where 4-bit tensors and that opset begin


def pack_nibbles(codes: np.ndarray) -> bytes:
    """Return codes of -8 to 15 as two to a byte, the first in the lower half, as ONNX stores INT4 and UINT4.

    Of an odd number the last upper half is zero. Negative codes are stored as their two's complement.
    """
    flat = codes.ravel().astype(np.int16) & 0xF
    flat = np.append(flat, np.zeros(flat.size % 2, np.int16)).reshape(-1, 2)
    return (flat[:, 0] | flat[:, 1] << 4).astype(np.uint8).tobytes()


def tensor(name: str, codes: np.ndarray, *, packed: bool = False) -> onnx.TensorProto:
    """Return integer codes as a constant; packed ones as UINT4 where their type is unsigned, else as INT4."""
    onnx = require("onnx", extra="onnx", purpose="quantization")
    if not packed:
        return onnx.numpy_helper.from_array(codes, name)
    kind = onnx.TensorProto.UINT4 if codes.dtype == np.uint8 else onnx.TensorProto.INT4
    return onnx.helper.make_tensor(name, kind, codes.shape, pack_nibbles(codes), raw=True)


def narrow(name: str, weight: QuantizedWeight) -> onnx.TensorProto:
    """Return values of a narrower type as a constant of that type."""
    onnx = require("onnx", extra="onnx", purpose="quantization")
    if weight.cast == "float16":
        return onnx.numpy_helper.from_array(weight.codes.astype(np.float16), name)
    halves = (np.ascontiguousarray(weight.codes, np.float32).view(np.uint32) >> 16).astype("<u2")
    return onnx.helper.make_tensor(name, onnx.TensorProto.BFLOAT16, weight.codes.shape, halves.tobytes(), raw=True)


def raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float model in an opset that has codes of 4 and of 16 bits, node for node the same.

    Raises:
        UnsupportedModel: ONNX cannot convert it so.
    """
    onnx = require("onnx", extra="onnx", purpose="quantization")
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset >= OPSET and model.ir_version >= IR_VERSION:
        return model
    remedy = f"export the checkpoint with opset={OPSET}, or give weight_storage=bytes and at most 8 bits"
    try:
        result = onnx.version_converter.convert_version(model, max(opset, OPSET))
    except Exception as error:  # the converter raises classes of its C++ module
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedModel(f"the graph cannot be converted to opset {OPSET} ({reason}); {remedy}") from error
    if [(n.op_type, n.output) for n in result.graph.node] != [(n.op_type, n.output) for n in model.graph.node]:
        raise UnsupportedModel(f"converted to opset {OPSET}, the graph has other nodes than before; {remedy}")
    result.ir_version = max(result.ir_version, IR_VERSION)
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    return result


def assembled(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]
) -> onnx.ModelProto:
    """Return a model with other nodes, and of its own and of new constants those that they read."""
    onnx = require("onnx", extra="onnx", purpose="quantization")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    kept = [value for value in [*model.graph.initializer, *constants] if value.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    onnx.checker.check_model(result)
    return result
