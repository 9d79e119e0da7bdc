# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""TensorRT as an engine: which graph is built in which way, what is written, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from ultralytics.nn.backends.base import BaseBackend

from tests.tiny import write_data
from tests.unit.engines.trt_builders import CACHE, PLAN, facts_of
from yolo_compress.calibrate import choose
from yolo_compress.engines import ENGINES, engine_for, get_engine
from yolo_compress.engines.tensorrt import engine as module
from yolo_compress.engines.tensorrt.calibration import Calibration
from yolo_compress.engines.tensorrt.engine import TensorRt, TensorRtRtx
from yolo_compress.engines.tensorrt.key import graph_sha256
from yolo_compress.errors import DataError, EngineError, MissingDependency, UsageError
from yolo_compress.host.data import image_batches, read_data
from yolo_compress.host.export import export_onnx
from yolo_compress.recipe import TensorRtSection
from yolo_compress.timing import RuntimeTiming

pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("suffix", [".pt", "_float.onnx"])
def test_a_float_model_becomes_an_engine_that_stock_ultralytics_reads(installed, graphs, tmp_path, precision, suffix):
    trt = installed()
    built = TensorRt().build(graphs / f"yolov8n{suffix}", tmp_path, precision=precision, imgsz=64)
    assert built.path.name == ("yolov8n.engine" if suffix == ".pt" else "yolov8n_float.engine")
    assert (built.engine, built.precision, built.imgsz) == ("tensorrt", precision, 64)
    assert built.size_bytes == built.path.stat().st_size
    assert built.notes == ()
    offset, metadata = BaseBackend.engine_header(built.path)
    assert built.path.read_bytes()[offset:] == PLAN
    source = onnx.load(graphs / "yolov8n_float.onnx")
    stock = {item.key: item.value for item in source.metadata_props}
    assert {key: value for key, value in metadata.items() if key in stock and key != "date"} == {
        key: value for key, value in stock.items() if key != "date"
    }
    assert json.loads(metadata["yolo_compress"])["build"]["precision"] == precision
    record = facts_of(built)
    assert (record["mode"], record["strongly_typed"], record["version"]) == ("float", True, "10.3.0")
    assert record["inspector"]["Layers"] == ["/model.0/conv/Conv"]
    assert trt.calls[1] == ("parse", 1)


def test_a_quantized_graph_is_built_from_its_quantizers(installed, graphs, tmp_path):
    trt = installed("11.4")
    built = TensorRt().build(graphs / "yolov8n_qdq.onnx", tmp_path, precision="int8", imgsz=64)
    assert facts_of(built)["mode"] == "qdq"
    assert trt.seen == []
    kinds = {node.op_type for node in trt.network.model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert json.loads(BaseBackend.engine_header(built.path)[1]["yolo_compress"])["target"] == "tensorrt"


@pytest.mark.parametrize("kind", ["Int8", "Half"])
def test_an_int8_engine_without_int8_layers_says_so(installed, graphs, tmp_path, monkeypatch, kind):
    installed()
    layer = {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", "Format/Datatype": f"{kind} NCHW"}]}
    monkeypatch.setattr("tests.unit.engines.trt_builders.INSPECTION", json.dumps({"Layers": [layer]}))
    built = TensorRt().build(graphs / "yolov8n_qdq.onnx", tmp_path, precision="int8", imgsz=64)
    told = ("int8 was asked for and no layer runs in it: 1 layers: 1 fp16, 0 reformats",)
    assert built.notes == (told if kind == "Half" else ())
    assert facts_of(built)["layers"]["precisions"] == {"fp16" if kind == "Half" else "int8": 1}


@pytest.mark.parametrize("generation", ["8.6", "10.3"])
def test_a_float_model_is_calibrated_on_full_batches_and_then_built_for_one_image(
    installed, graphs, images, tmp_path, generation
):
    trt = installed(generation)
    built = TensorRt().build(
        graphs / "yolov8n.pt", tmp_path, precision="int8", imgsz=64, calibration=Calibration(images, batch=10)
    )
    assert [call for call in trt.calls if call[0] == "parse"] == [("parse", 10), ("parse", 1)]
    assert graph_sha256(tmp_path / "yolov8n.onnx") == graph_sha256(graphs / "yolov8n_float.onnx")
    assert trt.seen == [("batch", 10, 4096), ("cache", CACHE)]
    (expected,) = image_batches(images.images[:10], 64, batch=10)
    (fed,) = trt.cuda.uploads
    assert np.array_equal(fed, expected), "letterboxed as at inference, in the order of the manifest"
    assert built.notes[0] == "calibrated on 10 of 11 images: batches are of 10, and the last one was not full"
    assert facts_of(built)["mode"] == "calibrate"
    speed = [call for call in trt.calls if call[0] == "builder_optimization_level"]
    assert speed == [("builder_optimization_level", 0)], "only the build that nobody runs may be slow"


def test_dynamic_shapes_are_calibrated_with_a_fixed_batch(installed, graphs, images, tmp_path):
    trt = installed("8.6")
    options = TensorRtSection(dynamic_batch=(1, 4, 8))
    TensorRt().build(
        graphs / "yolov8n.pt",
        tmp_path,
        precision="int8",
        imgsz=64,
        options=options,
        calibration=Calibration(images, batch=11),
    )
    assert [call for call in trt.calls if call[0] == "parse"] == [("parse", 11), ("parse", 0)]
    profiles = [call for call in trt.calls if call[0].endswith("_profile")]
    shapes = ("images", (1, 3, 64, 64), (4, 3, 64, 64), (8, 3, 64, 64))
    assert profiles == [("add_optimization_profile", *shapes), ("set_calibration_profile", *shapes)]


def test_an_onnx_of_one_image_is_calibrated_one_by_one_with_a_note(installed, graphs, images, tmp_path):
    trt = installed()
    built = TensorRt().build(
        graphs / "yolov8n_float.onnx", tmp_path, precision="int8", imgsz=64, calibration=Calibration(images)
    )
    assert trt.seen == [*[("batch", 1, 4096)] * 11, ("cache", CACHE)]
    assert built.notes[0].startswith("calibrated 1 image(s) at a time, since the ONNX takes no more; a checkpoint")


def test_a_cache_is_written_with_its_key_used_again_and_refused_for_other_images(installed, graphs, data, tmp_path):
    cache = tmp_path / "best.cache"

    def build(trt, count, **given):
        return TensorRt().build(
            graphs / "yolov8n_float.onnx",
            tmp_path / "out",
            precision="int8",
            imgsz=64,
            calibration=Calibration(choose(read_data(data), count), cache=cache, **given),
        )

    build(installed(), 8)
    assert cache.read_bytes() == CACHE
    again = installed()
    built = build(again, 8)
    assert again.seen == [("cache", CACHE)]
    assert built.notes[0] == f"ranges are those of the calibration cache '{cache}'"
    with pytest.raises(UsageError, match=r"belongs to another calibration: images"):
        build(installed(), 9)
    with pytest.raises(
        UsageError, match=r"algorithm EntropyCalibration2, batches of 1 \(now LegacyCalibration, 0.9999, 1"
    ):
        build(installed(), 8, algorithm="percentile")


def test_an_unreadable_image_is_named_and_leaves_no_cache(installed, graphs, tmp_path):
    images = choose(read_data(write_data(tmp_path / "data")), 8)
    images.images[5].write_bytes(b"no image")
    cache = tmp_path / "best.cache"
    trt = installed()
    with pytest.raises(DataError, match=r"image '.*005.png' cannot be read"):
        TensorRt().build(
            graphs / "yolov8n_float.onnx",
            tmp_path / "out",
            precision="int8",
            imgsz=64,
            calibration=Calibration(images, cache=cache),
        )
    assert len(trt.cuda.uploads) == 5
    assert trt.cuda.freed == 1
    assert not list(tmp_path.glob("best.cache*"))
    assert not list((tmp_path / "out").glob("*.engine")) if (tmp_path / "out").exists() else True


def test_a_tensorrt_that_does_not_calibrate_when_told_to_is_an_error(installed, graphs, images, tmp_path):
    trt = installed()
    trt.Builder._calibrate = lambda self, calibrator: None
    with pytest.raises(
        EngineError, match=r"without calibrating it \(0 images were asked for\); give a quantized graph"
    ):
        TensorRt().build(
            graphs / "yolov8n_float.onnx", tmp_path, precision="int8", imgsz=64, calibration=Calibration(images)
        )


def test_a_tensorrt_that_does_not_take_its_cache_is_an_error(installed, graphs, images, tmp_path):
    trt = installed()
    original = trt.Builder._calibrate

    def forgetful(self, calibrator):
        if trt.seen:  # the second build asks for images although it was given a cache
            calibrator.read_calibration_cache()
            calibrator.get_batch(["images"])
        else:
            original(self, calibrator)

    trt.Builder._calibrate = forgetful
    with pytest.raises(EngineError, match=r"did not take its own calibration cache"):
        TensorRt().build(
            graphs / "yolov8n_float.onnx", tmp_path, precision="int8", imgsz=64, calibration=Calibration(images)
        )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"precision": "bf16"}, UsageError, "tensorrt has no precision 'bf16'"),
        (
            {"options": TensorRtSection(compute="8.6")},
            UsageError,
            "compute= is not for engine=tensorrt: TensorRT builds",
        ),
        ({"precision": "int8"}, UsageError, "images are needed to choose them on; give data=FILE.yaml"),
        ({"imgsz": 96}, UsageError, "takes 64x64 images and imgsz=96 was asked for; give imgsz=64"),
        ({"name": "nothing.onnx"}, DataError, "does not exist"),
        ({"name": "nothing.pt"}, DataError, "do not exist"),
        ({"name": "yolov8n_qdq.onnx"}, UsageError, "is quantized, so it cannot become fp32"),
        ({"calibration": True}, UsageError, "calibration is for int8 from a float model, and '.*' becomes a float"),
        (
            {"calibration": True, "name": "yolov8n_qdq.onnx", "precision": "int8"},
            UsageError,
            "'.*_qdq.onnx' holds its ranges; leave calibrator= out",
        ),
    ],
)
def test_bad_input(installed, graphs, images, tmp_path, given, error, message):
    installed()
    given = {"precision": "fp32", "imgsz": 64, **given}
    if given.get("calibration"):
        given["calibration"] = Calibration(images)
    source = graphs / given.pop("name", "yolov8n_float.onnx")
    with pytest.raises(error, match=message):
        TensorRt().build(source, tmp_path, **given)
    assert not list(tmp_path.glob("*.engine"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm": "entrpy"}, r"calibrator=entrpy is not known; did you mean entropy\?"),
        ({"batch": 64}, r"calibration_batch=64 is out of range; give 8 to 32"),
    ],
)
def test_calibrations_that_no_tensorrt_has(images, given, message):
    with pytest.raises(UsageError, match=message):
        Calibration(images, **given)


def test_calibrators_that_a_version_or_a_dla_lacks(installed, graphs, images, tmp_path):
    def build(algorithm, **options):
        TensorRt().build(
            graphs / "yolov8n_float.onnx",
            tmp_path,
            precision="int8",
            imgsz=64,
            options=TensorRtSection(**options),
            calibration=Calibration(images, algorithm=algorithm),
        )

    trt = installed(dla_cores=1)
    with pytest.raises(UsageError, match=r"a DLA only takes calibrator=entropy, and calibrator=minmax was given"):
        build("minmax", dla=0)
    del trt.IInt8LegacyCalibrator
    with pytest.raises(UsageError, match=r"10.3.0 has no calibrator=legacy; give entropy or minmax"):
        build("legacy")


def test_a_dla_core_stands_in_the_header_and_what_falls_back_in_the_record(installed, graphs, tmp_path):
    installed(dla_cores=1)
    built = TensorRt().build(
        graphs / "yolov8n_float.onnx", tmp_path, precision="fp16", imgsz=64, options=TensorRtSection(dla=0)
    )
    assert BaseBackend.engine_header(built.path)[1]["dla"] == 0
    assert all("Resize" in name for name in facts_of(built)["gpu_layers"])
    assert len(facts_of(built)["gpu_layers"]) == 2
    assert "2 of " in built.notes[0]


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_graphs_with_zero_points_are_refused(installed, graphs, tmp_path, target):
    installed()
    model = onnx.load(graphs / "yolov8n_qdq.onnx")
    entry = next(item for item in model.metadata_props if item.key == "yolo_compress")
    entry.value = json.dumps(json.loads(entry.value) | {"target": target})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UsageError, match=rf"quantized for {target}.*zero points.*quantize target=tensorrt"):
        TensorRt().build(tmp_path / "other.onnx", tmp_path, precision="int8", imgsz=64)


def test_without_a_gpu_nothing_is_started_here(installed, graphs, tmp_path, monkeypatch):
    trt = installed()
    monkeypatch.setattr(module, "gpu_unusable", lambda *_, **__: "no NVIDIA driver is installed (libcuda.so.1)")
    trt.Builder = trt.Runtime = None  # calling them would be a TypeError
    assert TensorRt().unavailable() == "no NVIDIA driver is installed (libcuda.so.1)"
    trt = installed()
    monkeypatch.setattr(module, "gpu_unusable", lambda *_, **__: "no NVIDIA driver is installed (libcuda.so.1)")
    with pytest.raises(EngineError, match=r"are built on the GPU that runs them, and here no NVIDIA driver"):
        TensorRt().build(graphs / "yolov8n_float.onnx", tmp_path, precision="fp32", imgsz=64)
    assert trt.calls == []


def test_the_builder_is_asked_in_another_process(installed, monkeypatch):
    installed()
    asked = []

    def unusable(*_, question=""):
        asked.append(question)
        return "its builder does not start" if "trt.Builder" in question else None

    monkeypatch.setattr(module, "gpu_unusable", unusable)
    assert TensorRt().unavailable() == "its builder does not start"
    compile(asked[-1], "question", "exec")


def test_what_is_not_installed_is_told(monkeypatch):
    def absent(name):
        raise MissingDependency(f"engines need '{name}'")

    monkeypatch.setattr(module, "load_module", absent)
    assert TensorRt().unavailable() == "engines need 'tensorrt'"
    assert TensorRtRtx().unavailable() == "engines need 'tensorrt_rtx'"
    with pytest.raises(MissingDependency):
        TensorRt().build(None, None, precision="fp32", imgsz=64)


def test_an_engine_file_has_one_loader_and_no_profile():
    assert isinstance(engine_for("best.rtx.engine"), TensorRtRtx)
    found = engine_for("best.engine")
    assert isinstance(found, TensorRt)
    assert not isinstance(found, TensorRtRtx)
    assert get_engine("tensorrt").suffix == ENGINES["tensorrt"].suffix
    assert get_engine("tensorrt_rtx").suffix == ENGINES["tensorrt_rtx"].suffix
    with pytest.raises(UsageError, match=r"tensorrt is not profiled; give a runtime whose nodes keep"):
        found.profile("best.engine", np.zeros(0), rounds=1)


@pytest.mark.parametrize("target", ["tensorrt:int8", "tensorrt_rtx:fp32"])
def test_a_latency_is_not_aimed_at_where_layers_tell_no_time(target):
    with pytest.raises(
        UsageError, match=rf"target={target} does not tell the time of each layer; give onnxruntime or op"
    ):
        RuntimeTiming(None, target, imgsz=64, images=[])


def test_a_graph_of_any_batch_is_the_same_each_time_and_computes_what_that_of_one_image_does(graphs, tmp_path):
    again = export_onnx(graphs / "yolov8n.pt", tmp_path / "again.onnx", imgsz=64, free_batch=True)
    assert graph_sha256(again) == graph_sha256(graphs / "yolov8n_free.onnx"), "a cache would not be found again"
    model = onnx.load(again)
    shape = [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, 64, 64]
    assert {node.op_type for node in model.graph.node} == {
        node.op_type for node in onnx.load(graphs / "yolov8n_float.onnx").graph.node
    }, "nothing is left that computes shapes"
    assert "'dynamic': True" in {item.key: item.value for item in model.metadata_props}["args"]
    images = np.random.default_rng(0).random((3, 3, 64, 64), dtype=np.float32)
    one = get_engine("onnxruntime").load(graphs / "yolov8n_float.onnx")
    many = get_engine("onnxruntime").load(again)
    assert np.array_equal(many.infer(images), np.concatenate([one.infer(images[i : i + 1]) for i in range(3)]))
