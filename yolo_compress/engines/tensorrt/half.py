# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Half precision in the graph itself, for networks that compute in exactly the types that they are given.

A strongly typed TensorRT runs the float part of a Q/DQ graph in whatever type it is written in, so an INT8 model that
was exported in float32 would be slower than one in FP16. Inputs and outputs stay float32, and so does the decoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_compress.engines.tensorrt.decode import ending
from yolo_compress.errors import EngineError, require

if TYPE_CHECKING:
    import onnx

HALF_SCALES = 19  # opset from which QuantizeLinear takes half scales, which have to be of its input's type
LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
FLOAT32_INPUTS = {"Resize": (1, 2)}  # region and scales, which the operator takes in float32 whatever it resizes


def half_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float or Q/DQ graph whose float part computes in half precision.

    Scales become half as well: an operator's scale has the type of its values. Operations that hold a constant which
    half precision cannot hold, and the decoding behind the head's last convolutions, stay in float32 between casts.

    Raises:
        EngineError: It holds an unknown operator, types that cannot be inferred, or cannot be raised to the opset that
            has half scales.
    """
    onnx = require("onnx", extra="onnx", purpose="ONNX files")
    model = _raised(onnx, model) if any(node.op_type in QUANTIZERS for node in model.graph.node) else model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    writer = _Writer(onnx, result)
    nodes: list[onnx.NodeProto] = []
    single = ending(model.graph).decoding | {i for i, node in enumerate(model.graph.node) if writer.overflows(node)}
    for index, node in enumerate(result.graph.node):
        nodes += writer.cast_inputs(node, to_half=index not in single)
        nodes.append(node)
    nodes += writer.outputs(nodes)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # they live in what is emptied next
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in result.graph.output}
    constants = [value for value in [*model.graph.initializer, *writer.constants.values()] if value.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(constants)
    try:
        onnx.checker.check_model(result, full_check=True)  # every operator, and that types meet
    except Exception as error:  # the checker raises classes of its own C++ module
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"the graph cannot be written in half precision: {reason}") from error
    return result


class _Writer:
    """Follows which tensors are half, and puts casts where types meet."""

    def __init__(self, onnx: Any, model: onnx.ModelProto) -> None:
        self.onnx, self.graph = onnx, model.graph
        self.initializers = {value.name: value for value in model.graph.initializer}
        self.single = _float_tensors(onnx, model)
        self.half: set[str] = set()
        self.constants: dict[str, onnx.TensorProto] = {}
        self.casts: dict[str, str] = {}

    def overflows(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node reads a constant that is too large for half precision."""
        for name in node.input:
            value = self.initializers.get(name)
            if value is not None and value.data_type == self.onnx.TensorProto.FLOAT:
                values = self.onnx.numpy_helper.to_array(value)
                if values.size and np.abs(values).max() > LARGEST:
                    return True
        return False

    def cast_inputs(self, node: onnx.NodeProto, *, to_half: bool) -> list[onnx.NodeProto]:
        """Give a node inputs of its type, note the type of its outputs, and return the casts that it needs."""
        casts: list[onnx.NodeProto] = []
        fixed = FLOAT32_INPUTS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name not in self.single or position in fixed:
                continue
            if to_half and name in self.initializers:
                node.input[position] = self._half_constant(name, scale=node.op_type in QUANTIZERS and position == 1)
            elif to_half != (name in self.half):
                node.input[position] = self._cast(name, casts, to_half=to_half)
        if to_half:
            self.half.update(name for name in node.output if name in self.single)
            self._retype(node)
        return casts

    def outputs(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Keep the graph's outputs float32, under the names that they have."""
        casts = []
        for value in self.graph.output:
            if value.name in self.half:
                inner = f"{value.name}_half"
                for node in nodes:
                    node.input[:] = [inner if name == value.name else name for name in node.input]
                    node.output[:] = [inner if name == value.name else name for name in node.output]
                casts.append(self._cast_node(inner, value.name, self.onnx.TensorProto.FLOAT))
        return casts

    def _half_constant(self, name: str, *, scale: bool) -> str:
        inner = f"{name}_half"
        if inner not in self.constants:
            values = self.onnx.numpy_helper.to_array(self.initializers[name])
            if scale:  # zero would divide by nothing; channels this faint hold no more than noise
                values = np.maximum(values, SMALLEST)
            self.constants[inner] = self.onnx.numpy_helper.from_array(values.astype(np.float16), inner)
        return inner

    def _cast(self, name: str, casts: list[onnx.NodeProto], *, to_half: bool) -> str:
        inner = f"{name}_to_{'half' if to_half else 'float'}"
        if inner not in self.casts:
            kind = self.onnx.TensorProto.FLOAT16 if to_half else self.onnx.TensorProto.FLOAT
            casts.append(self._cast_node(name, inner, kind))
            self.casts[inner] = name
        return inner

    def _cast_node(self, source: str, out: str, kind: int) -> onnx.NodeProto:
        return self.onnx.helper.make_node("Cast", [source], [out], f"{out}/Cast", to=kind)

    def _retype(self, node: onnx.NodeProto) -> None:
        """Let a node that names the type of its output, or holds its values, name and hold the half one."""
        single, half = self.onnx.TensorProto.FLOAT, self.onnx.TensorProto.FLOAT16
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == single:
                attribute.i = half
            elif attribute.name == "value" and attribute.t.data_type == single:  # Constant and ConstantOfShape
                values = self.onnx.numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(self.onnx.numpy_helper.from_array(values, attribute.t.name))


def _float_tensors(onnx: Any, model: onnx.ModelProto) -> set[str]:
    """Return every tensor of a graph that is float32."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except Exception as error:  # inference has errors of its own C++ module
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"the types of the graph cannot be inferred ({reason}); export it again") from error
    typed = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    typed |= {value.name: value.data_type for value in graph.initializer}
    for node in graph.node:
        if lost := [name for name in node.output if name and name not in typed]:
            raise EngineError(f"the type of '{lost[0]}' ({node.op_type} '{node.name}') is not known; export it again")
    return {name for name, kind in typed.items() if kind == onnx.TensorProto.FLOAT}


def _raised(onnx: Any, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in the first opset whose quantizers take half scales."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset >= HALF_SCALES:
        return model
    try:
        raised = onnx.version_converter.convert_version(model, HALF_SCALES)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"the graph cannot be raised from opset {opset} to {HALF_SCALES}: {reason}") from error
    del raised.metadata_props[:]
    raised.metadata_props.extend(model.metadata_props)
    return raised
