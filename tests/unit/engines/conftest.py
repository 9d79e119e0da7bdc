# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What tests of engines have in common: graphs of tiny detectors, and simulated libraries of TensorRT and CUDA."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.tiny import tiny_model, write_data
from tests.unit.engines.cuda_fakes import FakePyCuda, FakeRuntime, fake_torch
from tests.unit.engines.trt_builders import FakeCuda, make_trt
from yolo_compress import quantizing
from yolo_compress.calibrate import choose as choose_images
from yolo_compress.engines.tensorrt import calibration as calibrating
from yolo_compress.engines.tensorrt import engine as module
from yolo_compress.engines.tensorrt.cuda import choose
from yolo_compress.host.checkpoint import save_model
from yolo_compress.host.data import read_data
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx


@pytest.fixture(scope="session")
def graphs(tmp_path_factory) -> Path:
    """Return checkpoint, `*_float.onnx` and `*_qdq.onnx` of two families, and `yolov8n_free.onnx` of any batch."""
    folder = tmp_path_factory.mktemp("graphs")
    images = read_data(write_data(folder / "data")).train
    for family in ("yolov8n", "yolo26n"):
        source, out = folder / f"{family}_float.onnx", folder / f"{family}_qdq.onnx"
        save_model(tiny_model(family), folder / f"{family}.pt")
        export_onnx(folder / f"{family}.pt", source, imgsz=64)
        quantize_onnx(source, out, images=images, imgsz=64, target="tensorrt")
    export_onnx(folder / "yolov8n.pt", folder / "yolov8n_free.onnx", imgsz=64, free_batch=True)
    return folder


@pytest.fixture
def exported_once(graphs, monkeypatch):
    """Exports take seconds, and these tests ask for two of them again and again."""

    def export(checkpoint, out, *, imgsz, free_batch=False):
        if not checkpoint.exists():
            return export_onnx(checkpoint, out, imgsz=imgsz)
        out.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copyfile(graphs / f"{checkpoint.stem}_{'free' if free_batch else 'float'}.onnx", out)

    monkeypatch.setattr("yolo_compress.host.export.export_onnx", export)
    monkeypatch.setattr(quantizing, "export_onnx", export)


@pytest.fixture
def installed(monkeypatch):
    """Return a function that installs a fake TensorRT, on a machine with a GPU."""

    def install(generation="10.3", **given):
        trt = make_trt(generation, **given)
        trt.cuda = FakeCuda()
        monkeypatch.setattr(module, "load_module", lambda name: trt)
        monkeypatch.setattr(module, "gpu_unusable", lambda *_, **__: None)
        monkeypatch.setattr(calibrating, "choose", lambda: trt.cuda)
        return trt

    return install


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("trt") / "data", train=11)


@pytest.fixture
def images(data):
    return choose_images(read_data(data), 11)


@pytest.fixture
def libraries(monkeypatch):
    """Return functions that put simulated libraries in place of real ones, or nothing in place of any."""

    def runtime(**options):
        fake = FakeRuntime(**options)
        for name in ("cuda", "cuda.bindings"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
        return fake

    def pycuda(**options):
        fake = FakePyCuda(**options)
        monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
        monkeypatch.setitem(sys.modules, "pycuda.driver", fake.driver)
        monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", fake.primary)
        return fake

    def torch():
        fake = fake_torch()
        monkeypatch.setitem(sys.modules, "torch", fake)
        return fake

    def nothing():
        for name in ("torch", "cuda", "cuda.bindings", "cuda.bindings.runtime", "pycuda", "pycuda.autoprimaryctx"):
            monkeypatch.setitem(sys.modules, name, None)

    return SimpleNamespace(runtime=runtime, pycuda=pycuda, torch=torch, nothing=nothing)


@pytest.fixture(params=["torch", "cuda-python", "pycuda"])
def cuda(request, libraries):
    {"torch": libraries.torch, "cuda-python": libraries.runtime, "pycuda": libraries.pycuda}[request.param]()
    return choose(request.param)
