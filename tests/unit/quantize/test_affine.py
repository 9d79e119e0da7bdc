# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The quantizer against ONNX Runtime's own operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from yolo_compress.quantize.affine import Affine, from_range


def operators(quantizer: Affine, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run QuantizeLinear and DequantizeLinear of ONNX Runtime."""
    make, kind = onnx.helper, onnx.TensorProto
    code_type = kind.INT8 if quantizer.signed else kind.UINT8
    graph = make.make_graph(
        [
            make.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            make.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        "oracle",
        [make.make_tensor_value_info("x", kind.FLOAT, list(values.shape))],
        [
            make.make_tensor_value_info("q", code_type, list(values.shape)),
            make.make_tensor_value_info("y", kind.FLOAT, list(values.shape)),
        ],
        [
            onnx.numpy_helper.from_array(np.array(quantizer.scale, np.float32), "s"),
            onnx.numpy_helper.from_array(np.array(quantizer.zero_point, quantizer.dtype), "z"),
        ],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    codes, back = session.run(None, {"x": values})
    return codes, back


@settings(max_examples=60, deadline=None)
@given(
    values=npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    scale=st.floats(np.float32(1e-5).item(), 1e3, width=32),
    zero=st.integers(0, 255),
    signed=st.booleans(),
)
def test_codes_and_values_equal_the_operators_bit_for_bit(values, scale, zero, signed):
    quantizer = Affine(np.float32(scale), zero - 128 if signed else zero, signed)
    codes, back = operators(quantizer, values)
    ours = quantizer.quantize(values)
    assert ours.dtype == codes.dtype
    assert np.array_equal(ours, codes)
    assert np.array_equal(quantizer.dequantize(ours), back)


@settings(max_examples=100, deadline=None)
@given(
    low=st.floats(-1e4, 1e4, width=32),
    width=st.floats(0, 1e4, width=32),
    signed=st.booleans(),
    symmetric=st.booleans(),
)
def test_a_range_is_covered_and_zero_has_a_code(low, width, signed, symmetric):
    quantizer = from_range(low, low + width, signed=signed, symmetric=symmetric)
    smallest, largest = quantizer.limits
    step = float(quantizer.scale)
    assert quantizer.scale > 0
    assert quantizer.round_trip(np.zeros(1, np.float32))[0] == 0
    assert smallest <= min(low, 0) + step
    assert largest >= max(low + width, 0) - step


@pytest.mark.parametrize("signed", [True, False])
def test_a_constant_tensor_of_zeros_survives(signed):
    quantizer = from_range(0.0, 0.0, signed=signed, symmetric=False)
    assert np.array_equal(quantizer.round_trip(np.zeros(3, np.float32)), np.zeros(3, np.float32))
