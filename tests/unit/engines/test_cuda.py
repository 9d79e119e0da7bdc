# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The three ways to CUDA on simulated libraries."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests import cuda_checks
from tests.unit.engines.cuda_fakes import Error, FakePyCuda, FakeRuntime, fake_torch
from yolo_compress.engines.tensorrt import cuda as home
from yolo_compress.engines.tensorrt.cuda import choose
from yolo_compress.engines.tensorrt.cuda.probe import gpu_unusable
from yolo_compress.errors import EngineError

ROOT = Path(__file__).resolve().parents[3]


def test_each_tells_what_it_is(cuda):
    assert cuda.name in home.BACKENDS
    assert "CUDA 1" in cuda.version
    assert cuda.device_name().startswith("Fake GPU")
    assert not cuda.device_name().endswith("\0")
    assert cuda.pci_bus_id() == "0000:0a:00.0"
    assert cuda.stream().handle > 0


ARRAYS = arrays.arrays(
    dtype=st.sampled_from([np.float32, np.float16, np.uint8, np.int64, np.bool_]),
    shape=arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5),
)


@settings(max_examples=25, deadline=None)
@given(array=ARRAYS)
@pytest.mark.parametrize("name", ["torch", "cuda-python", "pycuda"])
def test_bytes_survive_the_way_there_and_back(name, array):
    with pytest.MonkeyPatch.context() as patch:
        fakes = {"torch": fake_torch(), "cuda.bindings.runtime": FakeRuntime()}
        simulated = FakePyCuda()
        fakes |= {"pycuda": ModuleType("pycuda"), "pycuda.driver": simulated.driver}
        for module, fake in (fakes | {"pycuda.autoprimaryctx": simulated.primary}).items():
            patch.setitem(sys.modules, module, fake)
        cuda_checks.check_bytes_survive(choose(name), array)


def test_read_only_memory_can_be_uploaded(cuda):
    cuda_checks.check_read_only_memory_can_be_uploaded(cuda)


def test_pinned_memory_lives_with_its_views(cuda):
    cuda_checks.check_pinned_memory_lives_with_its_views(cuda)


def test_copies_stay_in_their_buffer(cuda):
    cuda_checks.check_copies_stay_in_their_buffer(cuda)


def test_events_tell_time(cuda):
    buffer, host = cuda.device(4), np.zeros(1, np.float32)

    def work(stream):
        for _ in range(2):
            cuda.upload(host, buffer, stream)

    told = cuda_checks.check_events_tell_time(cuda, work)
    assert told == (1.0 if cuda.name == "cuda-python" else 1.25)


def test_graphs_replay_where_there_are_any(libraries):
    libraries.runtime()
    cuda_checks.check_a_graph_replays_with_what_lies_there_then(choose("cuda-python"))


def test_where_there_are_none_they_are_refused(libraries):
    libraries.pycuda()
    cuda = choose("pycuda")
    assert cuda.no_graphs
    with pytest.raises(EngineError, match="PyCUDA has no CUDA graphs; take cuda=torch or cuda=cuda-python"):
        cuda.graph(cuda.stream(), lambda: None)


def test_a_capture_that_pytorch_refuses_is_our_error(libraries):
    libraries.torch()
    cuda = choose("torch")
    assert cuda.no_graphs == ""
    with pytest.raises(EngineError, match="CUDA graph capture failed: CUDA error: operation would make"):
        cuda.graph(cuda.stream(), lambda: None)


@pytest.mark.parametrize(
    ("name", "nbytes", "words"),
    [
        ("torch", 1 << 41, r"CUDA through PyTorch failed: CUDA out of memory. Tried to allocate"),
        ("pycuda", 1 << 31, r"CUDA through PyCUDA failed: cuMemAlloc failed: out of memory"),
    ],
)
def test_memory_that_is_not_there_is_our_error(libraries, name, nbytes, words):
    libraries.torch()
    libraries.pycuda()
    with pytest.raises(EngineError, match=words):
        choose(name).device(nbytes)


# cuda-python: every error comes as a value

STEPS = {
    "cudaMalloc": lambda cuda: cuda.device(8),
    "cudaMallocHost": lambda cuda: cuda.pinned((2,), np.float32),
    "cudaMemcpy": lambda cuda: cuda.upload(np.zeros(2, np.float32), cuda.device(8)),
    "cudaMemcpyAsync": lambda cuda: cuda.download(cuda.device(8), np.zeros(2, np.float32), cuda.stream()),
    "cudaStreamCreateWithFlags": lambda cuda: cuda.stream(),
    "cudaStreamSynchronize": lambda cuda: cuda.stream().synchronize(),
    "cudaEventCreate": lambda cuda: cuda.event(),
    "cudaEventRecord": lambda cuda: cuda.event().record(cuda.stream()),
    "cudaEventSynchronize": lambda cuda: cuda.event().synchronize(),
    "cudaEventElapsedTime": lambda cuda: cuda.event().elapsed_ms(cuda.event()),
    "cudaStreamBeginCapture": lambda cuda: cuda.graph(cuda.stream(), lambda: None),
    "cudaStreamEndCapture": lambda cuda: cuda.graph(cuda.stream(), lambda: None),
    "cudaGraphInstantiate": lambda cuda: cuda.graph(cuda.stream(), lambda: None),
    "cudaGraphDestroy": lambda cuda: cuda.graph(cuda.stream(), lambda: None),
    "cudaGraphLaunch": lambda cuda: cuda.graph(cuda.stream(), lambda: None).launch(),
    "cudaGetDevice": lambda cuda: cuda.device(8),
    "cudaGetDeviceProperties": lambda cuda: cuda.device_name(),
    "cudaDeviceGetPCIBusId": lambda cuda: cuda.pci_bus_id(),
    "cudaFree": lambda cuda: cuda.device(8).free(),
    "cudaStreamDestroy": lambda cuda: cuda.stream().free(),
    "cudaEventDestroy": lambda cuda: cuda.event().free(),
    "cudaGraphExecDestroy": lambda cuda: cuda.graph(cuda.stream(), lambda: None).free(),
}
UNREACHED = {"cudaGetDeviceCount", "cudaDriverGetVersion", "cudaRuntimeGetVersion", "cudaSetDevice", "cudaFreeHost"}


@pytest.mark.parametrize("call", STEPS)
def test_every_call_of_cuda_python_is_checked(libraries, call):
    fake = libraries.runtime()
    cuda = choose("cuda-python")
    fake.failing = {call: Error.cudaErrorInvalidValue}
    with pytest.raises(EngineError, match=rf"{call} failed with cudaErrorInvalidValue \(1\), what \w+ means"):
        STEPS[call](cuda)
    fake.failing = {}


def calls_of_cuda_python():
    source = (ROOT / "yolo_compress/engines/tensorrt/cuda/cuda_python.py").read_text(encoding="utf-8")
    return set(re.findall(r'"(cuda[A-Z]\w+)"', source))


def test_no_call_of_cuda_python_is_forgotten_above():
    assert calls_of_cuda_python() == set(STEPS) | UNREACHED


def test_genuine_bindings_have_every_call():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for name in calls_of_cuda_python() | {"cudaGetErrorName", "cudaGetErrorString"}:
        assert callable(getattr(runtime, name))
    for path in (
        "cudaStreamNonBlocking",
        "cudaMemcpyKind.cudaMemcpyHostToDevice",
        "cudaMemcpyKind.cudaMemcpyDeviceToHost",
        "cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal",
    ):
        found = runtime
        for part in path.split("."):
            found = getattr(found, part)


def test_everything_is_given_back_once(libraries):
    fake = libraries.runtime()
    cuda = choose("cuda-python")
    buffer, stream, event, array = cuda.device(4), cuda.stream(), cuda.event(), cuda.pinned((4,), np.uint8)
    graph, view = cuda.graph(stream, lambda: None), array[1:]
    assert (len(fake.memory), len(fake.pinned)) == (1, 1)
    del array
    gc.collect()
    assert len(fake.pinned) == 1  # the view holds it
    del view
    buffer.free()
    del buffer, event, graph, stream
    gc.collect()
    assert (fake.memory, fake.pinned) == ({}, {})
    assert set(fake.things.values()) == {"gone"}


def test_a_capture_that_fails_is_ended_and_leaves_nothing(libraries):
    fake = libraries.runtime()
    cuda = choose("cuda-python")
    stream = cuda.stream()

    def refuse():
        raise EngineError("the run was refused")

    with pytest.raises(EngineError, match="the run was refused"):
        cuda.graph(stream, refuse)
    assert fake.capture == {}
    assert "graph" not in fake.things.values()


def test_the_device_of_the_thread_is_put_back(libraries):
    fake = libraries.runtime(devices=2)
    cuda = choose("cuda-python", index=1)
    cuda.device(8)
    assert fake.chosen == 0
    assert ("cudaSetDevice", 1) in fake.calls
    with pytest.raises(KeyError), cuda.current():
        assert fake.chosen == 1
        raise KeyError
    assert fake.chosen == 0


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (0, "no NVIDIA driver is loaded on this machine"),
        (
            12060,
            r"the driver goes up to CUDA 12.6 and this cuda-python is of CUDA 13.5; pip install 'cuda-python==12.\*'",
        ),
    ],
)
def test_a_driver_that_is_too_old_is_told_from_none(libraries, driver, words):
    libraries.runtime(driver=driver).failing = {"cudaGetDeviceCount": Error.cudaErrorInsufficientDriver}
    with pytest.raises(EngineError, match=words):
        choose("cuda-python")


def test_no_device_keeps_cudas_own_words(libraries):
    libraries.runtime().failing = {"cudaGetDeviceCount": Error.cudaErrorNoDevice}
    with pytest.raises(EngineError, match=r"cudaGetDeviceCount failed with cudaErrorNoDevice \(100\)"):
        choose("cuda-python")


def test_a_library_that_cannot_be_loaded_is_our_error(libraries, monkeypatch):
    fake = libraries.runtime()

    def missing(self):
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(FakeRuntime, "cudaGetDeviceCount", missing)
    assert fake.devices == 1
    with pytest.raises(EngineError, match=r"cudaGetDeviceCount cannot be called \(Failed to dlopen libcuda.so.1\)"):
        choose("cuda-python")


def test_real_cuda_python_explains_itself_without_a_driver():
    """The genuine wheel, in a process that could die of it."""
    pytest.importorskip("cuda.bindings.runtime")
    if gpu_unusable() is None:
        pytest.skip("there is a GPU here, so there is nothing to explain")
    code = (
        "from yolo_compress.engines.tensorrt.cuda import choose\n"
        "from yolo_compress.errors import EngineError\n"
        "import sys\n"
        "try:\n    choose('cuda-python')\n"
        "except EngineError as error:\n    print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cudaGetDeviceCount failed with " in done.stdout
    assert re.search(r"no NVIDIA driver is loaded|the driver goes up to CUDA|cudaErrorNoDevice", done.stdout)
