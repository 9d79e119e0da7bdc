# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""CUDA through PyCUDA, on the primary context only: TensorRT and PyTorch do not share one that it makes for itself."""

from __future__ import annotations

import importlib
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from yolo_compress.engines.tensorrt.cuda import check_copy, check_index
from yolo_compress.errors import EngineError, UsageError, require

PRIMARY = "pycuda.autoprimaryctx"


def open_cuda(index: int) -> PyCuda:
    """Return a GPU; see `choose`."""
    if "pycuda.autoinit" in sys.modules:
        raise EngineError(
            "pycuda.autoinit was imported, which makes a context that TensorRT and PyTorch do not share; import "
            f"{PRIMARY} in its place"
        )
    # The import pushes the context for the thread that does it and pops it when Python ends, in the main one; a thread
    # that ends with a context pushed makes PyCUDA abort the process.
    if PRIMARY not in sys.modules and threading.current_thread() is not threading.main_thread():
        raise EngineError("PyCUDA has to be opened first in the main thread; load the engine there, then start threads")
    require("pycuda", extra="pycuda", purpose="GPU calls through PyCUDA")
    try:
        primary = importlib.import_module(PRIMARY)
        driver = importlib.import_module("pycuda.driver")
    except Exception as error:  # its own error classes, and ImportError where there is no driver library
        raise EngineError(
            f"PyCUDA is installed and cannot reach a GPU ({' '.join(str(error).split())[:300]}); is the NVIDIA driver "
            "installed, and was PyCUDA compiled for this CUDA version?"
        ) from error
    check_index(index, driver.Device.count())
    if driver.Device(index).pci_bus_id() != primary.device.pci_bus_id():
        raise UsageError(
            f"device=cuda:{index} was given and PyCUDA's primary context is on {primary.device.name()} "
            f"({primary.device.pci_bus_id()}); set CUDA_DEVICE={index} before Python starts, or take cuda=cuda-python"
        )
    return PyCuda(driver, primary, index)


class PyCudaBuffer:
    """Memory of mem_alloc."""

    def __init__(self, cuda: PyCuda, nbytes: int) -> None:
        self.cuda, self.nbytes = cuda, nbytes
        self.memory = cuda.driver.mem_alloc(max(nbytes, 1))
        self.address = int(self.memory)

    def free(self) -> None:
        """Give the memory back."""
        if self.address:
            self.address = 0
            with self.cuda.current():
                self.memory.free()


class PyCudaStream:
    """A stream."""

    def __init__(self, cuda: PyCuda) -> None:
        self.cuda, self.stream = cuda, cuda.driver.Stream()
        self.handle = int(self.stream.handle)

    def synchronize(self) -> None:
        """Wait for what is queued."""
        with self.cuda.current():
            self.stream.synchronize()


class PyCudaEvent:
    """An event with a time."""

    def __init__(self, cuda: PyCuda) -> None:
        self.cuda, self.event = cuda, cuda.driver.Event()

    def record(self, stream: PyCudaStream) -> None:
        """Put the mark behind what is queued."""
        with self.cuda.current():
            self.event.record(stream.stream)

    def synchronize(self) -> None:
        """Wait until the mark is reached."""
        with self.cuda.current():
            self.event.synchronize()

    def elapsed_ms(self, since: PyCudaEvent) -> float:
        """Return the milliseconds from another mark to this one."""
        with self.cuda.current():
            return float(since.event.time_till(self.event))


class PyCuda:
    """`Cuda` by way of pycuda.driver; every call pushes the context for its thread and pops it again."""

    name = "pycuda"
    no_graphs = "PyCUDA has no CUDA graphs; take cuda=torch or cuda=cuda-python for them"

    def __init__(self, driver: Any, primary: Any, index: int) -> None:
        self.driver, self.primary, self.index = driver, primary, index
        self._thread = threading.local()
        self.version = f"pycuda, CUDA {'.'.join(map(str, driver.get_version()[:2]))}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """Push the primary context, unless this thread is inside such a block already."""
        if getattr(self._thread, "inside", False):
            yield
            return
        try:
            self.primary.context.push()
            self._thread.inside = True
            try:
                yield
            finally:
                self._thread.inside = False
                self.driver.Context.pop()
        except self.driver.Error as error:
            raise EngineError(f"CUDA through PyCUDA failed: {' '.join(str(error).split())[:300]}") from error

    def device(self, nbytes: int) -> PyCudaBuffer:
        """Allocate device memory."""
        with self.current():
            return PyCudaBuffer(self, nbytes)

    def pinned(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """Return an array in page-locked memory."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        with self.current():
            block = self.driver.pagelocked_empty((max(nbytes, 1),), np.uint8)
        return block[:nbytes].view(dtype).reshape(tuple(shape))

    def upload(self, host: np.ndarray, buffer: PyCudaBuffer, stream: PyCudaStream | None = None) -> None:
        """Copy to the device."""
        check_copy(host, buffer)
        with self.current():
            if stream is None:
                self.driver.memcpy_htod(buffer.memory, host)
            else:
                self.driver.memcpy_htod_async(buffer.memory, host, stream.stream)

    def download(self, buffer: PyCudaBuffer, host: np.ndarray, stream: PyCudaStream | None = None) -> None:
        """Copy from the device."""
        check_copy(host, buffer, fills=True)
        with self.current():
            if stream is None:
                self.driver.memcpy_dtoh(host, buffer.memory)
            else:
                self.driver.memcpy_dtoh_async(host, buffer.memory, stream.stream)

    def stream(self) -> PyCudaStream:
        """Create a stream."""
        with self.current():
            return PyCudaStream(self)

    def event(self) -> PyCudaEvent:
        """Create an event."""
        with self.current():
            return PyCudaEvent(self)

    def graph(self, stream: PyCudaStream, enqueue: Callable[[], None]) -> NoReturn:
        """Refuse: PyCUDA wraps no call that captures."""
        raise EngineError(self.no_graphs)

    def device_name(self) -> str:
        """Return the GPU's name."""
        return str(self.primary.device.name())

    def pci_bus_id(self) -> str:
        """Return where the GPU sits."""
        return str(self.primary.device.pci_bus_id()).lower()
