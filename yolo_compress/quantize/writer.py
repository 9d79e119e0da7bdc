# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The nodes and constants that quantizers of tensors, weights and biases are in an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.storage import narrow, tensor
from yolo_compress.quantize.weights import QuantizedWeight

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Names:
    """What the nodes and constants of one tensor's quantizer are called."""

    scale: str
    zero_point: str
    codes: str
    values: str

    @staticmethod
    def of(tensor: str) -> Names:
        """Name them after the tensor."""
        return Names(f"{tensor}_scale", f"{tensor}_zero_point", f"{tensor}_quantized", f"{tensor}_dequantized")


@dataclass(frozen=True)
class Parameters:
    """Of a convolution as it is written.

    Attributes:
        weight: Its codes, None where it stays in float.
        bias: (outputs,) float32, None where it has none.
    """

    weight: QuantizedWeight | None
    bias: np.ndarray | None


class Writer:
    """Makes nodes, and keeps the constants that they read."""

    def __init__(self, onnx: ModuleType, packed: bool) -> None:
        self.onnx, self.packed = onnx, packed
        self.constants: list[onnx.TensorProto] = []

    def pair(self, tensor: str, quantizer: Affine) -> list[onnx.NodeProto]:
        """Return what turns a tensor into codes and back.

        Where the type of the codes could hold more of them than there are, values are cut off before.
        """
        names, nodes, source = Names.of(tensor), [], tensor
        self._constant(names.scale, np.array(quantizer.scale, np.float32))
        self._constant(names.zero_point, np.array(quantizer.zero_point, quantizer.dtype))
        make = self.onnx.helper.make_node
        if not quantizer.fills_type:
            limits = [f"{tensor}_lowest", f"{tensor}_highest"]
            for name, value in zip(limits, quantizer.limits, strict=True):
                self._constant(name, np.array(value, np.float32))
            source = f"{tensor}_clipped"
            nodes.append(make("Clip", [tensor, *limits], [source], f"{tensor}_Clip"))
        constants = [names.scale, names.zero_point]
        return [
            *nodes,
            make("QuantizeLinear", [source, *constants], [names.codes], f"{tensor}_QuantizeLinear"),
            make("DequantizeLinear", [names.codes, *constants], [names.values], f"{tensor}_DequantizeLinear"),
        ]

    def weight(self, conv: onnx.NodeProto, given: Parameters, source: Affine | None) -> list[onnx.NodeProto]:
        """Point a convolution to its codes, named after the convolution since weights can be shared.

        Args:
            conv: The node, changed in place.
            given: Codes and bias.
            source: The quantizer of its input where biases are int32.
        """
        weight = given.weight
        assert weight is not None
        nodes = self._values(conv, weight)
        if given.bias is not None and source is not None:
            bias_scales = (weight.scales.max(axis=1) * source.scale).astype(np.float32)
            limit = np.iinfo(np.int32).max  # a corrected bias may be larger than the one that scales were chosen for
            bias_codes = np.clip(np.rint(given.bias.astype(np.float64) / bias_scales), -limit, limit).astype(np.int32)
            self._constant(Names.of(f"{conv.name}/bias").codes, bias_codes)
            nodes.append(self._dequantize(conv, 2, f"{conv.name}/bias", bias_scales, bias_codes.dtype))
        elif given.bias is not None:
            self.bias(conv, given.bias)
        return nodes

    def bias(self, conv: onnx.NodeProto, values: np.ndarray) -> None:
        """Point a convolution to a float bias, named after it since biases can be shared."""
        conv.input[2] = f"{conv.name}/bias"
        self._constant(conv.input[2], values.astype(np.float32))

    def _values(self, conv: onnx.NodeProto, weight: QuantizedWeight) -> list[onnx.NodeProto]:
        """Return the nodes that make the values of a weight.

        Under one scale per channel, codes keep the shape of the weight. Where blocks of input channels have their own,
        codes in bytes are one row per block, and a reshape follows. Packed ones are one row per output channel,
        (outputs, inputs x height x width), along which `block_size` = input channels of a block x height x width
        consecutive codes share a scale: a weight lies input channel by input channel, so that is the block. Kernels of
        one by one are such rows in their own shape, and nothing has to be reshaped.
        """
        tensor_name, codes, scales = f"{conv.name}/weight", weight.codes, weight.scales
        names, blocks = Names.of(tensor_name), weight.scales.shape[1]
        if weight.cast is not None:
            self.constants.append(narrow(names.codes, weight))
            conv.input[1] = names.values
            kind = self.onnx.TensorProto.FLOAT
            return [self.onnx.helper.make_node("Cast", [names.codes], [names.values], f"{tensor_name}_Cast", to=kind)]
        if weight.table is not None:
            return self._looked_up(conv, weight)
        if blocks == 1:
            self.constants.append(tensor(names.codes, codes, packed=self.packed))
            return [self._dequantize(conv, 1, tensor_name, scales[:, 0], codes.dtype)]
        if not self.packed:
            self._constant(names.codes, codes.reshape(scales.size, -1))
            node = self._dequantize(conv, 1, tensor_name, scales.reshape(-1), codes.dtype)
            return [node, self._reshape(conv, codes.shape)]
        area = codes.shape[2] * codes.shape[3]
        rows, size = codes.reshape(len(codes), -1), codes.shape[1] // blocks * area
        if area == 1:
            rows, scales = codes, scales[:, :, None, None]
        self.constants.append(tensor(names.codes, rows, packed=True))
        self._constant(names.scale, scales)
        conv.input[1] = names.values
        make, inputs = self.onnx.helper.make_node, [names.codes, names.scale]
        name = f"{tensor_name}_DequantizeLinear"
        node = make("DequantizeLinear", inputs, [names.values], name, axis=1, block_size=size)
        return [node] if area == 1 else [node, self._reshape(conv, codes.shape)]

    def _looked_up(self, conv: onnx.NodeProto, weight: QuantizedWeight) -> list[onnx.NodeProto]:
        """Return the nodes that look codes (outputs, blocks, weights of a block) up in a table and scale them."""
        assert weight.table is not None
        outputs, blocks = weight.scales.shape
        base, make = f"{conv.name}/weight", self.onnx.helper.make_node
        names = Names.of(base)
        self.constants.append(tensor(names.codes, weight.codes.reshape(outputs, blocks, -1), packed=self.packed))
        self._constant(f"{base}_table", weight.table)
        self._constant(names.scale, weight.scales[:, :, None])
        places, shares = f"{base}_places", f"{base}_shares"
        nodes = [
            make("Cast", [names.codes], [places], f"{base}_Cast", to=self.onnx.TensorProto.INT32),
            make("Gather", [f"{base}_table", places], [shares], f"{base}_Gather"),
            make("Mul", [shares, names.scale], [names.values], f"{base}_Mul"),
        ]
        conv.input[1] = names.values
        return [*nodes, self._reshape(conv, weight.codes.shape)]

    def _reshape(self, conv: onnx.NodeProto, shape: tuple[int, ...]) -> onnx.NodeProto:
        """Return the node that gives a convolution's weight, which has its values by now, its shape."""
        self._constant(f"{conv.name}/weight_shape", np.array(shape, np.int64))
        rows, conv.input[1] = conv.input[1], f"{conv.name}/weight_values"
        inputs = [rows, f"{conv.name}/weight_shape"]
        return self.onnx.helper.make_node("Reshape", inputs, [conv.input[1]], f"{conv.name}/Reshape")

    def _dequantize(
        self, conv: onnx.NodeProto, position: int, base: str, scales: np.ndarray, kind: np.dtype
    ) -> onnx.NodeProto:
        """Return the node that makes values of the codes that are named after `base`, a scale for each row."""
        names = Names.of(base)
        inputs = [names.codes, names.scale]
        self._constant(names.scale, scales)
        if position != 1 or not self.packed:  # zero when it is left out
            self._constant(names.zero_point, np.zeros(len(scales), kind))
            inputs.append(names.zero_point)
        conv.input[position] = names.values
        make, name = self.onnx.helper.make_node, f"{base}_DequantizeLinear"
        return make("DequantizeLinear", inputs, [names.values], name, axis=0)

    def _constant(self, name: str, values: np.ndarray) -> None:
        self.constants.append(self.onnx.numpy_helper.from_array(values, name))
