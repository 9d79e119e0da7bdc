# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Real builds by TensorRT-RTX, whose parser and builder need no GPU: pip install 'yolo-compress[ci-rtx]'."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.unit.engines.test_trt_builder import detector
from tests.unit.engines.trt_builders import SURFACE
from yolo_compress.cli import main
from yolo_compress.engines.tensorrt.builder import build_engine
from yolo_compress.engines.tensorrt.capability import capabilities
from yolo_compress.engines.tensorrt.cuda.probe import gpu_unusable
from yolo_compress.engines.tensorrt.decision import Decision, decide
from yolo_compress.engines.tensorrt.decode import ending
from yolo_compress.engines.tensorrt.engine import TensorRtRtx
from yolo_compress.engines.tensorrt.half import half_graph
from yolo_compress.engines.tensorrt.logger import logger_for
from yolo_compress.engines.tensorrt.plan import read_plan
from yolo_compress.errors import EngineError, UsageError
from yolo_compress.host.data import read_data, sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx
from yolo_compress.recipe import TensorRtSection

trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
SMALLEST_PLAN = 100_000  # bytes; weights and kernels of even the smallest detector are more


@pytest.mark.parametrize(
    ("graph", "precision", "mode", "options"),
    [
        ("yolov8n_float", "fp32", "float", {"compute": "8.6"}),
        ("yolo26n_qdq", "int8", "qdq", {"compute": "sm_120"}),
        ("yolov8n_free", "fp16", "float", {"dynamic_batch": (1, 2, 4), "workspace": 1}),
    ],
)
def test_it_builds(graphs, tmp_path, graph, precision, mode, options):
    chosen = TensorRtSection(**options)
    built = TensorRtRtx().build(graphs / f"{graph}.onnx", tmp_path, precision=precision, imgsz=64, options=chosen)
    metadata, offset = read_plan(built.path)
    assert built.path.name == f"{graph}.rtx.engine"
    assert built.path.stat().st_size - offset > SMALLEST_PLAN
    assert metadata["task"] == "detect"
    record = json.loads((tmp_path / f"{graph}.build.json").read_text())
    assert (record["mode"], record["strongly_typed"], record["flags"]) == (mode, True, [])
    assert record["version"] == trt.__version__
    if chosen.compute is not None:
        assert record["compute"] == chosen.compute
        assert built.notes == (f"built for compute capability {chosen.compute[2:-1]}.{chosen.compute[-1]} only",)
    elif gpu_unusable() is not None:
        newest = capabilities(trt).compute[-1]
        assert record["compute"] == newest
        assert "the newest that TensorRT-RTX knows, since there is no GPU here" in built.notes[0]


@pytest.fixture(scope="module", params=["yolov8n", "yolov8s", "yolo11n-int8dq", "yolo26n-int8dq"])
def real_graphs(request, real_data, tmp_path_factory):
    """Return the float and the Q/DQ graph of a real detector."""
    folder = tmp_path_factory.mktemp(request.param)
    source = real_data / "weights" / f"{request.param}.pt"
    made = {"fp32": export_onnx(source, folder / "float.onnx", imgsz=160), "int8": folder / "int8.onnx"}
    images = sample(read_data(real_data / "coco/coco-mini.yaml").train, 4, seed=0)
    quantize_onnx(made["fp32"], made["int8"], images=images, imgsz=160, target="tensorrt", range="minmax")
    return made


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_real_detectors_build(real_graphs, tmp_path, precision):
    chosen = TensorRtSection(compute="8.6")
    built = TensorRtRtx().build(real_graphs[precision], tmp_path, precision=precision, imgsz=160, options=chosen)
    metadata, offset = read_plan(built.path)
    assert metadata["task"] == "detect"
    assert len(ast.literal_eval(str(metadata["names"]))) == 80
    assert built.path.stat().st_size - offset > 10 * SMALLEST_PLAN
    record = json.loads((tmp_path / f"{real_graphs[precision].stem}.build.json").read_text())
    assert (record["compute"], record["mode"]) == ("SM86", {"fp32": "float", "int8": "qdq"}[precision])


def test_the_command_builds(graphs, tmp_path, capsys):
    args = [f"model={graphs / 'yolov8n_qdq.onnx'}", "engine=tensorrt_rtx", "precision=int8", "imgsz=64", "compute=8.9"]
    assert main(["build", *args, f"project={tmp_path}", "name=made"]) == 0
    assert "yolov8n_qdq.rtx.engine" in capsys.readouterr().out
    assert (tmp_path / "made/yolov8n_qdq.rtx.engine").is_file()


def test_the_parser_sees_halves_but_for_the_decoding_and_both_ends(graphs):
    """A layer that is not what it should be would run in another precision, without a message."""
    model = onnx.load(graphs / "yolo26n_qdq.onnx")
    behind = {model.graph.node[index].name for index in ending(model.graph).decoding}
    logger = logger_for(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(half_graph(model).SerializeToString())
    ends = [network.get_input(0), network.get_output(0)]
    assert [tensor.dtype for tensor in ends] == [trt.DataType.FLOAT] * 2
    counted = {"half": 0, "single": 0}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type not in (trt.LayerType.CONVOLUTION, trt.LayerType.ACTIVATION):
            continue
        single = layer.name in behind
        counted["single" if single else "half"] += 1
        assert layer.get_output(0).dtype == (trt.DataType.FLOAT if single else trt.DataType.HALF), layer.name
    assert counted["half"] > 100
    assert counted["single"] >= 1


def test_a_broken_graph_comes_out_with_the_name_of_its_node():
    typed = Decision("float", True, False, ())
    with pytest.raises(EngineError, match=r"cannot read 'best.onnx': node '/model.1/act/Relu' \(Broken\): .+"):
        build_engine(trt, detector(broken=True), Path("best.onnx"), typed, imgsz=64, compute="SM86")
    with pytest.raises(EngineError, match=r"'best.onnx' cannot be given half precision.*Broken '/model.1/act/Relu'"):
        build_engine(trt, detector(broken=True), Path("best.onnx"), Decision("float", True, True, ()), imgsz=64)


def test_it_is_a_typed_tensorrt_that_does_not_calibrate():
    found = capabilities(trt)
    assert (found.calibrators, found.precision_flags, found.strongly_typed) == ((), (), True)
    assert {"SM75", "SM86", "SM89"} <= set(found.compute)
    with pytest.raises(UsageError, match=r"does not calibrate.*quantize first with"):
        decide(found, Path("best.onnx"), precision="int8", quantized=False)
    missing = [f"{k}.{n}" for k, names in SURFACE.items() for n in names if not hasattr(getattr(trt, k, None), n)]
    assert missing == []


def test_an_unknown_compute_capability_is_refused_with_those_it_knows(graphs, tmp_path):
    options = TensorRtSection(compute="8.7")
    with pytest.raises(UsageError, match=r"does not build for SM87; it builds for SM75, "):
        TensorRtRtx().build(graphs / "yolov8n_float.onnx", tmp_path, precision="fp32", imgsz=64, options=options)
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_it_says_that_engines_can_be_built_and_not_run(tmp_path):
    if gpu_unusable() is None:
        pytest.skip("there is a GPU here")
    assert TensorRtRtx().unavailable().startswith("engines can be built here and not run: ")
    code = f"""
from pathlib import Path
from yolo_compress.engines import engine_for
from yolo_compress.errors import CompressError
path = Path({str(tmp_path / "x.rtx.engine")!r})
path.write_bytes(b"ftrt")
try:
    engine_for(path).load(path, device="cuda:0")
except CompressError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: ")
