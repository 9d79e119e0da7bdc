# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""From a Q/DQ graph to a calibration cache and back; ONNX Runtime says whether they compute the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import FAMILIES
from yolo_compress.bench.layers import module_scope
from yolo_compress.engines.tensorrt.cache import CalibrationCache
from yolo_compress.errors import DataError, UnsupportedModel, UsageError
from yolo_compress.host.export import onnx_metadata
from yolo_compress.quantize import quantize_from_cache, quantize_onnx, strip_quantizers
from yolo_compress.quantize.grid import keep_codes
from yolo_compress.quantize.weights import WeightForm, nearest

make, to_array, from_array = onnx.helper.make_node, onnx.numpy_helper.to_array, onnx.numpy_helper.from_array
IMAGE = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
HEAD = {"yolov8n": 22, "yolo11n": 23, "yolo26n": 23}


def run(model, names=(), images=IMAGE):
    """Run a graph as it is written, and return some of its tensors, or its outputs."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model if isinstance(model, onnx.ModelProto) else onnx.load(str(model)))
    if names:
        del watched.graph.output[:]
        watched.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})


def strip(path):
    return strip_quantizers(path, version=100300, algorithm="EntropyCalibration2")


def constants(graph):
    return {tensor.name: to_array(tensor) for tensor in graph.initializer}


def activations(graph):
    """Return the scale of every quantized activation, read from the graph as ONNX defines it."""
    values = constants(graph)
    return {n.input[0]: values[n.input[1]] for n in graph.node if n.op_type == "QuantizeLinear"}


@pytest.fixture(scope="module")
def quantized(graphs, tmp_path_factory):
    """Return a folder with a Q/DQ graph for TensorRT of each family."""
    from yolo_compress.host.data import read_data

    folder = tmp_path_factory.mktemp("bridge")
    images = read_data(graphs / "data/data.yaml").train
    for family in FAMILIES:
        quantize_onnx(graphs / f"{family}.onnx", folder / f"{family}.onnx", images=images, imgsz=64, target="tensorrt")
    return folder


@pytest.fixture
def changed(quantized, tmp_path):
    """Return a function that writes the graph of yolov8n as some change leaves it, and gives its path."""

    def write(change):
        model = onnx.load(str(quantized / "yolov8n.onnx"))
        change(model.graph)
        onnx.save(model, str(tmp_path / "changed.onnx"))
        return tmp_path / "changed.onnx"

    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_computes_the_same(graphs, quantized, tmp_path, family):
    source, back = quantized / f"{family}.onnx", tmp_path / "back.onnx"
    stripped = strip(source)
    cache, floating, _ = stripped.write(tmp_path)
    made = quantize_from_cache(floating, back, CalibrationCache.read(cache))
    before, after = onnx.load(str(source)).graph, onnx.load(str(back)).graph
    assert activations(before) == activations(after)
    assert {name: scale for name, scale in stripped.cache.scales.items() if name in activations(before)} == activations(
        before
    )
    for mine, theirs in zip(run(source), run(back), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    metadata = onnx_metadata(back)
    assert '"cache": "TRT-100300-EntropyCalibration2"' in metadata.pop("yolo_compress")
    assert metadata == onnx_metadata(floating) == onnx_metadata(graphs / f"{family}.onnx")
    assert all(row.precision == "fp32" or row.method == "cache" for row in made.result.layers)
    assert set(made.unused) == set(stripped.cache.scales) - set(activations(before))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stripped_graph_is_the_float_one_with_weights_on_their_codes(graphs, quantized, family):
    source, model = quantized / f"{family}.onnx", strip(quantized / f"{family}.onnx").model
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph.node}
    given = onnx.load(str(graphs / f"{family}.onnx")).graph
    described = [
        [(n.op_type, n.name, list(n.input[:2] if n.op_type == "Conv" else n.input), list(n.output)) for n in graph.node]
        for graph in (model.graph, given)  # equal biases are one constant in an export
    ]
    assert described[0] == described[1]
    read = {node.name: node.input[1] for node in onnx.load(str(source)).graph.node if node.op_type == "Conv"}
    dequantized = {name: tensor for name, tensor in read.items() if tensor.endswith("_dequantized")}
    values = dict(zip(dequantized, run(source, list(dequantized.values())), strict=True))  # as ONNX Runtime computes
    mine = constants(model.graph)
    for node in model.graph.node:
        if node.name in values:
            np.testing.assert_array_equal(mine[node.input[1]], values[node.name])
    assert len(values) > 50


def test_names_of_nodes_tell_the_modules(graphs):
    for family in FAMILIES:
        convolutions = [n for n in onnx.load(str(graphs / f"{family}.onnx")).graph.node if n.op_type == "Conv"]
        assert {n.name: f"{module_scope(n.name)}.weight" for n in convolutions} == {
            n.name: n.input[1] for n in convolutions
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_makes_the_form_that_tensorrt_wants(graphs, tmp_path, family):
    """From the scales of a cache that has every tensor, as TensorRT writes it."""
    source, out = graphs / f"{family}.onnx", tmp_path / "int8.onnx"
    given = onnx.load(str(source)).graph
    tensors = [given.input[0].name, *(name for node in given.node for name in node.output)]
    rng = np.random.default_rng(1)
    cache = CalibrationCache(8600, "EntropyCalibration2", {name: rng.uniform(0.01, 0.1) for name in tensors})
    made = quantize_from_cache(source, out, cache)
    model = onnx.load(str(out))
    onnx.checker.check_model(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    values, groups = constants(model.graph), []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = values[node.input[1]], values[node.input[2]]
            assert (scale.shape, zero.dtype, int(zero)) == ((), np.int8, 0)
            assert scale >= cache.scales[node.input[0]]
            groups.append(float(scale))
        if node.op_type == "Sigmoid":
            assert makers[node.input[0]].op_type != "DequantizeLinear"
        if node.op_type == "Conv":
            assert values[node.input[2]].dtype == np.float32 if len(node.input) > 2 else True
            last = node.name.split("/")[-2].count(".") == 2 and node.name.split("/")[-2].endswith(".2")
            quantized = makers.get(node.input[1])
            head = f"/model.{HEAD[family]}/" in node.name and last
            assert (quantized is None) == (head or "/dfl/" in node.name)
            if quantized is not None:
                codes, scales, zeros = (values[name] for name in quantized.input)
                assert codes.dtype == np.int8
                assert scales.shape == zeros.shape == (len(codes),)
                assert not zeros.any()
                assert quantized.attribute[0].i == 0
    assert set(groups) <= set(cache.scales.values())  # a scale of the cache, whole
    assert len(made.unused) == len(tensors) - len(activations(model.graph))
    notes = " ".join(made.result.notes)
    assert "groups of tensors share one scale where the cache has several; the largest is taken" in notes
    assert f"{len(made.unused)} tensors of the cache have no quantizer, such as" in notes


def test_tensors_that_the_cache_lacks_are_named_with_their_number(graphs, quantized, tmp_path):
    cache = strip(quantized / "yolov8n.onnx").cache
    some = sorted(activations(onnx.load(str(quantized / "yolov8n.onnx")).graph))[:3]
    left = {name: scale for name, scale in cache.scales.items() if name not in some}
    with pytest.raises(DataError) as caught:
        quantize_from_cache(graphs / "yolov8n.onnx", tmp_path / "a.onnx", dataclasses.replace(cache, scales=left))
    assert "no scale for 3 of the 52 tensors" in str(caught.value)
    assert all(name in str(caught.value) for name in some)
    with pytest.raises(DataError, match=r"no scale for 52 of the 52 tensors .* and 32 more; it was made from another"):
        quantize_from_cache(graphs / "yolov8n.onnx", tmp_path / "a.onnx", dataclasses.replace(cache, scales={"x": 1.0}))
    assert not (tmp_path / "a.onnx").exists()


def test_layers_to_keep_stay_float_and_become_pins(graphs, quantized, tmp_path):
    cache = strip(quantized / "yolov8n.onnx").cache
    quantize_from_cache(graphs / "yolov8n.onnx", tmp_path / "a.onnx", cache, keep=("model.2.cv1", "model.9"))
    pins = strip(tmp_path / "a.onnx").pins
    assert {"/model.2/cv1/conv/Conv", "/model.9/cv1/conv/Conv", "/model.9/cv2/conv/Conv"} <= set(pins)
    assert "/model.2/cv1/act/Sigmoid" not in pins


def test_pins_are_the_head_behind_its_towers(quantized):
    stripped = strip(quantized / "yolov8n.onnx")
    graph = stripped.model.graph
    outputs = {f"/model.22/cv{branch}.{level}/cv{branch}.{level}.2/Conv" for branch in (2, 3) for level in range(3)}
    convolutions = {node.name for node in graph.node if node.op_type == "Conv"}
    assert convolutions & set(stripped.pins) == outputs | {"/model.22/dfl/conv/Conv"}
    assert {"/model.22/Sigmoid", "/model.22/dfl/Softmax", graph.node[-1].name} <= set(stripped.pins)
    assert all(name.startswith("/model.22/") for name in stripped.pins)
    assert not any("/act/" in name for name in stripped.pins)
    assert set(stripped.unscaled) <= convolutions - set(stripped.pins)
    # what a residual adds to the skip has no quantizer of its own
    assert {name for name in stripped.unscaled if "model.2/" in name} == {"/model.2/m.0/cv2/conv/Conv"}


def test_attention_is_pinned_and_what_is_no_float_is_not(quantized):
    pins = strip(quantized / "yolo26n.onnx").pins
    kinds = {node.name: node.op_type for node in onnx.load(str(quantized / "yolo26n.onnx")).graph.node}
    found = {kinds[name] for name in pins}
    assert "MatMul" in found
    assert not found & {"TopK", "Shape", "Cast"}


def test_tensors_that_carry_codes_on_have_the_scale_as_well(quantized):
    """A convolution behind a concatenation runs on codes only where the concatenation has a scale too."""
    scales = strip(quantized / "yolov8n.onnx").cache.scales
    first, rest = scales["/model.2/cv1/act/Mul_output_0"], scales["/model.2/m.0/Add_output_0"]
    assert scales["/model.2/Concat_output_0"] == scales["/model.2/Split_output_0"] == first == rest


def scale_of(graph, node):
    return next(tensor for tensor in graph.initializer if tensor.name == node.input[1])


def first(graph, kind):
    return next(node for node in graph.node if node.op_type == kind)


def test_scales_in_constant_nodes_and_float_weights_are_read_too(quantized, changed):
    """Other tools keep weights in float before their quantizer, and scales in nodes."""

    def like_others(graph):
        values = constants(graph)
        nodes = []
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in values:
                codes, scales = values[node.input[0]], values[node.input[1]]
                shape = (-1,) + (1,) * (codes.ndim - 1)
                name = node.input[0].removesuffix("_quantized")
                graph.initializer.append(from_array(codes.astype(np.float32) * scales.reshape(shape), name))
                nodes.append(make("QuantizeLinear", [name, *node.input[1:]], [f"{name}_codes"], f"{name}_Q", axis=0))
                node.input[0] = f"{name}_codes"
            nodes.append(node)
        for tensor in [t for t in graph.initializer if t.name.endswith("_scale")]:
            nodes.insert(0, make("Constant", [], [tensor.name], value=tensor))
            graph.initializer.remove(tensor)
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)

    mine, theirs = strip(quantized / "yolov8n.onnx"), strip(changed(like_others))
    assert mine.cache == theirs.cache
    assert mine.pins == theirs.pins
    values, others = constants(mine.model.graph), constants(theirs.model.graph)
    assert values.keys() == others.keys()
    assert all((values[name] == others[name]).all() for name in values)


def test_weights_in_blocks_become_their_float_values(graphs, images, tmp_path):
    out = tmp_path / "int4.onnx"
    options = {"target": "tensorrt", "range": "minmax", "weight_bits": 4, "weight_group": 2}
    quantize_onnx(graphs / "yolov8n.onnx", out, images=images, imgsz=64, **options)
    node = next(n for n in onnx.load(str(out)).graph.node if n.name == "/model.4/cv1/conv/Conv")
    (expected,) = run(out, [node.input[1]])
    np.testing.assert_array_equal(constants(strip(out).model.graph)["model.4.cv1.conv.weight"], expected)


def test_a_graph_that_onnxruntime_quantized(graphs, images, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from yolo_compress.host.data import image_batches

    class Reader(CalibrationDataReader):
        batches = image_batches(images[:2], 64, batch=1)

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    out = tmp_path / "theirs.onnx"
    quantize_static(
        str(graphs / "yolov8n.onnx"),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Add", "Concat", "Split"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )
    stripped, graph = strip(out), onnx.load(str(out)).graph
    expected = {n.input[0]: to_array(scale_of(graph, n)) for n in graph.node if n.op_type == "QuantizeLinear"}
    assert {name: stripped.cache.scales[name] for name in expected} == {n: float(s) for n, s in expected.items()}
    read = {n.name: n.input[1:3] for n in graph.node if n.op_type == "Conv" and len(n.input) > 2}
    found = run(out, [name for names in read.values() for name in names])
    mine = constants(stripped.model.graph)
    weights = {n.name: n.input[1] for n in onnx.load(str(graphs / "yolov8n.onnx")).graph.node if n.name in read}
    for name, weight, bias in zip(read, found[::2], found[1::2], strict=True):
        kept = next(n.input[1:3] for n in stripped.model.graph.node if n.name == name)
        assert kept[0] == weights[name]
        np.testing.assert_array_equal(mine[kept[0]], weight)
        np.testing.assert_array_equal(mine[kept[1]], bias)
    onnx.save(stripped.model, str(tmp_path / "float.onnx"))
    assert quantize_from_cache(tmp_path / "float.onnx", tmp_path / "ours.onnx", stripped.cache).result.layers


def test_outputs_that_came_as_codes_keep_their_name(changed):
    def quantize_output(graph):
        name, last = graph.output[0].name, graph.node[-1]
        last.output[0] = "before"
        graph.node.append(make("QuantizeLinear", ["before", "images_scale", "images_zero_point"], ["codes"], "q"))
        graph.node.append(make("DequantizeLinear", ["codes", "images_scale", "images_zero_point"], [name], "dq"))

    stripped = strip(changed(quantize_output))
    assert stripped.model.graph.output[0].name == stripped.model.graph.node[-1].output[0]
    assert stripped.cache.scales["before"] == stripped.cache.scales["images"]
    assert np.isfinite(run(stripped.model)[0]).all()


def per_axis(graph):
    scale_of(graph, first(graph, "QuantizeLinear")).CopyFrom(from_array(np.ones(3, np.float32), "images_scale"))


def computed(graph):
    graph.initializer.append(from_array(np.ones((), np.float32), "one"))
    graph.node.insert(0, make("Mul", ["one", "one"], ["made"], "mul"))
    first(graph, "QuantizeLinear").input[1] = "made"


def unsigned(graph):
    del first(graph, "QuantizeLinear").input[2]


def shifted(graph):
    tensor = next(tensor for tensor in graph.initializer if tensor.name == "images_zero_point")
    tensor.CopyFrom(from_array(np.array(3, np.int8), tensor.name))


def two_scales(graph):
    graph.initializer.append(from_array(np.array(0.5, np.float32), "other"))
    graph.node.insert(0, make("QuantizeLinear", ["images", "other", "images_zero_point"], ["x"], "second"))


def other_scale_behind(graph):
    graph.initializer.append(from_array(np.array(0.5, np.float32), "other"))
    first(graph, "DequantizeLinear").input[1] = "other"


def on_codes(graph):
    graph.node.insert(1, make("MaxPool", ["images_quantized"], ["pooled"], "pool", kernel_shape=[1, 1]))


def codes_out(graph):
    graph.output.append(onnx.helper.make_tensor_value_info("images_quantized", onnx.TensorProto.INT8, [1, 3, 64, 64]))


def codes_in(graph):
    graph.input.append(onnx.helper.make_tensor_value_info("codes", onnx.TensorProto.INT8, [1, 3, 64, 64]))
    first(graph, "DequantizeLinear").input[0] = "codes"


def bad_scale(graph):
    scale_of(graph, first(graph, "QuantizeLinear")).CopyFrom(from_array(np.array(np.inf, np.float32), "images_scale"))


def weights_alone(graph):
    removed = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    behind = {n.output[0]: removed[n.input[0]] for n in graph.node if n.input and n.input[0] in removed}
    kept = [n for n in graph.node if n.output[0] not in removed and n.output[0] not in behind]
    for node in kept:
        for position, name in enumerate(node.input):
            node.input[position] = behind.get(name, name)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    kept.insert(0, make("QuantizeLinear", ["w", "images_scale", "images_zero_point"], ["c"], "of a constant"))
    graph.initializer.append(from_array(np.ones(3, np.float32), "w"))
    del graph.node[:]
    graph.node.extend(kept)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (per_axis, UsageError, "quantizes 'images' with 3 scales, and a cache has one for each tensor; quantize the"),
        (computed, UnsupportedModel, "the scale of 'images' in .* is computed, not constant"),
        (unsigned, UsageError, "quantizes 'images' with uint8 codes and zero point 0"),
        (shifted, UsageError, "quantizes 'images' with int8 codes and zero point 3"),
        (two_scales, UnsupportedModel, r"quantizes 'images' with scale 0\.00\d+ and with 0\.5 as well"),
        (other_scale_behind, UnsupportedModel, r"quantizes 'images' with scale 0\.00\d+ and reads it with another"),
        (on_codes, UnsupportedModel, r"'pool' \(MaxPool\) of .* computes on the codes of 'images'"),
        (codes_out, UnsupportedModel, r"puts out codes \('images_quantized'\)"),
        (codes_in, UnsupportedModel, "reads codes 'codes' that no QuantizeLinear before it makes"),
        (bad_scale, DataError, "the scale inf is not a finite number above zero"),
        (weights_alone, UsageError, "has quantized weights and no quantized activation"),
    ],
)
def test_what_a_cache_cannot_say_is_refused(changed, change, error, message):
    with pytest.raises(error, match=message):
        strip(changed(change))


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_asymmetric_graphs_are_refused_with_what_to_type(graphs, images, tmp_path, target):
    out = tmp_path / "int8.onnx"
    quantize_onnx(graphs / "yolov8n.onnx", out, images=images, imgsz=64, target=target, range="minmax")
    with pytest.raises(
        UsageError, match=r"with uint8 codes and zero point \d+, and a calibration cache .* target=tensorrt"
    ):
        strip(out)


def test_what_is_no_quantized_graph_is_refused(graphs, tmp_path, changed):
    with pytest.raises(UsageError, match=r"yolov8n\.onnx' holds no quantizers; run first: yolo-compress quantize"):
        strip(graphs / "yolov8n.onnx")
    with pytest.raises(DataError, match=r"none\.onnx' does not exist"):
        strip(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"bad\.onnx' is not a readable ONNX file"):
        strip(tmp_path / "bad.onnx")

    def dynamic(graph):
        graph.node.append(make("DynamicQuantizeLinear", [graph.node[-1].output[0]], ["a", "b", "c"], "dynamic"))

    with pytest.raises(UsageError, match="computes on codes in DynamicQuantizeLinear nodes"):
        strip(changed(dynamic))
    with pytest.raises(UsageError, match="is quantized already"):
        cache = CalibrationCache(8600, "MinMaxCalibration", {"x": 1.0})
        quantize_from_cache(changed(lambda graph: None), tmp_path / "a.onnx", cache)


@settings(max_examples=60, deadline=None)
@given(
    codes=st.lists(st.lists(st.integers(-127, 127), min_size=6, max_size=6), min_size=1, max_size=5),
    scales=st.lists(st.floats(2.0**-40, 2.0**10, width=32), min_size=5, max_size=5),
)
def test_weights_on_codes_keep_their_values_to_the_last_bit(codes, scales):
    """Whatever the largest code is: learned scales leave codes that do not reach 127."""
    steps = np.array(scales[: len(codes)], np.float32)
    weight = (np.array(codes, np.float32) * steps[:, None]).reshape(len(codes), 3, 2, 1)
    found, exact = keep_codes(weight, nearest(weight, WeightForm()))
    assert exact == len(codes)
    np.testing.assert_array_equal(found.values, weight)
    for row, scale, step in zip(codes, found.scales[:, 0], steps, strict=True):
        if max(map(abs, row)) == 127 and np.gcd.reduce(row) == 1:
            assert scale == step


def test_the_lowest_code_and_float_weights():
    weight = np.array([-128, 5, 100, 17], np.float32).reshape(1, 4, 1, 1) * np.float32(0.0123)
    found, exact = keep_codes(weight, nearest(weight, WeightForm()))
    assert exact == 1
    np.testing.assert_array_equal(found.codes.ravel(), [-128, 5, 100, 17])
    weight = np.random.default_rng(0).normal(size=(20, 12, 3, 3)).astype(np.float32)
    start = nearest(weight, WeightForm())
    found, exact = keep_codes(weight, start)
    assert exact == 0
    np.testing.assert_array_equal(found.codes, start.codes)
    np.testing.assert_array_equal(found.scales, start.scales)
