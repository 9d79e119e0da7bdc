# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a session uses of TensorRT exists in the genuine one, where that is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.engines.trt_runtime import FakeCuda
from yolo_compress.engines.tensorrt.cuda.probe import gpu_unusable
from yolo_compress.engines.tensorrt.session import TensorRtSession
from yolo_compress.errors import EngineError

HOME = Path(__file__).resolve().parents[2] / "yolo_compress/engines/tensorrt"
TOUCHED = {
    "Runtime": {"deserialize_cuda_engine", "num_DLA_cores", "DLA_core"},
    "ICudaEngine": {
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "get_tensor_shape",
        "get_tensor_profile_shape",
        "create_engine_inspector",
        "create_execution_context",
    },
    "IExecutionContext": {"set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3"},
    "EngineInspector": {"get_engine_information"},
}
HOLDERS = {
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def trt(request):
    return pytest.importorskip(request.param, exc_type=ImportError)


def test_the_list_is_what_the_code_touches():
    source = "".join((HOME / f"{name}.py").read_text(encoding="utf-8") for name in ("session", "lane", "tensors"))
    found = {kind: set(re.findall(rf"\b{holder}\.(\w+)", source)) for holder, kind in HOLDERS.items()}
    found["Runtime"].add(*re.findall(r'getattr\(self\.runtime, "(\w+)"', source))
    assert found == TOUCHED


def test_everything_is_there(trt):
    missing = {
        f"{kind}.{name}" for kind, names in TOUCHED.items() for name in names if not hasattr(getattr(trt, kind), name)
    }
    assert missing == set()
    assert trt.TensorIOMode.INPUT != trt.TensorIOMode.OUTPUT
    assert trt.LayerInformationFormat.JSON is not None
    assert [trt.nptype(kind).__name__ for kind in (trt.DataType.FLOAT, trt.DataType.HALF)] == ["float32", "float16"]
    with pytest.raises(TypeError):
        trt.nptype(trt.DataType.BF16)


def test_its_shapes_become_tuples(trt):
    shape = trt.Dims((-1, 3, 640, 640))
    assert tuple(shape) == (-1, 3, 640, 640)


def test_what_it_logs_reaches_the_error(tmp_path):
    """TensorRT-RTX alone lives without a GPU long enough to say what is wrong."""
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    if gpu_unusable() is None:
        pytest.skip("there is a GPU here, so that loading would really begin")
    (tmp_path / "x.engine").write_bytes(b"ftrt" * 100)
    with pytest.raises(
        EngineError, match=r"x.engine' cannot be loaded: CUDA failed meanwhile \(.*cudaError 35.*\); see"
    ):
        TensorRtSession(tmp_path / "x.engine", "tensorrt_rtx", cuda=FakeCuda())
