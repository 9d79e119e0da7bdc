# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Codes as they lie in a file: packed and unpacked by ONNX and by ONNX Runtime, and weights as a graph makes them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from yolo_compress.quantize.affine import Affine, from_range
from yolo_compress.quantize.dynamic import insert_dynamic
from yolo_compress.quantize.forms import WEIGHT_FORMS
from yolo_compress.quantize.graph import insert
from yolo_compress.quantize.placement import Group, Layer, Placement
from yolo_compress.quantize.storage import pack_nibbles, raised, tensor
from yolo_compress.quantize.weights import WeightForm, nearest
from yolo_compress.quantize.writer import Parameters

make, KIND = onnx.helper, onnx.TensorProto
SHAPES = npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)
FORMS = [
    (kind, bits, group, packed)
    for kind, bits, group, packed in (
        ("uniform", 8, None, False),
        ("uniform", 4, None, True),
        ("uniform", 4, 2, True),
        ("uniform", 3, 2, False),
        ("uniform", 12, None, False),
        ("uniform", 16, 4, False),
        ("binary", 1, None, True),
        ("ternary", 2, 2, True),
        ("pow2", 3, None, True),
        ("pow2", 4, 2, False),
        ("pow2", 5, None, False),
        ("codebook", 4, None, True),
        ("codebook", 4, 2, True),
        ("codebook", 6, None, False),
        ("fp16", 16, None, False),
        ("bf16", 16, None, False),
    )
]


def execute(model, feeds, *, optimise=False):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def graph(nodes, inputs, outputs, constants, opset=21):
    infos = [
        [make.make_tensor_value_info(name, kind, shape) for name, kind, shape in part] for part in (inputs, outputs)
    ]
    made = make.make_graph(nodes, "g", *infos, constants)
    return make.make_model(made, ir_version=10, opset_imports=[make.make_opsetid("", opset)])


@settings(max_examples=60, deadline=None)
@given(codes=npst.arrays(np.int8, SHAPES, elements=st.integers(-8, 7)), signed=st.booleans())
def test_nibbles_are_unpacked_by_onnx(codes, signed):
    given_ = codes if signed else (codes + 8).astype(np.uint8)
    made = tensor("t", given_, packed=True)
    assert len(made.raw_data) == (codes.size + 1) // 2
    assert made.data_type == (KIND.INT4 if signed else KIND.UINT4)
    assert np.array_equal(onnx.numpy_helper.to_array(made).astype(np.int16), given_)


def test_the_first_of_two_lies_in_the_lower_half():
    assert pack_nibbles(np.array([1, -1, 3], np.int8)) == bytes([0xF1, 0x03])


@settings(max_examples=40, deadline=None)
@given(
    codes=npst.arrays(np.int8, SHAPES, elements=st.integers(-8, 7)),
    scale=st.floats(2**-20, 2**10, width=32),
    zero=st.integers(-8, 7),
)
def test_the_operator_reads_what_was_packed_bit_for_bit(codes, scale, zero):
    constants = [
        tensor("q", codes, packed=True),
        onnx.numpy_helper.from_array(np.float32(scale), "s"),
        tensor("z", np.array(zero, np.int8), packed=True),
    ]
    node = make.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])
    (found,) = execute(graph([node], [], [("y", KIND.FLOAT, codes.shape)], constants), {})
    assert np.array_equal(found, (codes.astype(np.float32) - zero) * np.float32(scale))


@settings(max_examples=60, deadline=None)
@given(
    values=npst.arrays(np.float32, SHAPES, elements=st.floats(-1e5, 1e5, width=32)),
    bits=st.integers(2, 16),
    signed=st.booleans(),
    scale=st.floats(2**-14, 2**8, width=32),
    share=st.floats(0, 1),
)
def test_activations_of_every_width_equal_the_operators_bit_for_bit(values, bits, signed, scale, share):
    quantizer = Affine(np.float32(scale), 0, signed, bits)
    low, high = quantizer.code_range
    quantizer = Affine(np.float32(scale), round(low + share * (high - low)), signed, bits)
    group = Group(("x",), ("x",))
    node = make.make_node("Identity", ["x"], ["y"], "end")
    model = graph([node], [("x", KIND.FLOAT, values.shape)], [("y", KIND.FLOAT, values.shape)], [], opset=17)
    made = insert(model, Placement((), (group,), frozenset({(0, 0)})), {group: quantizer}, {}, int32_bias=False)
    (found,) = execute(made, {"x": values})
    assert np.array_equal(found, quantizer.round_trip(values))
    codes = quantizer.quantize(values)
    assert codes.min() >= low
    assert codes.max() <= high
    assert any(node.op_type == "Clip" for node in made.graph.node) == (bits not in (8, 16))


@given(st.integers(2, 16), st.booleans(), st.booleans(), st.floats(-50, 0), st.floats(0, 50))
def test_a_range_is_covered_by_all_codes_of_a_width(bits, signed, symmetric, low, high):
    made = from_range(low, high, signed=signed, symmetric=symmetric, bits=bits)
    bottom, top = made.limits
    slack = float(made.scale) * (0.5 + 1e-3) + 1e-9
    assert bottom <= low + slack
    assert top >= high - slack
    assert made.round_trip(np.zeros(1, np.float32))[0] == 0


def convolution(kernel=3, groups=1, channels=4, outputs=6, bias=True, opset=17):
    rng = np.random.default_rng(kernel)
    shape = (outputs, channels // groups, kernel, kernel)
    constants = [onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), "w")]
    if bias:
        constants.append(onnx.numpy_helper.from_array(rng.normal(size=outputs).astype(np.float32), "b"))
    inputs = ["x", "w", "b"][: 3 if bias else 2]
    node = make.make_node(
        "Conv", inputs, ["y"], "conv", pads=[kernel // 2] * 4, group=groups, strides=[1, 1], kernel_shape=[kernel] * 2
    )
    ends = [("x", KIND.FLOAT, (1, channels, 7, 7))], [("y", KIND.FLOAT, (1, outputs, 7, 7))]
    return graph([node], *ends, constants, opset)


def quantized(model, form) -> Parameters:
    constants = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
    return Parameters(nearest(constants["w"], form), constants.get("b"))


def with_weight(model, values):
    """Return the float graph with other weights."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    return changed


IMAGE = np.random.default_rng(5).normal(size=(1, 4, 7, 7)).astype(np.float32)
ONE = Placement((Layer(0, "conv"),), (), frozenset())


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("kind", "bits", "group", "packed"), FORMS)
def test_a_graph_makes_the_weights_that_were_chosen(kind, bits, group, packed, kernel):
    model = convolution(kernel)
    parameters = quantized(model, WeightForm(bits, group, kind=kind))
    made = insert(model, ONE, {}, {0: parameters}, int32_bias=False, packed=packed)
    expected = execute(with_weight(model, parameters.weight.values), {"x": IMAGE})[0]
    assert np.array_equal(execute(made, {"x": IMAGE})[0], expected)
    np.testing.assert_allclose(execute(made, {"x": IMAGE}, optimise=True)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("kind", "bits", "group", "packed"), FORMS)
def test_openvino_computes_the_same(kind, bits, group, packed, kernel, tmp_path):
    openvino = pytest.importorskip("openvino")
    model = convolution(kernel)
    parameters = quantized(model, WeightForm(bits, group, kind=kind))
    onnx.save(insert(model, ONE, {}, {0: parameters}, int32_bias=False, packed=packed), str(tmp_path / "a.onnx"))
    settings_ = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    found = openvino.Core().compile_model(str(tmp_path / "a.onnx"), "CPU", settings_)(IMAGE)[0]
    expected = execute(with_weight(model, parameters.weight.values), {"x": IMAGE})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_blocks_are_attributes_where_a_kernel_lets_them_and_rows_elsewhere():
    for kernel, shape, size in ((1, (6, 4, 1, 1), 2), (3, (6, 36), 18)):
        model = convolution(kernel)
        parameters = quantized(model, WeightForm(4, 2))
        made = insert(model, ONE, {}, {0: parameters}, int32_bias=False, packed=True).graph
        node = next(node for node in made.node if node.op_type == "DequantizeLinear")
        assert {a.name: a.i for a in node.attribute} == {"axis": 1, "block_size": size}
        assert tuple(next(v for v in made.initializer if v.name == node.input[0]).dims) == shape
        assert any(node.op_type == "Reshape" for node in made.node) == (kernel == 3)


@pytest.mark.parametrize(("kernel", "groups", "bias"), [(1, 1, True), (3, 1, False), (3, 4, True), (5, 2, True)])
@pytest.mark.parametrize(("kind", "bits"), [("uniform", 8), ("uniform", 5), ("binary", 1), ("pow2", 4)])
def test_run_time_ranges_compute_what_their_definition_says(kind, bits, kernel, groups, bias):
    model = convolution(kernel, groups, 4, 8, bias)
    parameters = quantized(model, WeightForm(bits, kind=kind))
    made = insert_dynamic(model, ONE, {0: parameters})
    low, high = min(IMAGE.min(), 0), max(IMAGE.max(), 0)
    scale = np.float32((high - low) / np.float32(255))
    affine = Affine(scale, int(np.clip(np.rint(-low / scale), 0, 255)), False)
    expected = execute(with_weight(model, parameters.weight.values), {"x": affine.round_trip(IMAGE)})[0]
    for optimise in (False, True):
        found = execute(made, {"x": IMAGE}, optimise=optimise)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert sum(node.op_type == "ConvInteger" for node in made.graph.node) == 1


def test_run_time_codes_are_made_once_for_all_that_read_them():
    model = convolution()
    second = onnx.NodeProto()
    second.CopyFrom(model.graph.node[0])
    second.name, second.output[0] = "other", "z"
    model.graph.node.append(second)
    model.graph.output.append(make.make_tensor_value_info("z", KIND.FLOAT, (1, 6, 7, 7)))
    parameters = quantized(model, WeightForm())
    made = insert_dynamic(model, ONE, {0: parameters, 1: Parameters(None, parameters.bias + 1)})
    kinds = [node.op_type for node in made.graph.node]
    assert (kinds.count("DynamicQuantizeLinear"), kinds.count("Conv")) == (1, 1)
    both = insert_dynamic(model, ONE, {0: parameters, 1: parameters})
    kinds = [node.op_type for node in both.graph.node]
    assert (kinds.count("DynamicQuantizeLinear"), kinds.count("ConvInteger")) == (1, 2)
    y, z = execute(both, {"x": IMAGE})
    assert np.array_equal(y, z)


@pytest.mark.parametrize("family", ["yolov8n", "yolo11n", "yolo26n"])
def test_another_opset_changes_no_value_and_no_node(graphs, family):
    model = onnx.load(str(graphs / f"{family}.onnx"))
    made = raised(model)
    assert made.opset_import[0].version >= 21
    assert made.ir_version >= 10
    assert [n.name for n in made.graph.node] == [n.name for n in model.graph.node]
    assert {m.key: m.value for m in made.metadata_props} == {m.key: m.value for m in model.metadata_props}
    assert raised(made) is made
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    assert np.array_equal(execute(made, {"images": image})[0], execute(model, {"images": image})[0])


def test_every_form_is_tried_here():
    assert {kind for kind, *_ in FORMS} == set(WEIGHT_FORMS)
