# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""CUDA through what is installed: memory, copies, streams, events and graphs behind one protocol, three ways to it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from yolo_compress.engines.tensorrt.cuda.probe import gpu_unusable
from yolo_compress.errors import EngineError, MissingDependency, UsageError, entry_of

__all__ = ("BACKENDS", "Buffer", "Cuda", "Event", "Graph", "Stream", "choose", "device_index")

# in the order in which they are tried: what Ultralytics brings along, what is a wheel, what has to be compiled
BACKENDS = {
    "torch": "yolo_compress.engines.tensorrt.cuda.torch_cuda",
    "cuda-python": "yolo_compress.engines.tensorrt.cuda.cuda_python",
    "pycuda": "yolo_compress.engines.tensorrt.cuda.pycuda_cuda",
}


class Buffer(Protocol):
    """Device memory; `address` is 0 once it is freed."""

    address: int
    nbytes: int

    def free(self) -> None:
        """Give the memory back; again does nothing. What still runs on it has to be waited for first."""
        ...


class Stream(Protocol):
    """A queue of work on the device; `handle` is the `cudaStream_t` as a number."""

    handle: int

    def synchronize(self) -> None:
        """Wait for what is queued."""
        ...


class Event(Protocol):
    """A mark in a stream that knows its time."""

    def record(self, stream: Stream) -> None:
        """Put the mark behind what is queued."""
        ...

    def synchronize(self) -> None:
        """Wait until the mark is reached."""
        ...

    def elapsed_ms(self, since: Event) -> float:
        """Return the milliseconds from another mark to this one, both reached."""
        ...


class Graph(Protocol):
    """Work that was captured once and is queued whole."""

    def launch(self) -> None:
        """Queue it on the stream that it was captured from."""
        ...


class Cuda(Protocol):
    """One GPU. Every failing call raises EngineError with CUDA's own name of the error.

    Attributes:
        name: Key in `BACKENDS`.
        version: Package and CUDA version, for records.
        no_graphs: Why `graph` refuses; empty where it does not.
    """

    name: str
    version: str
    no_graphs: str

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU's primary context the calling thread's for a block; other libraries' calls need it."""
        ...

    def device(self, nbytes: int) -> Buffer:
        """Allocate device memory, uninitialised."""
        ...

    def pinned(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """Return an uninitialised array in page-locked memory, which lives as long as the array or a view of it."""
        ...

    def upload(self, host: np.ndarray, buffer: Buffer, stream: Stream | None = None) -> None:
        """Copy a contiguous array to the start of a buffer.

        Without a stream the copy is done when this returns. With one it may not be: leave the array alive and as it is
        until the stream is synchronized. The copy really overlaps only from page-locked memory.
        """
        ...

    def download(self, buffer: Buffer, host: np.ndarray, stream: Stream | None = None) -> None:
        """Fill a contiguous array from the start of a buffer; see `upload` for what a stream means."""
        ...

    def stream(self) -> Stream:
        """Create a stream."""
        ...

    def event(self) -> Event:
        """Create an event that keeps time."""
        ...

    def graph(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """Capture what a function queues on a stream, without running it.

        Raises:
            EngineError: There are no graphs, see `no_graphs`, or what was queued cannot be captured.
        """
        ...

    def device_name(self) -> str:
        """Return the GPU's name."""
        ...

    def pci_bus_id(self) -> str:
        """Return where the GPU sits ("0000:65:00.0"): its number differs from one library to the next."""
        ...


def choose(name: str | None = None, *, index: int = 0) -> Cuda:
    """Return CUDA through one of `BACKENDS`, the first that works unless one is named.

    Args:
        name: Key in `BACKENDS`.
        index: Number of the GPU, as CUDA counts.

    Raises:
        UsageError: There is no such back end, or no GPU of that number.
        MissingDependency: The packages are not installed.
        EngineError: They are, and cannot reach a GPU.
    """
    if name is not None:
        return _open(entry_of(BACKENDS, "cuda", name), index)
    reasons, missing = [], True
    for entry, module in BACKENDS.items():
        try:
            return _open(module, index)
        except (MissingDependency, EngineError) as error:
            reasons.append(f"{entry}: {error}")
            missing &= isinstance(error, MissingDependency)
    machine = gpu_unusable(index)  # tells a machine without a GPU from packages that do not fit it
    reasons.append(f"the machine itself: {machine or 'its driver and GPU work, so it is the packages'}")
    error_class = MissingDependency if missing else EngineError
    raise error_class("no way to CUDA works here. " + "; ".join(reasons))


def device_index(device: str) -> int:
    """Return the number of the GPU in "cuda", "cuda:1" or "1".

    Raises:
        UsageError: It names none.
    """
    number = str(device).removeprefix("cuda").removeprefix(":") or ("0" if str(device) == "cuda" else "")
    if not number.isdecimal() or str(device) in (f"cuda{number}", f":{number}"):
        raise UsageError(f"device={device} is no CUDA device, and TensorRT runs on nothing else; give device=cuda:0")
    return int(number)


def check_index(index: int, count: int) -> None:
    """Refuse the number of a GPU that is not there.

    Raises:
        UsageError: There are not so many.
    """
    if index >= count:
        raise UsageError(f"device=cuda:{index} was given and CUDA sees {count} here; give one below cuda:{count}")


def check_copy(host: np.ndarray, buffer: Buffer, *, fills: bool = False) -> None:
    """Refuse copies that would reach past a buffer, that hold gaps, or that fill what may not be written.

    Raises:
        ValueError: The array is not contiguous, larger than the buffer, or read-only.
    """
    if fills and not host.flags.writeable:
        raise ValueError("the array of a download has to be writeable")
    if not host.flags.c_contiguous:
        raise ValueError("the array of a copy has to be contiguous")
    if host.nbytes > buffer.nbytes or not buffer.address:
        raise ValueError(f"{host.nbytes} bytes do not fit a buffer of {buffer.nbytes if buffer.address else 0}")


def _open(module: str, index: int) -> Cuda:
    return importlib.import_module(module).open_cuda(index)
