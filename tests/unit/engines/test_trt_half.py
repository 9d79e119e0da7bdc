# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Half precision in the graph: what ONNX Runtime makes of it is what the float32 graph gives, to half's precision."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolo_compress.engines.tensorrt.decode import ending, pins
from yolo_compress.engines.tensorrt.half import half_graph
from yolo_compress.errors import EngineError

BOX_TOLERANCE_PX = 0.1  # of random weights at 64 pixels; halves have 11 bits
SCORE_TOLERANCE = 1e-3


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    return found | {value.name: value.data_type for value in graph.initializer}


@pytest.fixture(params=["yolov8n", "yolo26n"])
def family(request) -> str:
    return request.param


@pytest.mark.parametrize("form", ["float", "qdq"])
def test_output_is_that_of_the_float32_graph(graphs, family, form):
    model = onnx.load(graphs / f"{family}_{form}.onnx")
    images = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    before, after = run(model, images), run(half_graph(model), images)
    assert after.dtype == np.float32
    assert 0 < np.abs(after[:, :4] - before[:, :4]).max() < BOX_TOLERANCE_PX
    assert np.abs(after[:, 4:] - before[:, 4:]).max() < SCORE_TOLERANCE


@pytest.mark.parametrize("form", ["float", "qdq"])
def test_every_convolution_is_half_but_the_decoding_which_is_single(graphs, family, form):
    model = onnx.load(graphs / f"{family}_{form}.onnx")
    half = half_graph(model)
    found = types(half)
    assert [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)] == [
        TensorProto.FLOAT
    ] * 2
    behind = {model.graph.node[index].name for index in ending(model.graph).decoding}
    for node in half.graph.node:
        if node.op_type == "Cast":
            continue
        kinds = {found[name] for name in node.output} & {TensorProto.FLOAT, TensorProto.FLOAT16}
        expected = TensorProto.FLOAT if node.name in behind else TensorProto.FLOAT16
        assert kinds <= {expected}, node.name
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    assert len(casts) == 1 + 6, "one for the images, one for each output convolution"
    assert {p.key: p.value for p in half.metadata_props} == {p.key: p.value for p in model.metadata_props}
    names = {node.name for node in half.graph.node}
    assert all(node.name in names for node in model.graph.node), "pins and messages go by names"


def test_scales_are_of_the_type_of_their_values_in_an_opset_that_allows_it(graphs):
    half = half_graph(onnx.load(graphs / "yolov8n_qdq.onnx"))
    assert half.opset_import[0].version == 19
    found = types(half)
    quantizers = [node for node in half.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert quantizers
    for node in quantizers:
        assert found[node.input[1]] == TensorProto.FLOAT16
        values = node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]
        assert found[values] == TensorProto.FLOAT16
    assert half_graph(onnx.load(graphs / "yolov8n_float.onnx")).opset_import[0].version < 19, "nothing asks for it"


def test_the_graph_that_was_given_stays_as_it_is(graphs):
    model = onnx.load(graphs / "yolov8n_qdq.onnx")
    before = model.SerializeToString()
    half_graph(model)
    assert model.SerializeToString() == before


def small(*nodes: onnx.NodeProto, constants: dict[str, np.ndarray], side: int = 4) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, side, side])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def conv(source: str, out: str, weight: str = "w") -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [out], f"/{out}/Conv")


WEIGHT = np.full((1, 1, 1, 1), 0.5, np.float32)


def test_a_constant_that_half_cannot_hold_keeps_its_operation_single():
    model = small(
        conv("x", "a"),
        helper.make_node("Mul", ["a", "big"], ["b"], "Mul"),
        helper.make_node("Mul", ["b", "small"], ["c"], "Mul_1"),
        conv("c", "y"),
        constants={"w": WEIGHT, "big": np.float32([1e6]), "small": np.float32([1e-6])},
    )
    x = np.random.default_rng(0).random((1, 1, 4, 4), dtype=np.float32)
    half = half_graph(model)
    assert np.isfinite(run(half, x)).all()
    assert types(half)["b"] == TensorProto.FLOAT


def test_a_scale_below_half_is_the_smallest_one_and_not_zero():
    model = small(
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "Q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "DQ"),
        conv("d", "y"),
        constants={"w": WEIGHT, "s": np.float32(1e-9), "z": np.int8(0)},
    )
    assert np.isfinite(run(half_graph(model), np.ones((1, 1, 4, 4), np.float32))).all()


def test_resize_keeps_its_scales_and_an_output_without_decoding_its_name_and_type():
    model = small(
        conv("x", "a"),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], "Resize", mode="nearest"),
        conv("b", "y"),
        constants={"w": WEIGHT, "scales": np.float32([1, 1, 2, 2])},
        side=8,
    )
    half = half_graph(model)
    assert types(half)["scales"] == TensorProto.FLOAT
    assert types(half)["b"] == TensorProto.FLOAT16
    assert [value.name for value in half.graph.output] == ["y"]
    x = np.random.default_rng(0).random((1, 1, 4, 4), dtype=np.float32)
    assert np.allclose(run(half, x), run(model, x), atol=1e-3)


def test_a_constant_in_a_node_and_a_cast_follow():
    value = helper.make_node("Constant", [], ["k"], "K", value=numpy_helper.from_array(np.float32([0.25]), "k"))
    model = small(
        value,
        helper.make_node("Mul", ["x", "k"], ["a"], "Mul"),
        helper.make_node("Cast", ["a"], ["b"], "Cast", to=TensorProto.FLOAT),
        conv("b", "y"),
        constants={"w": WEIGHT},
    )
    x = np.random.default_rng(0).random((1, 1, 4, 4), dtype=np.float32)
    assert np.allclose(run(half_graph(model), x), run(model, x), atol=1e-3)


def test_an_unknown_operator_is_refused_by_its_name():
    model = small(conv("x", "y"), constants={"w": WEIGHT})
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises(EngineError, match=r"half precision.*Unheard.*Name: /y/Conv"):
        half_graph(model)


def test_a_tensor_of_unknown_type_is_refused_by_the_name_of_its_node():
    model = small(
        helper.make_node("Unheard", ["x"], ["a"], "/a/Unheard", domain="elsewhere"),
        conv("a", "y"),
        constants={"w": WEIGHT},
    )
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(EngineError, match=r"type of 'a' \(Unheard '/a/Unheard'\) is not known"):
        half_graph(model)


def test_the_head_is_pinned_where_the_module_tree_has_it(graphs, family):
    head = {"yolov8n": 22, "yolo26n": 23}[family]
    found = pins(onnx.load(graphs / f"{family}_float.onnx").graph)
    branches = [
        f"/model.{head}/cv{branch}.{level}/cv{branch}.{level}.2/Conv" for branch in (2, 3) for level in range(3)
    ]
    branch = "one2one_" if any("one2one" in name for name in found.fp16) else ""
    expected = {name.replace("/cv", f"/{branch}cv").replace("//", "/") for name in branches}
    dfl = {name for name in found.fp16 if "/dfl/" in name}
    assert found.fp16 - dfl == expected
    assert len(dfl) == (0 if family == "yolo26n" else 1)
    assert found.fp32 == {f"/model.{head}/Sigmoid"}
