# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What is read and written around an engine: capabilities, the inspector's answer, the file with its header."""

from __future__ import annotations

import ast
import importlib
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.nn.backends.base import BaseBackend

from tests.unit.engines.trt_builders import GENERATIONS, make_trt
from yolo_compress.engines.tensorrt.capability import capabilities, load_module, on_jetson
from yolo_compress.engines.tensorrt.inspector import read_layers
from yolo_compress.engines.tensorrt.logger import last_error, logger_for
from yolo_compress.engines.tensorrt.plan import read_plan, write_plan
from yolo_compress.errors import DataError, EngineError, MissingDependency

TENSOR = {"Name": "x", "Location": "Device", "Dimensions": [1, 16, 32, 32]}


def layer(name, kind, datatype, **more):
    return {"Name": name, "LayerType": kind, "Inputs": [{**TENSOR, "Format/Datatype": datatype}], **more}


def inspected(*layers):
    return read_layers(json.dumps({"Layers": list(layers), "Bindings": ["images", "output0"]}))


@pytest.mark.parametrize(
    ("generation", "calibrates", "strong", "implicit", "obey"),
    [
        ("8.6", True, False, True, "OBEY_PRECISION_CONSTRAINTS"),
        ("10.3", True, True, False, "OBEY_PRECISION_CONSTRAINTS"),
        ("11.4", False, True, False, None),
    ],
)
def test_capabilities_are_read_from_what_a_module_has(generation, calibrates, strong, implicit, obey):
    trt = make_trt(generation)
    trt.__version__ = "0.0"  # nothing may go by it
    found = capabilities(trt)
    assert found.calibrators == (("entropy", "minmax", "percentile", "legacy") if calibrates else ())
    assert found.precision_flags == (("FP16", "INT8") if calibrates else ())
    assert (found.strongly_typed, found.implicit_batch, found.obey) == (strong, implicit, obey)
    assert found.modes == (("calibrate", "qdq") if calibrates else ("qdq",))
    assert found.compute == ()


def test_a_calibrator_that_a_module_lacks_is_not_offered():
    trt = make_trt("10.3")
    del trt.IInt8LegacyCalibrator
    assert capabilities(trt).calibrators == ("entropy", "minmax")
    trt = make_trt("10.3")
    trt.BuilderFlag = SimpleNamespace(TF32=0, GPU_FALLBACK=1)  # a class that nothing can be calibrated with
    assert capabilities(trt).calibrators == ()


def test_compute_capabilities_are_in_order():
    import enum

    trt = make_trt("11.4")
    trt.ComputeCapability = enum.IntEnum("ComputeCapability", ["NONE", "CURRENT", "SM120", "SM75", "SM86"])
    trt.IBuilderConfig.num_compute_capabilities = 0
    assert capabilities(trt).compute == ("SM75", "SM86", "SM120")


@pytest.mark.parametrize(
    ("module", "jetson", "advice"),
    [
        (
            "tensorrt",
            False,
            "install the one that fits .* pip install tensorrt-cu12 or tensorrt-cu13; it is yours to choose",
        ),
        (
            "tensorrt",
            True,
            "it comes with JetPack: sudo apt install python3-libnvinfer.*--system-site-packages; never pip",
        ),
        ("tensorrt_rtx", False, "pip install tensorrt-rtx"),
    ],
)
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"), "is not installed"),
        (ImportError("libnvinfer.so.10: cannot open shared object file"), r"import failed \(libnvinfer.so.10: cannot"),
    ],
)
def test_a_missing_module_is_told_with_the_right_advice(tmp_path, monkeypatch, module, jetson, advice, error, told):
    if jetson:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3")
    assert on_jetson(tmp_path) is jetson
    error.name = module if isinstance(error, ModuleNotFoundError) else None

    def absent(name, *_):
        raise error

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependency, match=f"{module}.*{told}.*{advice}"):
        load_module(module, root=tmp_path)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_logger_keeps_what_matters_and_is_one_per_module(generation):
    trt = make_trt(generation)
    logger = logger_for(trt)
    assert logger.born
    assert logger is logger_for(trt)
    assert logger is not logger_for(make_trt(generation))
    logger.log(SimpleNamespace(name="INFO"), "chatter")
    assert (list(logger.messages), last_error(logger)) == ([], "")
    logger.log(SimpleNamespace(name="WARNING"), "careful")
    assert last_error(logger) == "careful"
    logger.log(SimpleNamespace(name="ERROR"), "4: [network]\nbroken")
    logger.log(SimpleNamespace(name="WARNING"), "afterwards")
    assert last_error(logger) == "4: [network] broken"
    for number in range(1000):
        logger.log(SimpleNamespace(name="WARNING"), str(number))
    assert len(logger.messages) < 100


def test_layers_are_counted_in_each_documented_wording():
    found = inspected(
        layer("conv1", "CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format."),
        layer("conv2", "CaskConvolution", "Int8 NC/32HW32"),
        layer("conv3", "CaskConvolution", "Row major linear FP16 format"),
        layer("conv4", "CaskConvolution", "Half NCHW"),
        layer("soft", "SoftMax", "Row major linear FP32"),
        layer("dfl", "CaskConvolution", "Float"),
        layer("b", "Myelin", "BFloat16"),
        layer("shape", "Shape", "Row major INT32 format"),
        layer("Reformatting CopyNode for Input Tensor 0 to conv1", "Reformat", "Row major linear FP32"),
        layer("copy", "NoOp", "Float", Origin="REFORMAT"),
    )
    assert found.precisions == {"int8": 2, "fp16": 2, "fp32": 2, "bf16": 1, "int": 1}
    assert found.reformats == 2
    assert found.devices == {"GPU": 10}
    assert found.detailed
    assert str(found) == "10 layers: 2 int8, 2 fp16, 2 fp32, 1 bf16, 1 int, 2 reformats"


def test_dynamic_shapes_hide_formats_and_weights_still_tell():
    hidden = "N/A due to dynamic shapes"
    found = inspected(
        layer("a", "CaskConvolution", hidden, Weights={"Type": "Int8", "Count": 9}),
        layer("b", "CaskConvolution", hidden, Weights={"Type": "Half", "Count": 9}),
        layer("c", "PointWise", hidden),
        {"Name": "d", "LayerType": "Constant", "Inputs": [], "Outputs": [{**TENSOR, "Format/Datatype": "Float"}]},
        {"Name": "e", "LayerType": "Signal", "Inputs": [], "Outputs": []},
    )
    assert found.precisions == {"int8": 1, "fp16": 1, "unknown": 1, "fp32": 1}


def test_layers_on_a_dla_are_told():
    found = inspected(layer("{ForeignNode[a...b]}", "DLA", "Half"), layer("c", "Resize", "Half"))
    assert found.devices == {"GPU": 1, "DLA": 1}
    assert str(found).endswith("; 1 of them on the DLA")


def test_names_alone_say_that_precisions_are_not_known():
    found = inspected("/model.0/conv/Conv + Sigmoid", "Reformatting CopyNode for Input Tensor 0 to /model.1/conv/Conv")
    assert found.names == (
        "/model.0/conv/Conv + Sigmoid",
        "Reformatting CopyNode for Input Tensor 0 to /model.1/conv/Conv",
    )
    assert (found.precisions, found.reformats, found.detailed) == ({}, 1, False)
    assert str(found) == "2 layers; the engine was built without telling their precisions"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"Layers": 3}', "null"])
def test_another_answer_is_an_error(text):
    with pytest.raises(EngineError, match=r"the engine inspector returned something unknown"):
        read_layers(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)
any_layer = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("Name", "LayerType", "Inputs", "Outputs", "Weights", "Origin"), json_values)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=9) | any_layer | json_values, max_size=4))
def test_whatever_layers_hold_they_are_counted(layers):
    found = inspected(*layers)
    assert len(found.names) == len(layers) == sum(found.devices.values())
    assert sum(found.precisions.values()) + found.reformats <= len(layers)


def test_stock_ultralytics_reads_the_header_and_finds_the_plan(tmp_path):
    path = tmp_path / "best.engine"
    metadata = {"names": "{0: 'disc', 1: 'box'}", "imgsz": "[64, 64]", "stride": "32", "task": "detect", "dla": 1}
    write_plan(path, b"the plan", metadata)
    offset, read = BaseBackend.engine_header(path)
    assert path.read_bytes()[offset:] == b"the plan"
    assert read == metadata == BaseBackend.read_metadata(path)
    backend = SimpleNamespace(dynamic=False)
    BaseBackend.apply_metadata(backend, read)
    assert backend.names == ast.literal_eval(metadata["names"])
    assert (backend.imgsz, backend.stride) == ([64, 64], 32)
    assert read_plan(path) == (metadata, offset)


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\x04\x00\x00\x00null plan", b"ftrt bare plan", b"\x05\x00\x00\x00{bad} plan"]
)
def test_a_bare_plan_has_no_header(tmp_path, content):
    path = tmp_path / "bare.engine"
    path.write_bytes(content)
    assert read_plan(path) == ({}, 0)
    with pytest.raises(DataError, match=r"missing.engine' cannot be read"):
        read_plan(tmp_path / "missing.engine")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("proc/device-tree/model", "NVIDIA Jetson Orin Nano\0"),
        ("proc/device-tree/compatible", "nvidia,p3767-0005\0nvidia,tegra234\0"),
    ],
)
def test_a_container_without_the_release_file_is_still_on_a_jetson(tmp_path, monkeypatch, file, text):
    place = tmp_path / file
    place.parent.mkdir(parents=True)
    place.write_text(text)

    def absent(name, *_):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependency, match="never pip install tensorrt on a Jetson"):
        load_module("tensorrt", root=tmp_path)
