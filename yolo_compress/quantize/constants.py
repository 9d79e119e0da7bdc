# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The constants of a Q/DQ graph as floats: weights become what their codes stand for, under the names that they had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.bench.layers import module_scope
from yolo_compress.errors import UnsupportedModel, require

if TYPE_CHECKING:
    import onnx

SUFFIX = "_quantized"  # that the codes of a constant bear behind its name, ours and those of ONNX Runtime
CODES = {np.dtype(kind): (np.iinfo(kind).min, np.iinfo(kind).max) for kind in (np.int8, np.uint8, np.int32)}
SINGLE = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


class Constants:
    """The constant tensors of a graph, to which quantizing, dequantizing and reshaping constants adds more."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Take the graph's initializers."""
        self._onnx = require("onnx", extra="onnx", purpose="quantization")
        self._given = {tensor.name: tensor for tensor in graph.initializer}
        self._readers = Counter(name for node in graph.node for name in node.input)
        self._values: dict[str, np.ndarray] = {}
        self._roots: dict[str, str] = {}  # by what codes stand for: the constant that it began with
        self._renamed: dict[str, str] = {}

    def known(self, name: str) -> bool:
        """Tell whether a tensor is constant."""
        return name in self._given or name in self._values

    def coded(self, name: str) -> bool:
        """Tell whether a constant came through codes."""
        return name in self._roots

    def value(self, name: str) -> np.ndarray | None:
        """Return a constant, None where the tensor is none."""
        if name not in self._values and name in self._given:
            self._values[name] = self._onnx.numpy_helper.to_array(self._given[name])
        return self._values.get(name)

    def fold(self, node: onnx.NodeProto) -> bool:
        """Take in a constant, or compute one that comes through codes; tell whether the node has no other use.

        Raises:
            UnsupportedModel: Its codes are of a kind that is not known here.
        """
        if node.op_type == "Constant":
            return self._constant(node)
        inputs = [name for name in node.input if name]
        if node.op_type not in FOLDED or not all(self.known(name) for name in inputs):
            return False
        if node.op_type in SHAPING and not self.coded(inputs[0]):
            return False
        options = {item.name: self._onnx.helper.get_attribute_value(item) for item in node.attribute}
        values = [self.value(name) for name in inputs]
        if options.get("block_size") or values[0].dtype not in (*CODES, np.dtype(np.float32)):
            raise UnsupportedModel(
                f"'{node.name}' holds weights as {values[0].dtype} in blocks of {options.get('block_size', 1)}; "
                "int8 codes with a scale for each tensor or channel are what is known here"
            )
        self._values[node.output[0]] = FOLDED[node.op_type](options, *values)
        self._roots[node.output[0]] = self._roots.get(inputs[0], inputs[0])
        return True

    def rename(self, node: onnx.NodeProto) -> None:
        """Let a layer read weight and bias under the names that its module gives them, by which layers are known.

        ONNX Runtime keeps that name before a suffix, tools that store float weights keep it whole, and in our own
        graphs the node tells it, whose name is the path of modules.
        """
        module = module_scope(node.name)
        for position, part in ((1, "weight"), (2, "bias")):
            name = node.input[position] if len(node.input) > position else ""
            if not self.known(name):
                continue
            if name not in self._renamed:
                wanted = self._roots.get(name, name).removesuffix(SUFFIX)
                if not wanted.startswith("model.") and module.startswith("model."):
                    wanted = f"{module}.{part}"
                if wanted == name:
                    continue
                # one constant may serve several layers, as codes and as it is
                while wanted in self._renamed.values() or self._readers[wanted] > 1:
                    wanted += "_"
                self._renamed[name] = wanted
            node.input[position] = self._renamed[name]

    def tensors(self, used: Collection[str]) -> list[onnx.TensorProto]:
        """Return the constants among some tensors."""
        renamed = {new: old for old, new in self._renamed.items()}
        given = [tensor for name, tensor in self._given.items() if name in used and name not in renamed]
        made = {name: value for name, value in self._values.items() if name in used and name not in self._given}
        made |= {new: self.value(old) for new, old in renamed.items() if new in used}
        to_tensor = self._onnx.numpy_helper.from_array
        return given + [to_tensor(np.ascontiguousarray(value), name) for name, value in made.items()]

    def _constant(self, node: onnx.NodeProto) -> bool:
        (item,) = node.attribute
        value = self._onnx.helper.get_attribute_value(item)
        if item.name == "value":
            self._values[node.output[0]] = self._onnx.numpy_helper.to_array(value)
        elif item.name in SINGLE:
            self._values[node.output[0]] = np.array(value, SINGLE[item.name])
        else:
            return False
        return True


def code_type(node: onnx.NodeProto, zero_point: np.ndarray | None) -> np.dtype:
    """Return the type of codes that a QuantizeLinear makes."""
    if zero_point is not None:
        return zero_point.dtype
    given = next((item.i for item in node.attribute if item.name == "output_dtype"), 0)
    helper = require("onnx", extra="onnx", purpose="quantization").helper
    return np.dtype(helper.tensor_dtype_to_np_dtype(given)) if given else np.dtype(np.uint8)


def _quantize(options: dict, values: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    low, high = CODES[kind]
    scale, shift = _along(values, scale, options), 0 if zero is None else _along(values, zero, options).astype(np.int64)
    return np.clip(np.rint(values / scale).astype(np.int64) + shift, low, high).astype(kind)


def _dequantize(options: dict, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
    shift = 0 if zero is None else _along(codes, zero, options).astype(np.int64)
    return (codes.astype(np.int64) - shift).astype(np.float32) * _along(codes, scale, options)


def _along(values: np.ndarray, parameter: np.ndarray, options: dict) -> np.ndarray:
    """Return a scale or zero point in a shape that broadcasts over the tensor that it belongs to."""
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * values.ndim
    shape[options.get("axis", 1)] = -1
    return parameter.reshape(shape)


def _reshape(options: dict, values: np.ndarray, shape: np.ndarray) -> np.ndarray:
    kept = [
        old if new == 0 and not options.get("allowzero") else int(new)
        for new, old in zip(shape, values.shape, strict=False)
    ]
    return values.reshape([*kept, *(int(new) for new in shape[len(kept) :])])


def _transpose(options: dict, values: np.ndarray) -> np.ndarray:
    return values.transpose(options.get("perm"))


SHAPING = ("Reshape", "Transpose")
FOLDED: dict[str, Callable[..., np.ndarray]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
