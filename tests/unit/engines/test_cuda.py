# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The three ways to CUDA on simulated libraries, and what is said where there is none."""

from __future__ import annotations

import gc
import importlib
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests import cuda_checks
from tests.unit.engines.cuda_fakes import Error, FakePyCuda, FakeRuntime, fake_torch
from yolo_compress.engines.tensorrt import cuda as home
from yolo_compress.engines.tensorrt.cuda import choose, device_index, pycuda_cuda
from yolo_compress.engines.tensorrt.cuda.probe import gpu_unusable
from yolo_compress.errors import EngineError, MissingDependency, UsageError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def install(monkeypatch):
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
def cuda(request, install):
    {"torch": install.torch, "cuda-python": install.runtime, "pycuda": install.pycuda}[request.param]()
    return choose(request.param)


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


def test_graphs_replay_where_there_are_any(install):
    install.runtime()
    cuda_checks.check_a_graph_replays_with_what_lies_there_then(choose("cuda-python"))


def test_where_there_are_none_they_are_refused(install):
    install.pycuda()
    cuda = choose("pycuda")
    assert cuda.no_graphs
    with pytest.raises(EngineError, match="PyCUDA has no CUDA graphs; take cuda=torch or cuda=cuda-python"):
        cuda.graph(cuda.stream(), lambda: None)


def test_a_capture_that_pytorch_refuses_is_our_error(install):
    install.torch()
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
def test_memory_that_is_not_there_is_our_error(install, name, nbytes, words):
    install.torch()
    install.pycuda()
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
def test_every_call_of_cuda_python_is_checked(install, call):
    fake = install.runtime()
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


def test_everything_is_given_back_once(install):
    fake = install.runtime()
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


def test_a_capture_that_fails_is_ended_and_leaves_nothing(install):
    fake = install.runtime()
    cuda = choose("cuda-python")
    stream = cuda.stream()

    def refuse():
        raise EngineError("the run was refused")

    with pytest.raises(EngineError, match="the run was refused"):
        cuda.graph(stream, refuse)
    assert fake.capture == {}
    assert "graph" not in fake.things.values()


def test_the_device_of_the_thread_is_put_back(install):
    fake = install.runtime(devices=2)
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
def test_a_driver_that_is_too_old_is_told_from_none(install, driver, words):
    install.runtime(driver=driver).failing = {"cudaGetDeviceCount": Error.cudaErrorInsufficientDriver}
    with pytest.raises(EngineError, match=words):
        choose("cuda-python")


def test_no_device_keeps_cudas_own_words(install):
    install.runtime().failing = {"cudaGetDeviceCount": Error.cudaErrorNoDevice}
    with pytest.raises(EngineError, match=r"cudaGetDeviceCount failed with cudaErrorNoDevice \(100\)"):
        choose("cuda-python")


def test_a_library_that_cannot_be_loaded_is_our_error(install, monkeypatch):
    fake = install.runtime()

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


# PyCUDA: contexts


def test_pycuda_leaves_no_thread_with_a_context(install):
    """A thread that ends with a context pushed makes PyCUDA abort the process."""
    fake = install.pycuda()
    cuda = choose("pycuda")
    depths = []

    def work():
        cuda_checks.check_bytes_survive(cuda, np.arange(6, dtype=np.float32))
        with pytest.raises(EngineError, match="out of memory"):
            cuda.device(1 << 31)
        with cuda.current(), cuda.current():
            depths.append(fake.depth())
        depths.append(fake.depth())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert depths == [1, 0]
    assert set(fake.stacks.values()) == {0}


def test_pycuda_is_opened_in_the_main_thread_only(install, monkeypatch):
    install.pycuda()
    monkeypatch.delitem(sys.modules, "pycuda.autoprimaryctx")
    told = []

    def work():
        try:
            choose("pycuda")
        except EngineError as error:
            told.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == ["PyCUDA has to be opened first in the main thread; load the engine there, then start threads"]


def test_pycuda_with_a_context_of_its_own_is_refused(install, monkeypatch):
    install.pycuda()
    monkeypatch.setitem(sys.modules, "pycuda.autoinit", ModuleType("pycuda.autoinit"))
    with pytest.raises(EngineError, match=r"pycuda.autoinit was imported, .* import pycuda.autoprimaryctx in its"):
        choose("pycuda")


def test_pycuda_on_another_gpu_is_refused(install):
    install.pycuda(devices=3)
    with pytest.raises(UsageError, match=r"primary context is on Fake GPU .* set CUDA_DEVICE=2 before Python starts"):
        choose("pycuda", index=2)


def test_pycuda_without_a_driver_library(install, monkeypatch):
    install.pycuda()
    monkeypatch.delitem(sys.modules, "pycuda.autoprimaryctx")
    real = importlib.import_module

    def without(name, *rest):
        if name == pycuda_cuda.PRIMARY:
            raise ImportError("libcuda.so.1: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(pycuda_cuda.importlib, "import_module", without)
    with pytest.raises(EngineError, match=r"PyCUDA is installed and cannot reach a GPU \(libcuda.so.1: cannot open"):
        choose("pycuda")


# choosing


def test_the_first_that_works_is_taken(install, monkeypatch):
    install.nothing()
    install.pycuda()
    assert choose().name == "pycuda"
    install.runtime()
    assert choose().name == "cuda-python"
    install.torch()
    assert choose().name == "torch"
    assert choose("pycuda").name == "pycuda"


def test_where_none_is_installed_each_says_what_it_lacks(install, monkeypatch):
    install.nothing()
    monkeypatch.setattr(home, "gpu_unusable", lambda index: "no NVIDIA driver is installed")
    with pytest.raises(MissingDependency) as caught:
        choose()
    text = str(caught.value)
    for words in (
        "no way to CUDA works here. torch: PyTorch does not import",
        "cuda-python need the 'cuda' package, which is not installed: pip install 'cuda-python==12.*' where",
        "PyCUDA need the 'pycuda' package, which is not installed: pip install 'yolo-compress[pycuda]'",
        "the machine itself: no NVIDIA driver is installed",
    ):
        assert words in text


def test_where_one_is_installed_and_fails_it_is_no_missing_package(install, monkeypatch):
    install.nothing()
    install.runtime().failing = {"cudaGetDeviceCount": Error.cudaErrorNoDevice}
    monkeypatch.setattr(home, "gpu_unusable", lambda index: None)
    with pytest.raises(EngineError, match=r"cudaErrorNoDevice .*its driver and GPU work, so it is the packages"):
        choose()


def test_pytorch_without_cuda_and_without_gpu(install):
    fake = install.torch()
    fake.version.cuda = None
    with pytest.raises(EngineError, match=r"this PyTorch \(2.9.0\+cu130\) is built without CUDA; install the build"):
        choose("torch")
    fake.version.cuda = "13.0"

    def old():
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    fake.cuda.is_available = old
    with pytest.raises(EngineError, match=r"finds no usable GPU \(CUDA initialization: The NVIDIA driver .* too old\)"):
        choose("torch")


def test_pytorch_that_does_not_tell_where_its_gpu_sits(install):
    install.torch().cuda.get_device_properties = lambda index: SimpleNamespace()
    with pytest.raises(EngineError, match="does not tell where a GPU sits"):
        choose("torch").pci_bus_id()


def test_a_gpu_that_is_not_there_is_wrong_use(cuda):
    with pytest.raises(UsageError, match="device=cuda:4 was given and CUDA sees 1 here; give one below cuda:1"):
        choose(cuda.name, index=4)


def test_an_unknown_way_gets_close_matches():
    with pytest.raises(UsageError, match=r"cuda=pycud is not known; did you mean pycuda\?"):
        choose("pycud")


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12), ("1", 1)])
def test_devices_are_read_as_ultralytics_writes_them(device, index):
    assert device_index(device) == index


@pytest.mark.parametrize("device", ["cpu", "", "cuda:", "cuda0", ":0", "cuda:-1", "cuda:0,1", "gpu", "cuda:cuda:0"])
def test_other_devices_are_refused(device):
    with pytest.raises(UsageError, match=f"device={device} is no CUDA device, .* give device=cuda:0"):
        device_index(device)


# the probe


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("pass", None),
        ("import sys; sys.exit('no NVIDIA driver is installed')", "no NVIDIA driver is installed"),
        ("import os; os._exit(3)", "the probe failed with code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended the process that asked it (signal 11)"),
    ],
)
def test_the_probe_lives_to_tell(question, answer):
    found = gpu_unusable(question=question)
    assert found == answer or answer in found


def test_the_probe_does_not_wait_for_ever():
    assert gpu_unusable(question="import time; time.sleep(9)", timeout_s=0.2) == (
        "the NVIDIA driver did not answer within 0.2 s"
    )


def test_the_probe_itself_answers_here():
    found = gpu_unusable(index=99)
    assert re.search(
        r"no NVIDIA driver is installed \(|GPU 99 was asked for and the driver sees|cu\w+ failed with", found
    )


def test_nothing_of_nvidia_is_imported_until_asked():
    code = (
        "import sys\n"
        "import yolo_compress.engines.tensorrt.session, yolo_compress.engines.tensorrt.cuda.torch_cuda\n"
        "import yolo_compress.engines.tensorrt.cuda.cuda_python, yolo_compress.engines.tensorrt.cuda.pycuda_cuda\n"
        "import yolo_compress.bench.gpu_latency\n"
        "print([m for m in ('torch', 'cuda', 'pycuda', 'pynvml', 'tensorrt', 'tensorrt_rtx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
