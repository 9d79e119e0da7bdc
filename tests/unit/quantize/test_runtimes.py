# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What runtimes compute from a Q/DQ graph, against the same graph executed operator by operator in float."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from yolo_compress.quantize.affine import from_range
from yolo_compress.quantize.graph import insert, nearest_parameters
from yolo_compress.quantize.placement import Group, Layer, Placement
from yolo_compress.quantize.weights import WeightForm

CODE_STEPS = 1.01  # kernels accumulate exactly; requantizing a sum may round to the neighbouring code
SIZE = 12


def convolution(channels: int, *, kernel: int, groups: int, seed: int) -> onnx.ModelProto:
    """Return a float graph of one convolution, whose weights nearly all point the same way: the worst case for sums."""
    rng = np.random.default_rng(seed)
    out = channels if groups > 1 else 16
    weight = rng.uniform(0.3, 1, (out, channels // groups, kernel, kernel)).astype(np.float32)
    weight[: out // 2] *= -1
    weight *= rng.choice([1, -0.2], weight.shape, p=[0.9, 0.1]).astype(np.float32)
    bias = rng.normal(size=out).astype(np.float32)
    make, kind = onnx.helper, onnx.TensorProto
    node = make.make_node("Conv", ["x", "w", "b"], ["y"], "conv", pads=[kernel // 2] * 4, group=groups)
    graph = make.make_graph(
        [node],
        "one",
        [make.make_tensor_value_info("x", kind.FLOAT, [1, channels, SIZE, SIZE])],
        [make.make_tensor_value_info("y", kind.FLOAT, [1, out, SIZE, SIZE])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    return make.make_model(graph, ir_version=9, opset_imports=[make.make_opsetid("", 17)])


def quantized(model: onnx.ModelProto, images: np.ndarray) -> tuple[onnx.ModelProto, float]:
    """Quantize input, weights and output of a convolution; return the graph and the width of an output code."""
    exact = execute(model, images, optimise=False)
    groups = {
        Group(("x",), ("x",)): from_range(0, 1, signed=False, symmetric=False),
        Group(("y",), ("y",)): from_range(float(exact.min()), float(exact.max()), signed=False, symmetric=False),
    }
    readable = onnx.ModelProto()
    readable.CopyFrom(model)
    readable.graph.node.append(onnx.helper.make_node("Identity", ["y"], ["z"], "end"))  # reads the output's codes
    readable.graph.output[0].name = "z"
    placement = Placement((Layer(0, "conv"),), tuple(groups), frozenset({(0, 0), (1, 0)}))
    form = WeightForm(avoid_overflow=True)
    parameters = nearest_parameters(readable, placement, groups, form, int32_bias=True)
    made = insert(readable, placement, groups, parameters, int32_bias=True)
    return made, float(list(groups.values())[1].scale)


def execute(model: onnx.ModelProto, images: np.ndarray, *, optimise: bool) -> np.ndarray:
    """Run a graph in ONNX Runtime; without optimisation every quantizer is a step of its own around float kernels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


def execute_openvino(model: onnx.ModelProto, images: np.ndarray, folder) -> np.ndarray:
    """Run a graph in OpenVINO with its INT8 kernels."""
    openvino = pytest.importorskip("openvino")
    onnx.save(model, str(folder / "one.onnx"))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(str(folder / "one.onnx"), "CPU", settings)(images)[0]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("channels", "kernel", "groups"), [(3, 3, 1), (16, 1, 1), (24, 3, 1), (15, 3, 1), (32, 5, 1), (16, 3, 16)]
)
def test_sums_do_not_saturate_on_this_cpu(runtime, channels, kernel, groups, tmp_path):
    """The largest activations meet the worst weights: on CPUs without VNNI, pairs of products are added in 16 bits."""
    rng = np.random.default_rng(channels)
    images = rng.choice([1.0, 0.9, 0.0], (1, channels, SIZE, SIZE), p=[0.8, 0.1, 0.1]).astype(np.float32)
    model, step = quantized(convolution(channels, kernel=kernel, groups=groups, seed=channels), images)
    expected = execute(model, images, optimise=False)
    run = execute_openvino(model, images, tmp_path) if runtime == "openvino" else execute(model, images, optimise=True)
    assert np.abs(run - expected).max() <= CODE_STEPS * step
    assert len(np.unique(expected)) > 50, "an output without variety proves nothing"
