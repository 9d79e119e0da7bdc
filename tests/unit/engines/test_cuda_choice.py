# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which way to CUDA is taken, and what is said where there is none."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.engines.cuda_fakes import Error
from yolo_compress.engines.tensorrt import cuda as home
from yolo_compress.engines.tensorrt.cuda import choose, device_index
from yolo_compress.engines.tensorrt.cuda.probe import gpu_unusable
from yolo_compress.errors import EngineError, MissingDependency, UsageError

ROOT = Path(__file__).resolve().parents[3]


def test_the_first_that_works_is_taken(libraries, monkeypatch):
    libraries.nothing()
    libraries.pycuda()
    assert choose().name == "pycuda"
    libraries.runtime()
    assert choose().name == "cuda-python"
    libraries.torch()
    assert choose().name == "torch"
    assert choose("pycuda").name == "pycuda"


def test_where_none_is_installed_each_says_what_it_lacks(libraries, monkeypatch):
    libraries.nothing()
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


def test_where_one_is_installed_and_fails_it_is_no_missing_package(libraries, monkeypatch):
    libraries.nothing()
    libraries.runtime().failing = {"cudaGetDeviceCount": Error.cudaErrorNoDevice}
    monkeypatch.setattr(home, "gpu_unusable", lambda index: None)
    with pytest.raises(EngineError, match=r"cudaErrorNoDevice .*its driver and GPU work, so it is the packages"):
        choose()


def test_pytorch_without_cuda_and_without_gpu(libraries):
    fake = libraries.torch()
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


def test_pytorch_that_does_not_tell_where_its_gpu_sits(libraries):
    libraries.torch().cuda.get_device_properties = lambda index: SimpleNamespace()
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
