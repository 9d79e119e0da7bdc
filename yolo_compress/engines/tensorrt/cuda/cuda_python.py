# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""CUDA through NVIDIA's cuda-python, a wheel without PyTorch; its calls return their errors, and every one is read."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from yolo_compress.engines.tensorrt.cuda import check_copy, check_index
from yolo_compress.errors import EngineError, MissingDependency, require

ADVICE = "pip install 'cuda-python==12.*' where the driver's CUDA is 12 (JetPack 6), 'cuda-python==13.*' where it is 13"
INSUFFICIENT_DRIVER = 35
PCI_TEXT = 32  # bytes that "00000000:65:00.0" fits into


def open_cuda(index: int) -> CudaPython:
    """Return a GPU; see `choose`."""
    try:
        runtime = require("cuda.bindings.runtime", extra="", purpose="GPU calls through cuda-python", advice=ADVICE)
    except ImportError as error:
        raise MissingDependency(
            f"cuda-python is installed and does not import ({' '.join(str(error).split())}); {ADVICE}"
        ) from error
    call = Calls(runtime)
    try:
        count = call("cudaGetDeviceCount")
    except CudaError as error:
        if error.code != INSUFFICIENT_DRIVER:
            raise
        raise EngineError(f"{error}: {_versions_apart(call)}") from error
    check_index(index, count)
    return CudaPython(call, index)


class CudaError(EngineError):
    """A call that CUDA refused, with its number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Calls:
    """Calls the CUDA runtime by name, and turns what it returns as an error into one."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Return the value of a call, None where it has none.

        Raises:
            EngineError: CUDA refused, or the library has no such call.
        """
        try:
            code, *values = getattr(self.runtime, name)(*arguments)
        except RuntimeError as error:  # how the bindings say that a library or one of its symbols is not there
            raise EngineError(f"{name} cannot be called ({error}); is the NVIDIA driver installed?") from error
        if int(code):
            text = [bytes(self.runtime.cudaGetErrorName(code)[1]), bytes(self.runtime.cudaGetErrorString(code)[1])]
            words, meaning = (part.decode(errors="replace") for part in text)
            raise CudaError(f"{name} failed with {words} ({int(code)}), {meaning}", int(code))
        return values[0] if values else None


class Owned:
    """Something of CUDA's that is given back once: when told to, or with the object."""

    def __init__(self, call: Calls, release: str, thing: Any) -> None:
        self._end = weakref.finalize(self, call, release, thing)
        self._end.atexit = False  # the process takes it along, and the library may be gone before us

    def free(self) -> None:
        """Give it back; again does nothing."""
        self._end()


class PythonBuffer(Owned):
    """Memory of cudaMalloc."""

    def __init__(self, call: Calls, nbytes: int) -> None:
        self.address, self.nbytes = int(call("cudaMalloc", max(nbytes, 1))), nbytes
        super().__init__(call, "cudaFree", self.address)

    def free(self) -> None:
        """Give the memory back."""
        self.address = 0
        super().free()


class PythonStream(Owned):
    """A stream that does not wait for the default one."""

    def __init__(self, call: Calls) -> None:
        self.call, self.stream = call, call("cudaStreamCreateWithFlags", call.runtime.cudaStreamNonBlocking)
        self.handle = int(self.stream)
        super().__init__(call, "cudaStreamDestroy", self.stream)

    def synchronize(self) -> None:
        """Wait for what is queued."""
        self.call("cudaStreamSynchronize", self.stream)


class PythonEvent(Owned):
    """An event with a time."""

    def __init__(self, call: Calls) -> None:
        self.call, self.event = call, call("cudaEventCreate")
        super().__init__(call, "cudaEventDestroy", self.event)

    def record(self, stream: PythonStream) -> None:
        """Put the mark behind what is queued."""
        self.call("cudaEventRecord", self.event, stream.stream)

    def synchronize(self) -> None:
        """Wait until the mark is reached."""
        self.call("cudaEventSynchronize", self.event)

    def elapsed_ms(self, since: PythonEvent) -> float:
        """Return the milliseconds from another mark to this one."""
        return float(self.call("cudaEventElapsedTime", since.event, self.event))


class PythonGraph(Owned):
    """An instantiated graph."""

    def __init__(self, call: Calls, executable: Any, stream: PythonStream) -> None:
        self.call, self.executable, self.stream = call, executable, stream
        super().__init__(call, "cudaGraphExecDestroy", executable)

    def launch(self) -> None:
        """Queue it."""
        self.call("cudaGraphLaunch", self.executable, self.stream.stream)


class CudaPython:
    """`Cuda` by way of cuda.bindings.runtime, which works on the primary context."""

    name = "cuda-python"
    no_graphs = ""

    def __init__(self, call: Calls, index: int) -> None:
        self.call, self.index = call, index
        kinds = call.runtime.cudaMemcpyKind
        self._up, self._down = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
        self.version = f"cuda-python, CUDA {_version(call('cudaRuntimeGetVersion'))}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU the thread's current one."""
        before = self.call("cudaGetDevice")
        if before == self.index:
            yield
            return
        self.call("cudaSetDevice", self.index)
        try:
            yield
        finally:
            self.call("cudaSetDevice", before)

    def device(self, nbytes: int) -> PythonBuffer:
        """Allocate device memory."""
        with self.current():
            return PythonBuffer(self.call, nbytes)

    def pinned(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """Return an array over memory of cudaMallocHost, freed with the last view of it."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        with self.current():
            address = int(self.call("cudaMallocHost", max(nbytes, 1)))
        block = (ctypes.c_uint8 * max(nbytes, 1)).from_address(address)
        weakref.finalize(block, self.call, "cudaFreeHost", address).atexit = False  # numpy keeps the block alive
        return np.frombuffer(block, np.uint8)[:nbytes].view(dtype).reshape(tuple(shape))

    def upload(self, host: np.ndarray, buffer: PythonBuffer, stream: PythonStream | None = None) -> None:
        """Copy to the device."""
        check_copy(host, buffer)
        self._copy(buffer.address, host.ctypes.data, host.nbytes, self._up, stream)

    def download(self, buffer: PythonBuffer, host: np.ndarray, stream: PythonStream | None = None) -> None:
        """Copy from the device."""
        check_copy(host, buffer, fills=True)
        self._copy(host.ctypes.data, buffer.address, host.nbytes, self._down, stream)

    def stream(self) -> PythonStream:
        """Create a stream."""
        with self.current():
            return PythonStream(self.call)

    def event(self) -> PythonEvent:
        """Create an event."""
        with self.current():
            return PythonEvent(self.call)

    def graph(self, stream: PythonStream, enqueue: Callable[[], None]) -> PythonGraph:
        """Capture; other threads go on meanwhile."""
        with self.current():
            mode = self.call.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            self.call("cudaStreamBeginCapture", stream.stream, mode)
            try:
                enqueue()
            except BaseException:
                # the capture has to end for the stream to be of use again; why it failed is the caller's error
                broken = self.call.runtime.cudaStreamEndCapture(stream.stream)
                if not int(broken[0]):
                    self.call("cudaGraphDestroy", broken[1])
                raise
            graph = self.call("cudaStreamEndCapture", stream.stream)
            try:
                return PythonGraph(self.call, self.call("cudaGraphInstantiate", graph, 0), stream)
            finally:
                self.call("cudaGraphDestroy", graph)

    def device_name(self) -> str:
        """Return the GPU's name."""
        return self.call("cudaGetDeviceProperties", self.index).name.decode(errors="replace").rstrip("\0")

    def pci_bus_id(self) -> str:
        """Return where the GPU sits."""
        return self.call("cudaDeviceGetPCIBusId", PCI_TEXT, self.index).decode().rstrip("\0").lower()

    def _copy(self, target: int, source: int, nbytes: int, kind: Any, stream: PythonStream | None) -> None:
        if stream is None:
            self.call("cudaMemcpy", target, source, nbytes, kind)
        else:
            self.call("cudaMemcpyAsync", target, source, nbytes, kind, stream.stream)


def _versions_apart(call: Calls) -> str:
    driver, ours = call("cudaDriverGetVersion"), call("cudaRuntimeGetVersion")
    if not driver:
        return "no NVIDIA driver is loaded on this machine"
    return (
        f"the driver goes up to CUDA {_version(driver)} and this cuda-python is of CUDA {_version(ours)}; "
        f"pip install 'cuda-python=={driver // 1000}.*'"
    )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
