# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Activations whose range is found while the model runs: every convolution quantizes its own input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.errors import require
from yolo_compress.quantize.placement import Placement, Wiring
from yolo_compress.quantize.storage import assembled
from yolo_compress.quantize.writer import Names, Parameters

if TYPE_CHECKING:
    import onnx

MIDDLE = 128  # of unsigned codes; ConvInteger takes signed weights only in newer versions of ONNX Runtime


def insert_dynamic(
    model: onnx.ModelProto, placement: Placement, parameters: Mapping[int, Parameters]
) -> onnx.ModelProto:
    """Return a copy of a float model whose convolutions multiply codes; metadata, inputs and outputs stay as they are.

    `y = s_x s_w conv(x_q - z_x, w_q - 128) + b`, with x_q, s_x and z_x from DynamicQuantizeLinear, which covers the
    smallest and the largest value of the whole tensor, all images of a batch together, by 256 codes, and s_w one scale
    per output channel. Convolutions that read one tensor share its codes.

    Args:
        model: The float model that `placement` was made for.
        placement: Which convolutions are quantized.
        parameters: Codes of at most eight bits and bias of each convolution, by its node.
    """
    onnx = require("onnx", extra="onnx", purpose="quantization")
    make, wiring = onnx.helper.make_node, Wiring(model.graph)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    coded: set[str] = set()

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(onnx.numpy_helper.from_array(values, name))
        return name

    constant("dynamic_weight_zero_point", np.array(MIDDLE, np.uint8))
    for index, original in enumerate(wiring.nodes):
        given = parameters.get(index)
        if given is None or given.weight is None:
            node = onnx.NodeProto()
            node.CopyFrom(original)
            nodes.append(node)
            if given is not None and given.bias is not None:
                node.input[2] = constant(f"{node.name}/bias", given.bias.astype(np.float32))
            continue
        source, base = original.input[0], original.name
        names = Names.of(source)
        if source not in coded:
            coded.add(source)
            outputs = [names.codes, names.scale, names.zero_point]
            nodes.append(make("DynamicQuantizeLinear", [source], outputs, f"{source}_DynamicQuantizeLinear"))
        weight = Names.of(f"{base}/weight")
        codes = constant(weight.codes, (given.weight.codes.astype(np.int16) + MIDDLE).astype(np.uint8))
        scales = constant(weight.scale, given.weight.scales.reshape(1, -1, 1, 1))
        inputs = [names.codes, codes, names.zero_point, "dynamic_weight_zero_point"]
        product = make("ConvInteger", inputs, [f"{base}/sum"], base)
        product.attribute.extend(original.attribute)
        scaled = original.output[0] if given.bias is None else f"{base}/scaled"
        nodes += [
            product,
            make("Cast", [f"{base}/sum"], [f"{base}/float"], f"{base}/Cast", to=onnx.TensorProto.FLOAT),
            make("Mul", [names.scale, scales], [f"{base}/scale"], f"{base}/MulScales"),
            make("Mul", [f"{base}/float", f"{base}/scale"], [scaled], f"{base}/Mul"),
        ]
        if given.bias is not None:
            bias = constant(f"{base}/bias", given.bias.astype(np.float32).reshape(1, -1, 1, 1))
            nodes.append(make("Add", [scaled, bias], [original.output[0]], f"{base}/Add"))
    return assembled(model, nodes, constants)
