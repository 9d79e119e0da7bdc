# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolo-compress build engine=tensorrt`: who chooses INT8 ranges, and which options go together."""

from __future__ import annotations

import json

import pytest

from tests.unit.engines.trt_builders import CACHE, facts_of
from yolo_compress import building, stages
from yolo_compress.context import Context
from yolo_compress.engines.tensorrt.engine import TensorRt
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host.data import read_data
from yolo_compress.quantize import quantize_onnx
from yolo_compress.recipe import validate

pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.fixture
def order(graphs, data, tmp_path):
    def build(engine="tensorrt", model="yolov8n.pt", precision="int8", **given):
        given = {
            "data": data,
            "imgsz": 64,
            "project": tmp_path,
            "name": "out",
            "progress": lambda line: None,
            **given,
        }
        return building.build(graphs / model, engine=engine, precision=precision, **given)

    return build


def test_a_tensorrt_that_calibrates_does(installed, order, tmp_path):
    trt = installed()
    built = order(calibrator="minmax", calibration_batch=8, cache=tmp_path / "c.cache", images=8)
    assert built.path == tmp_path / "out/yolov8n.engine"
    assert [seen[0] for seen in trt.seen] == ["batch", "cache"]
    assert (tmp_path / "c.cache").read_bytes() == CACHE
    manifest = json.loads((tmp_path / "out/calibration.json").read_text())
    assert len(manifest["images"]) == 8


def test_options_of_quantization_let_us_choose(installed, order, tmp_path):
    trt = installed()
    built = order(range="minmax", images=4)
    assert built.path == tmp_path / "out/yolov8n.engine"
    assert (trt.seen, facts_of(built)["mode"]) == ([], "qdq")
    assert any("4" in note for note in built.notes), "few images are noted"


def test_a_graph_of_weights_quantized_without_codes_is_not_calibrated(installed, order, graphs, tmp_path):
    half, given = tmp_path / "half.onnx", {"activations": "none", "weight_form": "fp16"}
    quantize_onnx(graphs / "yolov8n_float.onnx", half, images=(), imgsz=64, **given)
    for generation in ("10.3", "11.4"):
        trt = installed(generation)
        with pytest.raises(UsageError, match=r"half\.onnx' was quantized without codes of 8 bits"):
            TensorRt().build(half, tmp_path, precision="int8", imgsz=64)
    trt = installed("10.3")
    with pytest.raises(UsageError, match=r"half\.onnx' was quantized without codes of 8 bits"):
        order(model=half)
    assert trt.seen == []


def test_a_tensorrt_that_does_not_calibrate_gets_a_quantized_graph(installed, order):
    trt = installed("11.4")
    assert facts_of(order(images=4))["mode"] == "qdq"
    with pytest.raises(UsageError, match=r"calibrator= is for a TensorRT that calibrates, and this tensorrt does not"):
        order(calibrator="entropy")
    assert trt.seen == []


def test_a_quantized_graph_may_take_any_batch(installed, order):
    trt = installed("11.4")
    order(images=4, dynamic_batch="1,2,4")
    assert ("parse", 0) in trt.calls
    shapes = [(size, 3, 64, 64) for size in (1, 2, 4)]
    assert ("add_optimization_profile", "images", *shapes) in trt.calls


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"calibrator": "entropy", "range": "mse"},
            "range= lets yolo-compress choose ranges and calibrator= lets Ten",
        ),
        ({"data": None}, "needs images to choose ranges on; give data=FILE.yaml"),
        ({"precision": "fp16", "calibrator": "entropy"}, "calibrator= only goes with precision=int8 and a float"),
        ({"precision": "fp16", "range": "mse"}, "range= only goes with precision=int8 and a float model; leave it"),
        ({"dynamic_batch": "4,1"}, "4,1 is not the least, usual and largest batch; write three rising numbers"),
        ({"workspace": 0}, "workspace=0: input should be greater than 0"),
        ({"compute": "ampere"}, "'ampere' is no compute capability; write such as 8.6"),
        ({"compute": 8.6}, "compute= is not for engine=tensorrt"),
        (
            {"engine": "openvino", "workspace": 2},
            "workspace= is for engine=tensorrt, and engine=openvino was given",
        ),
        (
            {"engine": "onnxruntime", "cache": "c"},
            "cache= is for engine=tensorrt, and engine=onnxruntime was given",
        ),
        ({"engine": "tensorrt_rtx", "dla": 0}, "dla= is not for engine=tensorrt_rtx"),
        ({"engine": "tensorrt_rtx", "timing_cache": "t"}, "timing_cache= is not for engine=tensorrt_rtx"),
    ],
)
def test_options_that_do_not_apply_are_refused(installed, order, given, message):
    installed()
    with pytest.raises(UsageError, match=message):
        order(**given)


def test_a_checkpoint_that_was_trained_quantized_keeps_its_ranges(installed, order, monkeypatch):
    trt = installed()
    monkeypatch.setattr(building, "carries_scales", lambda source: True)
    with pytest.raises(UsageError, match=r"was trained quantized and carries its ranges; leave calibrator= out"):
        order(calibrator="entropy")
    order(images=4)
    assert trt.seen == []


def test_ranges_that_we_searched_serve_a_tensorrt_that_takes_no_quantizers(installed, order, graphs, tmp_path):
    """A quantized graph is taken apart, and built with its cache, as DLAs of TensorRT 10 need it."""
    from yolo_compress import api

    api.cache(graphs / "yolov8n_qdq.onnx", trt_version="10.3.0", project=tmp_path, name="apart")
    apart = tmp_path / "apart"
    trt = installed(dla_cores=1)
    given = {"cache": apart / "calibration.cache", "float_layers": apart / "float_layers.txt", "data": None}
    built = order(model=apart / "float.onnx", dla=0, **given)
    assert trt.seen == [("cache", (apart / "calibration.cache").read_bytes())]
    kept = (apart / "float_layers.txt").read_text().splitlines()
    pinned = {call[1] for call in trt.calls if call[0] == "precision"}
    assert set(kept) <= pinned
    assert any("came without calibration images" in note for note in built.notes)
    installed("8.6")
    with pytest.raises(UsageError, match=r"is for TensorRT 100300, and 8600.*cache model=int8.onnx trt_version=8.6.0"):
        order(model=apart / "float.onnx", **given)
    with pytest.raises(DataError, match=r"neither images to choose ranges on nor a cache at '.*none'; give data="):
        order(model=apart / "float.onnx", cache=tmp_path / "none", data=None)
    with pytest.raises(DataError, match=r"float_layers 'none.txt' does not exist"):
        order(model=apart / "float.onnx", **{**given, "float_layers": "none.txt"})


def test_a_float_onnx_is_calibrated_or_quantized_too(installed, order, graphs):
    trt = installed()
    order(model="yolov8n_float.onnx", images=8)
    assert ("batch", 1, 4096) in trt.seen
    trt = installed("11.4")
    assert facts_of(order(model="yolov8n_float.onnx", images=8))["mode"] == "qdq"


def test_a_recipe_builds_with_its_options(installed, graphs, data, tmp_path):
    trt = installed()
    tree = {"schema_version": 1, "build": {"engines": ["tensorrt:fp16"]}, "tensorrt": {"workspace": 1}}
    context = Context(
        recipe=validate(tree, source="a test"),
        model=graphs / "yolov8n.pt",
        data=read_data(data),
        imgsz=64,
        device="cpu",
        run_dir=tmp_path,
        progress=lambda line: None,
    )
    made = stages.build_stage(context, {"checkpoint": graphs / "yolov8n.pt"}, tmp_path)
    assert made.outputs["tensorrt:fp16"] == tmp_path / "tensorrt_fp16/yolov8n.engine"
    assert made.metrics["tensorrt:fp16 build_seconds"] >= 0
    assert ("set_memory_pool_limit", "WORKSPACE", 1 << 30) in trt.calls
