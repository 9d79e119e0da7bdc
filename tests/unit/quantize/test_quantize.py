# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A whole Q/DQ graph: what is quantized, what stays float, what it computes, and what is refused."""

from __future__ import annotations

import typing

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.tiny import FAMILIES
from yolo_compress.errors import DataError, UnsupportedModel, UsageError
from yolo_compress.host.export import onnx_metadata
from yolo_compress.quantize import RANGES, SCHEMES, quantize_onnx, search
from yolo_compress.quantize.histogram import Histogram
from yolo_compress.quantize.ranges import Form, mse
from yolo_compress.quantize.search import SHARES
from yolo_compress.recipe import QuantizeSection

# random weights amplify nothing in particular, so an INT8 graph stays within a few percent of the float one
RELATIVE_ERROR = 0.15


def head_inputs(path) -> dict[str, np.ndarray]:
    """Run a graph and return what leaves the head's last convolutions, before boxes are decoded and ranked."""
    model = onnx.load(str(path))
    names = [
        n.output[0] for n in model.graph.node if n.op_type == "Conv" and n.name.count("cv") >= 2 and ".2/Conv" in n.name
    ]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    return dict(zip(names, session.run(None, {"images": image}), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", SCHEMES)
def test_quantized_graph_stays_near_the_float_one(graphs, images, tmp_path, family, target):
    source, out = graphs / f"{family}.onnx", tmp_path / "int8.onnx"
    result = quantize_onnx(source, out, images=images, imgsz=64, target=target, range="minmax")
    before, after = head_inputs(source), head_inputs(out)
    assert before.keys() == after.keys()
    assert before
    for name, exact in before.items():
        error = np.linalg.norm(after[name] - exact) / np.linalg.norm(exact)
        assert 0 < error < RELATIVE_ERROR, name
    metadata = onnx_metadata(out)
    assert metadata.pop("yolo_compress")
    assert metadata == onnx_metadata(source)
    by_name = {row.name: row for row in result.layers}
    head = max(int(name.split(".")[1]) for name in by_name)
    last = [row for name, row in by_name.items() if name.startswith(f"model.{head}.") and name.endswith(".2")]
    assert last
    assert all(row.precision == "fp32" and row.why for row in last)
    towers = [row for name, row in by_name.items() if name.startswith(f"model.{head}.") and not row.why]
    assert towers
    assert all(row.precision == "int8" and row.activation[1] > row.activation[0] and row.error < 0.1 for row in towers)


def test_every_weight_is_int8_per_output_channel(graphs, images, tmp_path):
    out = tmp_path / "int8.onnx"
    result = quantize_onnx(graphs / "yolov8n.onnx", out, images=images, imgsz=64, target="openvino", range="minmax")
    graph = onnx.load(str(out)).graph
    constants = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    weights = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    quantized = [row for row in result.layers if row.precision == "int8"]
    per_weight = [n for n in weights if constants[n.input[0]].ndim == 4]
    assert len(per_weight) == len(quantized)
    for node in per_weight:
        codes, scale, zero = (constants[name] for name in node.input)
        assert codes.dtype == np.int8
        assert scale.shape == (len(codes),)
        assert not zero.any()


def test_nothing_stands_between_a_convolution_and_its_activation(graphs, images, tmp_path):
    for target in ("openvino", "tensorrt"):
        out = tmp_path / f"{target}.onnx"
        quantize_onnx(graphs / "yolov8n.onnx", out, images=images, imgsz=64, target=target, range="minmax")
        graph = onnx.load(str(out)).graph
        made = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if node.op_type == "Sigmoid":
                assert made[node.input[0]].op_type != "DequantizeLinear"


def test_layers_named_in_keep_stay_float(graphs, images, tmp_path):
    result = quantize_onnx(
        graphs / "yolov8n.onnx",
        tmp_path / "a.onnx",
        images=images,
        imgsz=64,
        range="minmax",
        keep=("model.2", "model.0"),
    )
    kept = {row.name for row in result.layers if row.why.startswith("keep=")}
    assert "model.0" in kept
    assert any(name.startswith("model.2.") for name in kept)
    assert not any(name.startswith("model.22") for name in kept)


def test_mse_range_beats_every_range_on_a_grid():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 20000), [40.0, -3.0]]).astype(np.float32)
    for symmetric in (True, False):
        form, seen = Form(symmetric, symmetric), Histogram()
        seen.add(values)

        def error(low, high, form=form, seen=seen):
            return float((seen.counts * (form.quantizer(low, high).round_trip(seen.centres) - seen.centres) ** 2).sum())

        chosen = error(*mse(seen, form))
        grid = [
            error(-high if symmetric else seen.low * share, high)
            for high in np.linspace(0.12 * seen.high, seen.high, 40)
            for share in ((1.0,) if symmetric else np.linspace(0.2, 1, 9))
        ]
        assert chosen <= min(grid) * 1.02  # the search walks a grid of its own
        assert chosen < error(seen.low, seen.high)


def test_few_images_are_noted(graphs, images, tmp_path):
    result = quantize_onnx(graphs / "yolov8n.onnx", tmp_path / "a.onnx", images=images, imgsz=64)
    assert any("ranges come from 8 images; from 100 on" in note for note in result.notes)
    assert set(RANGES) == set(typing.get_args(QuantizeSection.model_fields["range"].annotation))


@pytest.mark.parametrize("target", list(SCHEMES))
@pytest.mark.parametrize("name", list(RANGES))
def test_every_range_quantizes_for_every_target(graphs, images, tmp_path, monkeypatch, target, name):
    monkeypatch.setattr(search, "COVERED", 0.3)  # of the search of `auto`, which has tests of its own
    out = tmp_path / "a.onnx"
    result = quantize_onnx(graphs / "yolov8n.onnx", out, images=images, imgsz=64, target=target, range=name)
    made = [row for row in result.layers if row.precision == "int8"]
    assert made
    scaled = [f"{share:g} x mse" for share in SHARES]
    assert {row.method for row in made} <= {"fixed", *([*RANGES, *scaled] if name == "auto" else [name])} - {"auto"}
    # of so few values, entropy cuts off what TensorRT's algorithm would cut off
    assert all(0 <= row.error < (1 if name == "entropy" else 0.2) for row in made)
    onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])


def test_bad_input(graphs, images, tmp_path):
    source, out = graphs / "yolov8n.onnx", tmp_path / "out.onnx"
    with pytest.raises(DataError, match="calibration set is empty"):
        quantize_onnx(source, out, images=(), imgsz=64)
    with pytest.raises(UsageError, match=r"takes 64x64 images and imgsz=96 was asked for"):
        quantize_onnx(source, out, images=images, imgsz=96)
    with pytest.raises(UsageError, match=r"keep=model\.99 names no convolution"):
        quantize_onnx(source, out, images=images, imgsz=64, keep=("model.99",))
    (tmp_path / "bad.onnx").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"bad\.onnx' is not a readable ONNX file"):
        quantize_onnx(tmp_path / "bad.onnx", out, images=images, imgsz=64)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png' cannot be read"):
        quantize_onnx(source, out, images=(broken,), imgsz=64)
    assert not out.exists()
    quantize_onnx(source, out, images=images, imgsz=64, range="minmax")
    with pytest.raises(UsageError, match="is quantized already"):
        quantize_onnx(out, tmp_path / "twice.onnx", images=images, imgsz=64)


def test_activations_that_are_not_finite_are_named(graphs, images, tmp_path):
    model = onnx.load(str(graphs / "yolov8n.onnx"))
    weight = next(value for value in model.graph.initializer if value.name.startswith("model.4.cv1"))
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = np.inf
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, str(tmp_path / "inf.onnx"))
    with pytest.raises(UnsupportedModel, match=r"activation '.*' is not finite"):
        quantize_onnx(tmp_path / "inf.onnx", tmp_path / "a.onnx", images=images, imgsz=64)


def test_a_graph_without_the_heads_convolutions_is_refused(tmp_path, images):
    make, kind = onnx.helper, onnx.TensorProto
    weight = onnx.numpy_helper.from_array(np.zeros((4, 3, 1, 1), np.float32), "model.0.conv.weight")
    graph = make.make_graph(
        [make.make_node("Conv", ["images", "model.0.conv.weight"], ["y"], "/model.0/conv/Conv")],
        "g",
        [make.make_tensor_value_info("images", kind.FLOAT, [1, 3, 64, 64])],
        [make.make_tensor_value_info("y", kind.FLOAT, [1, 4, 64, 64])],
        [weight],
    )
    model = make.make_model(graph, ir_version=9, opset_imports=[make.make_opsetid("", 17)])
    entry = model.metadata_props.add()
    entry.key, entry.value = "task", "detect"
    onnx.save(model, str(tmp_path / "a.onnx"))
    with pytest.raises(UnsupportedModel, match="head's output convolutions cannot be found"):
        quantize_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", images=images, imgsz=64)
