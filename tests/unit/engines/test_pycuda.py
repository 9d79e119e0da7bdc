# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""PyCUDA on a simulated library: whose context, in which thread, and on which GPU."""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType

import numpy as np
import pytest

from tests import cuda_checks
from yolo_compress.engines.tensorrt.cuda import choose, pycuda_cuda
from yolo_compress.errors import EngineError, UsageError


def test_pycuda_leaves_no_thread_with_a_context(libraries):
    """A thread that ends with a context pushed makes PyCUDA abort the process."""
    fake = libraries.pycuda()
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


def test_pycuda_is_opened_in_the_main_thread_only(libraries, monkeypatch):
    libraries.pycuda()
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


def test_pycuda_with_a_context_of_its_own_is_refused(libraries, monkeypatch):
    libraries.pycuda()
    monkeypatch.setitem(sys.modules, "pycuda.autoinit", ModuleType("pycuda.autoinit"))
    with pytest.raises(EngineError, match=r"pycuda.autoinit was imported, .* import pycuda.autoprimaryctx in its"):
        choose("pycuda")


def test_pycuda_on_another_gpu_is_refused(libraries):
    libraries.pycuda(devices=3)
    with pytest.raises(UsageError, match=r"primary context is on Fake GPU .* set CUDA_DEVICE=2 before Python starts"):
        choose("pycuda", index=2)


def test_pycuda_without_a_driver_library(libraries, monkeypatch):
    libraries.pycuda()
    monkeypatch.delitem(sys.modules, "pycuda.autoprimaryctx")
    real = importlib.import_module

    def without(name, *rest):
        if name == pycuda_cuda.PRIMARY:
            raise ImportError("libcuda.so.1: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(pycuda_cuda.importlib, "import_module", without)
    with pytest.raises(EngineError, match=r"PyCUDA is installed and cannot reach a GPU \(libcuda.so.1: cannot open"):
        choose("pycuda")
