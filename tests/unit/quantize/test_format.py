# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole models in every form of numbers: what they compute, how large they are, and what is refused."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from yolo_compress import api
from yolo_compress.artifacts import MEGABYTE
from yolo_compress.engines import get_engine
from yolo_compress.engines.codes import TAKEN, check_codes
from yolo_compress.errors import UsageError
from yolo_compress.host.export import onnx_metadata
from yolo_compress.quantize import SCHEMES, quantize_onnx
from yolo_compress.quantize.format import format_of, number_format
from yolo_compress.recipe import QuantizeSection

IMAGE = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)


def run(path, *, as_written=True):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": IMAGE})[0]


@pytest.fixture(scope="module")
def made(graphs, tmp_path_factory):
    """Return a function that quantizes one graph in a form, once for each."""
    from yolo_compress.host.data import read_data

    images, seen, known = read_data(graphs / "data/data.yaml").train, {}, {}
    place = tmp_path_factory.mktemp("forms")

    def quantize(**options):
        options = {"target": "openvino", "range": "minmax", **options}
        key = json.dumps(options, sort_keys=True)
        if key not in known:
            given = {"images": images, "imgsz": 64, "seen": seen.setdefault(options["target"], {})}
            known[key] = quantize_onnx(graphs / "yolov8n.onnx", place / f"{len(known)}.onnx", **given, **options)
        return known[key]

    return quantize


def packs():
    return [
        {"weight_bits": 4},
        {"weight_bits": 4, "weight_group": 8},
        {"weight_form": "ternary"},
        {"weight_form": "codebook"},
        {"weight_bits": 4, "activations": "none"},
    ]


@pytest.mark.parametrize("options", packs(), ids=str)
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_packed_weights_compute_what_those_in_bytes_do_in_a_smaller_file(made, options, target):
    whole, packed = (made(**options, target=target, weight_storage=way) for way in ("bytes", "packed"))
    assert np.array_equal(run(whole.path), run(packed.path))
    assert whole.size_bytes == whole.path.stat().st_size
    assert packed.size_bytes == packed.path.stat().st_size < 0.7 * whole.size_bytes < 0.7 * whole.float_size_bytes
    assert all("(INT4)" in row.weight for row in packed.layers if not row.why)
    assert any("stored two to a byte" in note for note in packed.notes)
    kinds = Counter(value.data_type for value in onnx.load(str(packed.path)).graph.initializer)
    assert kinds[onnx.TensorProto.INT4] + kinds[onnx.TensorProto.UINT4] == sum(not row.why for row in packed.layers)
    facts = json.loads(onnx_metadata(packed.path)["yolo_compress"])
    assert facts["weight_storage"] == "packed"


def test_packed_weights_run_in_both_runtimes(made, tmp_path):
    packed = made(weight_bits=4, weight_group=8, weight_storage="packed")
    expected = run(packed.path)
    for name in ("onnxruntime", "openvino"):
        engine = get_engine(name)
        built = engine.build(packed.path, tmp_path / name, precision="int8", imgsz=64)
        session = engine.load(built.path, threads=1)
        np.testing.assert_allclose(session.infer(IMAGE), expected, rtol=1e-3, atol=1e-3)
        session.close()
        whole = engine.build(made(weight_bits=4, weight_group=8).path, tmp_path / "w", precision="int8", imgsz=64)
        assert built.size_bytes < 0.75 * whole.size_bytes


@pytest.mark.parametrize(
    ("options", "words", "precision", "note"),
    [
        (
            {"weight_form": "binary"},
            "binary per channel",
            "int8",
            "weights are binary and stored in bytes: a simulation",
        ),
        ({"weight_form": "ternary"}, "ternary per channel", "int8", "weights are ternary and stored in bytes"),
        ({"weight_form": "pow2"}, "powers of two, 4 bits, per channel", "int8", "weights are pow2 and stored in bytes"),
        ({"weight_form": "pow2", "weight_bits": 5}, "powers of two, 5 bits, per channel", "int8", "in two bytes"),
        ({"weight_form": "codebook"}, "codebook of 16, scaled per channel", "int8", "places in a table"),
        ({"weight_form": "fp16"}, "fp16", "int8", "stored as float16"),
        ({"weight_form": "bf16", "activations": "none"}, "bf16", "weights", "activations stay in float"),
        ({"weight_bits": 12}, "int12 symmetric per channel", "int8", "12 bits and are stored in two bytes"),
        ({"activation_bits": 4}, "int8 symmetric per channel, paired sums within 127", "int4", "4 bits: a simulation"),
        ({"activation_bits": 16}, "int8 symmetric per channel", "int16", "16 bits: a simulation"),
        ({"activations": "none"}, "int8 symmetric per channel", "weights", "have quantized weights"),
    ],
    ids=str,
)
def test_the_layer_table_and_notes_say_the_form(made, options, words, precision, note):
    result = made(**options)
    rows = [row for row in result.layers if not row.why]
    assert {row.weight for row in rows} == {words}
    assert {row.precision for row in rows} == {precision}
    assert any(note in text for text in result.notes)
    static = options.get("activations") != "none"
    assert all((row.activation is not None) == static and (row.error is not None) == static for row in rows)
    assert result.images == (8 if static else 0)


def test_more_bits_are_nearer_to_the_float_model(graphs, made):
    exact = run(graphs / "yolov8n.onnx")

    def error(**options):
        return np.abs(run(made(**options).path) - exact).mean()

    assert error(weight_bits=2) > error(weight_bits=4) > error(weight_bits=6) > error(weight_bits=12)
    assert error(activation_bits=3) > error(activation_bits=5) > error(activation_bits=8)
    cast = error(weight_form="fp16", activations="none")
    assert 0 < cast < error(weight_form="bf16", activations="none") < error(activations="none") < error(weight_bits=4)


@pytest.mark.parametrize("target", SCHEMES)
def test_codes_of_other_widths_are_those_that_the_runtime_reads(made, target):
    for bits in (4, 12):
        result = made(target=target, activation_bits=bits)
        constants = {v.name: onnx.numpy_helper.to_array(v) for v in onnx.load(str(result.path)).graph.initializer}
        points = {value.dtype for name, value in constants.items() if name.endswith("act/Mul_output_0_zero_point")}
        signed = target == "tensorrt" or bits > 8
        assert points == {np.dtype({(4, True): "int8", (4, False): "uint8", (12, True): "int16"}[bits, signed])}


def test_run_time_ranges_look_at_no_images(graphs, made):
    result = made(target="onnxruntime", activations="dynamic")
    rows = [row for row in result.layers if not row.why]
    assert {row.method for row in rows} == {"dynamic"}
    assert {row.precision for row in rows} == {"int8"}
    assert {row.activation for row in rows} == {None}
    kinds = Counter(node.op_type for node in onnx.load(str(result.path)).graph.node)
    assert kinds["ConvInteger"] == len(rows)
    assert kinds["Conv"] == len(result.layers) - len(rows)
    assert result.images == 0
    exact, found = run(graphs / "yolov8n.onnx"), run(result.path)
    assert 0 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.05
    np.testing.assert_allclose(run(result.path, as_written=False), found, rtol=1e-4, atol=1e-3)
    with pytest.raises(UsageError, match="is quantized already"):
        quantize_onnx(result.path, result.path.with_name("twice.onnx"), images=(), imgsz=64)


def test_weights_alone_can_be_repaired_and_are_not_quantized_twice(graphs, images, made, tmp_path):
    exact = run(graphs / "yolov8n.onnx")
    options = {"weight_bits": 3, "activations": "none"}
    given = {"images": images[:4], "imgsz": 64, "rounding": "adaround", "bias_correction": True}
    better = quantize_onnx(graphs / "yolov8n.onnx", tmp_path / "a.onnx", **options, **given)
    assert better.images == 4
    assert all(row.output_error[1] <= row.output_error[0] for row in better.layers if not row.why)
    assert np.abs(run(better.path) - exact).mean() < np.abs(run(made(**options).path) - exact).mean()
    cast = made(weight_form="fp16", activations="none")
    with pytest.raises(UsageError, match="is quantized already \\(it says so in its metadata\\)"):
        quantize_onnx(cast.path, tmp_path / "b.onnx", images=images, imgsz=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 1}, "weight_bits=1 is not possible; give 2 to 16"),
        ({"weight_bits": 17}, "weight_bits=17 is not possible; give 2 to 16"),
        (
            {"weight_form": "binary", "weight_bits": 2},
            "weight_bits=2 is not possible with weight_form=binary; give 1, or",
        ),
        ({"weight_form": "pow2", "weight_bits": 8}, "with weight_form=pow2; give 2 to 5"),
        ({"weight_form": "tenary"}, "weight_form=tenary is not known; did you mean ternary"),
        ({"weight_storage": "packd"}, "weight_storage=packd is not known; did you mean packed"),
        ({"activations": "dynamik"}, "activations=dynamik is not known; did you mean dynamic"),
        ({"activation_bits": 1}, "activation_bits=1 is not possible; give 2 to 16"),
        ({"activation_bits": 4, "activations": "none"}, "activation_bits=4 goes with activations=static, not none"),
        (
            {"activation_bits": 4, "range": "auto"},
            "range=auto compares ranges of 8-bit codes, not of 4; give range=mse",
        ),
        ({"activation_bits": 12, "range": "entropy"}, "too few for codes of 12 bits; give range=mse or range=minmax"),
        ({"weight_storage": "packed"}, "paired sums within 127 weights have larger ones; give weight_bits=4"),
        ({"weight_storage": "packed", "weight_form": "pow2"}, r"give weight_bits=4 \(3 for pow2\)"),
        ({"weight_storage": "packed", "weight_form": "fp16"}, "codes of at most 4 bits, and fp16 weights have larger"),
        (
            {"weight_storage": "packed", "weight_bits": 4, "target": "tensorrt"},
            "tensorrt cannot run convolutions with weights that are stored in 4 bits; give weight_storage=bytes, a sim",
        ),
        ({"activations": "dynamic", "target": "openvino"}, "give activations=static, or target=onnxruntime"),
        ({"activations": "dynamic", "target": "tensorrt"}, "tensorrt cannot multiply codes whose scale is found while"),
        ({"activations": "dynamic", "weight_group": 8}, "leave out weight_group and weight_storage"),
        ({"activations": "dynamic", "weight_form": "codebook"}, "give weight_form=uniform instead of codebook of 16"),
        ({"activations": "dynamic", "weight_bits": 9}, "multiplies weights of at most 8 bits in bytes"),
        ({"weight_form": "fp16", "weight_group": 8}, "weight_form=fp16 has no scales for weight_group=8 to divide"),
        ({"weight_form": "bf16", "rounding": "adaround"}, "weight_form=bf16 has no codes that rounding=adaround could"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        number_format(**{"target": "onnxruntime", **options})


def test_what_a_target_cannot_run_is_simulated_and_refused_at_build(made):
    wide = made(target="tensorrt", activation_bits=16)
    assert any("tensorrt cannot run activations of type INT16, and no engine" in note for note in wide.notes)
    with pytest.raises(UsageError, match=r"holds activations of type INT16, which tensorrt cannot run around conv"):
        check_codes("tensorrt", wide.path)
    with pytest.raises(UsageError, match=r"holds activations of type INT16, which openvino cannot run .* 8-bit"):
        get_engine("openvino").build(made(activation_bits=12).path, wide.path.parent / "y", precision="int8", imgsz=64)
    assert not any("no engine" in note for note in made(target="openvino", weight_bits=12).notes)
    check_codes("openvino", made(target="openvino", weight_bits=12).path)
    packed = made(weight_bits=4, weight_storage="packed")
    with pytest.raises(
        UsageError, match="weights of type INT4 and activations of type UINT8, which tensorrt_rtx cannot"
    ):
        check_codes("tensorrt_rtx", packed.path)
    dynamic = made(target="onnxruntime", activations="dynamic")
    with pytest.raises(UsageError, match=r"\(activations=dynamic\), which openvino cannot do on codes; quantize the"):
        get_engine("openvino").build(dynamic.path, dynamic.path.parent / "x", precision="int8", imgsz=64)
    check_codes("tensorrt", made(target="tensorrt", weight_bits=3).path)
    table = made(target="tensorrt", weight_form="codebook")
    assert any("tensorrt cannot run weights of type UINT8, and no engine" in note for note in table.notes)
    with pytest.raises(UsageError, match="holds weights of type UINT8, which tensorrt cannot"):
        check_codes("tensorrt", table.path)
    check_codes("pytorch", dynamic.path)
    assert set(SCHEMES) <= set(TAKEN)


@pytest.mark.parametrize(("kind", "read"), [("uint8", True), ("int8", True), ("uint16", False), ("int16", False)])
def test_openvino_leaves_quantizers_of_wide_activations_out(tmp_path, kind, read):
    """Why 16 bits are not among what it takes; when this fails, they can be."""
    openvino = pytest.importorskip("openvino")
    make, types = onnx.helper, onnx.TensorProto
    values = {"s": np.float32(0.25), "z": np.dtype(kind).type(0), "w": np.ones((1, 3, 1, 1), np.float32)}
    nodes = [
        make.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        make.make_node("Conv", ["d", "w"], ["y"]),
    ]
    ends = [[make.make_tensor_value_info(name, types.FLOAT, (1, size, 64, 64))] for name, size in (("x", 3), ("y", 1))]
    graph = make.make_graph(nodes, "g", *ends, [onnx.numpy_helper.from_array(v, n) for n, v in values.items()])
    model = make.make_model(graph, ir_version=10, opset_imports=[make.make_opsetid("", 21)])
    onnx.save(model, str(tmp_path / "a.onnx"))
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    found = openvino.Core().compile_model(str(tmp_path / "a.onnx"), "CPU", settings)(IMAGE)[0]
    expected = np.rint(IMAGE * 4) / 4 if read else IMAGE
    np.testing.assert_allclose(found, expected.sum(1, keepdims=True), rtol=1e-6)
    assert (kind.upper() in TAKEN["openvino"].activations) == read


def test_a_section_says_what_the_options_say():
    section = QuantizeSection(target="onnxruntime", weight_form="pow2", weight_group=16)
    assert format_of(section) == number_format(target="onnxruntime", weight_form="pow2", weight_group=16)
    assert format_of(QuantizeSection()) == number_format(target="openvino", weight_bits=8)


def test_the_command_writes_every_form_and_tells_the_size(graphs, tmp_path):
    data, model = graphs / "data/data.yaml", graphs / "yolov8n.onnx"
    given = {"data": data, "imgsz": 64, "project": tmp_path, "progress": lambda line: None}
    result = api.quantize(model, **given, target="openvino", weight_form="ternary", weight_storage="packed", images=8)
    assert result.metrics["size_mb"] == result.path.stat().st_size / MEGABYTE < 0.25 * result.metrics["float_size_mb"]
    assert "size_mb: 0." in str(result)
    assert (result.path.parent / "calibration.json").is_file()
    alone = api.quantize(model, **given, name="alone", weight_form="fp16", activations="none")
    assert not (alone.path.parent / "calibration.json").exists()
    assert alone.metrics["calibration_images"] == 0
    built = api.build(alone.path, engine="onnxruntime", precision="fp32", imgsz=64, project=tmp_path)
    assert built.notes[0].startswith("activations are not quantized")
    with pytest.raises(UsageError, match="was quantized without codes of 8 bits; build it with precision=fp32"):
        api.build(alone.path, engine="onnxruntime", precision="int8", imgsz=64, project=tmp_path)
