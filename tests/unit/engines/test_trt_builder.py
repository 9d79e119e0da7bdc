# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The builder against three generations of the API: what is called, in which order, and what is never touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.engines.trt_builders import BROKEN, CACHE, GENERATIONS, PLAN, FakeCuda, make_trt
from yolo_compress.engines.tensorrt.builder import build_engine
from yolo_compress.engines.tensorrt.calibrator import make_calibrator
from yolo_compress.engines.tensorrt.capability import capabilities
from yolo_compress.engines.tensorrt.decision import Decision, decide
from yolo_compress.errors import DataError, EngineError, UsageError
from yolo_compress.recipe import TensorRtSection

SOURCE = Path("best.onnx")


def detector(*, batch: int | str = 1, broken: bool = False, quantized: bool = False) -> onnx.ModelProto:
    """Return the smallest graph that has a backbone, an output convolution and decoding."""
    make = helper.make_node
    nodes = [
        make("Conv", ["images", "w"], ["a"], "/model.0/conv/Conv"),
        make(BROKEN if broken else "Relu", ["a"], ["b"], "/model.1/act/Relu"),
        make("Conv", ["b", "w"], ["c"], "/model.22/cv3.0/cv3.0.2/Conv"),
        make("Sigmoid", ["c"], ["output0"], "/model.22/Sigmoid"),
    ]
    if quantized:
        nodes[1:1] = [
            make("QuantizeLinear", ["a", "s", "z"], ["q"], "Q"),
            make("DequantizeLinear", ["q", "s", "z"], ["d"], "DQ"),
        ]
        nodes[3].input[0] = "d"
    constants = {"w": np.ones((3, 3, 1, 1), np.float32), "s": np.float32(0.1), "z": np.int8(0)}
    shapes = [batch, 3, 64, 64]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shapes)],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, shapes)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def decision(trt, precision: str, *, quantized: bool = False, dla: int | None = None) -> Decision:
    return decide(capabilities(trt), SOURCE, precision=precision, quantized=quantized, dla=dla)


def build(trt, precision: str, model: onnx.ModelProto | None = None, *, quantized: bool = False, **given):
    options = TensorRtSection(**given.pop("options", {}))
    model = model or detector(quantized=quantized)
    chosen = decision(trt, precision, quantized=quantized, dla=options.dla)
    return build_engine(trt, model, SOURCE, chosen, imgsz=64, options=options, **given)


def calibrator(trt, *, batches=(), read=lambda: None, write=lambda content: None, algorithm="entropy", cuda=None):
    memory = FakeCuda() if cuda is None else cuda
    return make_calibrator(trt, algorithm, batches, memory=lambda: memory, batch=8, read=read, write=write)


@pytest.mark.parametrize(
    ("generation", "precision", "quantized", "network", "flags", "half"),
    [
        ("8.6", "fp32", False, ("EXPLICIT_BATCH",), (), False),
        ("8.6", "fp16", False, ("EXPLICIT_BATCH",), ("FP16",), False),
        ("8.6", "int8", True, ("EXPLICIT_BATCH",), ("INT8", "FP16"), False),
        ("10.3", "fp32", False, ("STRONGLY_TYPED",), (), False),
        ("10.3", "fp16", False, ("STRONGLY_TYPED",), (), True),
        ("10.3", "int8", True, ("STRONGLY_TYPED",), (), True),
        ("11.4", "fp32", False, ("STRONGLY_TYPED",), (), False),
        ("11.4", "fp16", False, ("STRONGLY_TYPED",), (), True),
        ("11.4", "int8", True, ("STRONGLY_TYPED",), (), True),
    ],
)
def test_types_come_from_flags_or_from_the_graph_and_never_from_both(
    generation, precision, quantized, network, flags, half
):
    trt = make_trt(generation)
    built = build(trt, precision, quantized=quantized)
    assert (built.plan, built.gpu_layers, built.notes) == (PLAN, (), ())
    assert [call[1] for call in trt.calls if call[0] == "set_flag"] == list(flags)
    assert trt.calls[:2] == [("create_network", *network), ("parse", 1)]
    assert trt.calls[2] == ("profiling_verbosity", "DETAILED")
    assert trt.calls[-1] == ("build_serialized_network",)
    kinds = {value.data_type for value in trt.network.model.graph.initializer if value.name.startswith("w")}
    assert kinds == {TensorProto.FLOAT16 if half else TensorProto.FLOAT}


@pytest.mark.parametrize("generation", ["8.6", "10.3"])
def test_calibration_pins_the_head_and_obeys(generation):
    trt = make_trt(generation)
    written, cuda = [], FakeCuda()
    batches = [np.full((8, 3, 64, 64), value, np.float32) for value in (0, 1)]
    made = calibrator(trt, batches=batches, write=written.append, cuda=cuda)
    build(trt, "int8", detector(batch=8), calibrator=made, quick=True)
    network = ("create_network", "EXPLICIT_BATCH") if generation == "8.6" else ("create_network",)
    assert trt.calls == [
        network,
        ("parse", 8),
        ("profiling_verbosity", "DETAILED"),
        ("set_flag", "INT8"),
        ("set_flag", "FP16"),
        ("builder_optimization_level", 0),
        ("int8_calibrator", made),
        ("set_flag", "OBEY_PRECISION_CONSTRAINTS"),
        ("precision", "/model.22/cv3.0/cv3.0.2/Conv", "HALF"),
        ("set_output_type", "/model.22/cv3.0/cv3.0.2/Conv", 0, "HALF"),
        ("precision", "/model.22/Sigmoid", "FLOAT"),
        ("set_output_type", "/model.22/Sigmoid", 0, "FLOAT"),
        ("build_serialized_network",),
    ]
    assert trt.seen == [("batch", 8, 4096)] * 2
    assert [upload.mean() for upload in cuda.uploads] == [0, 1]
    assert written == [CACHE]
    assert cuda.freed == 1


def test_layers_of_the_head_that_have_another_name_are_noted():
    trt = make_trt("10.3")
    original = trt.OnnxParser.parse

    def renaming(self, content):
        done = original(self, content)
        self.network.layers[-1].name = "Sigmoid (fused)"
        return done

    trt.OnnxParser.parse = renaming
    built = build(trt, "int8", calibrator=calibrator(trt, read=lambda: CACHE))
    assert built.notes == (
        "1 layers that stay in float may run in INT8, since TensorRT has none so named: /model.22/Sigmoid",
    )


def test_a_module_without_calibrators_says_to_quantize_first():
    with pytest.raises(
        UsageError, match=r"11.4.* does not calibrate.*yolo-compress quantize target=tensorrt model=best"
    ):
        decision(make_trt("11.4"), "int8")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_free_batch_gets_a_profile(generation):
    trt = make_trt(generation)
    build(trt, "fp32", detector(batch="batch"), options={"dynamic_batch": (1, 4, 8)})
    shapes = [(size, 3, 64, 64) for size in (1, 4, 8)]
    assert ("add_optimization_profile", "images", *shapes) in trt.calls
    assert not [call for call in trt.calls if call[0] == "set_calibration_profile"]


@pytest.mark.parametrize(("generation", "own"), [("8.6", True), ("10.3", False)])
def test_only_tensorrt_8_takes_a_calibration_profile(generation, own):
    trt = make_trt(generation)
    made = calibrator(trt, read=lambda: CACHE)
    build(trt, "int8", detector(batch="batch"), options={"dynamic_batch": "1,4,8"}, calibrator=made)
    assert any(call[0] == "set_calibration_profile" for call in trt.calls) is own
    assert trt.seen == [("cache", CACHE)]


def test_shapes_that_do_not_fit_the_request():
    with pytest.raises(
        UsageError, match=r"takes a fixed number of images and dynamic_batch= was given; give the check"
    ):
        build(make_trt(), "fp32", options={"dynamic_batch": (1, 4, 8)})
    with pytest.raises(UsageError, match=r"leaves shapes free.*give dynamic_batch=1,4,8"):
        build(make_trt(), "fp32", detector(batch="batch"))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_broken_graph_comes_out_with_the_node(generation):
    with pytest.raises(EngineError) as caught:
        build(make_trt(generation), "fp32", detector(broken=True))
    assert str(caught.value) == (
        "tensorrt cannot read 'best.onnx': node '/model.1/act/Relu' (Broken): no importer for Broken"
    )


def test_no_gpu_and_a_failed_build_come_out_with_what_was_logged():
    with pytest.raises(EngineError, match=r"cannot start here.*NVIDIA GPU.*CUDA initialization failure with error: 35"):
        build(make_trt(gpu=False), "fp32")
    trt = make_trt()
    trt.fails = "Could not find any implementation for node {ForeignNode[/model.0]}."
    with pytest.raises(EngineError, match=r"tensorrt 10.3.0 cannot build 'best.onnx': Could not find any impl"):
        build(trt, "fp32")


def test_workspace_is_given_in_gib():
    trt = make_trt()
    build(trt, "fp32", options={"workspace": 0.5})
    assert ("set_memory_pool_limit", "WORKSPACE", 1 << 29) in trt.calls


def test_timings_are_kept(tmp_path):
    path = tmp_path / "timings"
    options = {"timing_cache": str(path)}
    first = build(make_trt(), "fp32", options=options)
    assert (first.notes, path.read_bytes()) == ((), b"+measured")
    trt = make_trt()
    build(trt, "fp32", options=options)
    assert ("set_timing_cache", b"+measured", False) in trt.calls
    assert path.read_bytes() == b"+measured+measured"
    stranger = make_trt()
    stranger.cache_fits = False
    told = build(stranger, "fp32", options=options).notes
    assert told == (f"timing cache '{path}' is of another TensorRT or GPU and was made anew",)
    assert path.read_bytes() == b"+measured"
    with pytest.raises(DataError, match=r"timing cache '.*' is a folder"):
        build(make_trt(), "fp32", options={"timing_cache": str(tmp_path)})


def test_a_dla_lists_what_runs_on_the_gpu():
    trt = make_trt("10.3", dla_cores=2)
    model = detector()
    model.graph.node[1].op_type = "Resize"  # what this fake cannot run there
    built = build(trt, "fp16", model, options={"dla": 1})
    assert built.gpu_layers == ("/model.1/act/Relu",)
    assert built.notes == ("1 of 4 layers run on the GPU, not on DLA core 1: /model.1/act/Relu",)
    start = trt.calls.index(("default_device_type", "DLA"))
    assert trt.calls[start : start + 3] == [
        ("default_device_type", "DLA"),
        ("DLA_core", 1),
        ("set_flag", "GPU_FALLBACK"),
    ]
    assert ("create_network",) in trt.calls, "with precision flags a DLA takes no typed network"
    assert ("set_flag", "FP16") in trt.calls


@pytest.mark.parametrize(
    ("generation", "cores", "given", "message"),
    [
        ("10.3", 0, {}, r"dla=0 was given and this device has no DLA.*leave it out"),
        ("10.3", 2, {"core": 2}, r"dla=2 was given and this device has DLA cores 0 to 1; give one of them"),
        ("11.4", 0, {}, r"has no DLA, or its TensorRT does not drive it"),
        ("10.3", 1, {"precision": "fp32"}, r"fp16 and int8 only, and dla=0 was given; add precision=fp16"),
        (
            "10.3",
            1,
            {"precision": "int8", "quantized": True},
            r"takes no quantizers from the graph on a DLA.*checkpoint",
        ),
    ],
)
def test_a_dla_that_is_not_there_or_cannot(generation, cores, given, message):
    core = given.pop("core", 0)
    with pytest.raises(UsageError, match=message):
        build(make_trt(generation, dla_cores=cores), **{"precision": "fp16", "options": {"dla": core}, **given})


def test_a_typed_dla_takes_quantizers():
    """TensorRT 11.4.1 has no precision flags and drives DLAs with typed networks."""
    trt = make_trt("11.4", dla_cores=1)
    build(trt, "int8", quantized=True, options={"dla": 0})
    assert ("create_network", "STRONGLY_TYPED") in trt.calls


def test_an_unknown_compute_capability_is_refused():
    with pytest.raises(UsageError, match=r"does not build for SM87; it builds for the one of the GPU"):
        build(make_trt(), "fp32", compute="SM87")
