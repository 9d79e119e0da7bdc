# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""CUDA through PyTorch, which Ultralytics brings along."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from yolo_compress.engines.tensorrt.cuda import check_copy, check_index
from yolo_compress.errors import EngineError, MissingDependency

MODE = "thread_local"  # other threads may allocate while this one captures


def open_cuda(index: int) -> TorchCuda:
    """Return a GPU; see `choose`."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependency(
            f"PyTorch does not import ({error}); install the build for your CUDA version as pytorch.org says, or take "
            "cuda=cuda-python, which needs no PyTorch"
        ) from error
    if torch.version.cuda is None:
        raise EngineError(
            f"this PyTorch ({torch.__version__}) is built without CUDA; install the build for your CUDA version, or "
            "take cuda=cuda-python"
        )
    with warnings.catch_warnings(record=True) as told:  # an old driver is only warned about
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if not usable:
        why = "; ".join(" ".join(str(warning.message).split())[:200] for warning in told)
        raise EngineError(
            f"this PyTorch ({torch.__version__}, CUDA {torch.version.cuda}) finds no usable GPU"
            + (f" ({why})" if why else "")
        )
    check_index(index, torch.cuda.device_count())
    return TorchCuda(torch, index)


class TorchBuffer:
    """Device memory of PyTorch's caching allocator."""

    def __init__(self, tensor: Any, nbytes: int) -> None:
        self.tensor, self.nbytes = tensor, nbytes
        self.address = int(tensor.data_ptr())

    def free(self) -> None:
        """Return the memory to the allocator."""
        self.tensor, self.address = None, 0


class TorchStream:
    """A stream of PyTorch's pool."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.handle = stream, int(stream.cuda_stream)

    def synchronize(self) -> None:
        """Wait for what is queued."""
        with _told():
            self.stream.synchronize()


class TorchEvent:
    """An event with a time."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def record(self, stream: TorchStream) -> None:
        """Put the mark behind what is queued."""
        with _told():
            self.event.record(stream.stream)

    def synchronize(self) -> None:
        """Wait until the mark is reached."""
        with _told():
            self.event.synchronize()

    def elapsed_ms(self, since: TorchEvent) -> float:
        """Return the milliseconds from another mark to this one."""
        with _told():
            return float(since.event.elapsed_time(self.event))


class TorchGraph:
    """A captured graph, replayed on its stream."""

    def __init__(self, torch: Any, graph: Any, stream: TorchStream) -> None:
        self.torch, self.graph, self.stream = torch, graph, stream

    def launch(self) -> None:
        """Queue it."""
        with _told(), self.torch.cuda.stream(self.stream.stream):
            self.graph.replay()


class TorchCuda:
    """`Cuda` by way of torch.cuda."""

    name = "torch"
    no_graphs = ""

    def __init__(self, torch: Any, index: int) -> None:
        self.torch, self.index = torch, index
        self.version = f"torch {torch.__version__}, CUDA {torch.version.cuda}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU the thread's current one."""
        with self.torch.cuda.device(self.index):
            yield

    def device(self, nbytes: int) -> TorchBuffer:
        """Allocate device memory."""
        with _told():
            tensor = self.torch.empty(max(nbytes, 1), dtype=self.torch.uint8, device=f"cuda:{self.index}")
        return TorchBuffer(tensor, nbytes)

    def pinned(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """Return an array over a pinned tensor, which the array keeps alive."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        with _told():
            tensor = self.torch.empty(max(nbytes, 1), dtype=self.torch.uint8, pin_memory=True)
        return tensor.numpy()[:nbytes].view(dtype).reshape(tuple(shape))

    def upload(self, host: np.ndarray, buffer: TorchBuffer, stream: TorchStream | None = None) -> None:
        """Copy to the device."""
        check_copy(host, buffer)
        # PyTorch warns about memory that it may not write to; a copy of it lives only as long as this call
        ours = host if host.flags.writeable else host.copy()
        source = self.torch.from_numpy(ours.reshape(-1).view(np.uint8))
        self._copy(source, buffer.tensor[: host.nbytes], stream, wait=ours is not host)

    def download(self, buffer: TorchBuffer, host: np.ndarray, stream: TorchStream | None = None) -> None:
        """Copy from the device."""
        check_copy(host, buffer, fills=True)
        self._copy(buffer.tensor[: host.nbytes], self.torch.from_numpy(host.reshape(-1).view(np.uint8)), stream)

    def stream(self) -> TorchStream:
        """Take a stream."""
        with _told():
            return TorchStream(self.torch.cuda.Stream(device=self.index))

    def event(self) -> TorchEvent:
        """Create an event."""
        with _told():
            return TorchEvent(self.torch.cuda.Event(enable_timing=True))

    def graph(self, stream: TorchStream, enqueue: Callable[[], None]) -> TorchGraph:
        """Capture; other threads go on meanwhile."""
        graph = self.torch.cuda.CUDAGraph()
        cuda = self.torch.cuda
        # the stream outside too: where a capture fails, the inner block leaves it the thread's current one
        outside, inside = cuda.stream(stream.stream), cuda.graph(graph, stream=stream.stream, capture_error_mode=MODE)
        with _told("CUDA graph capture"), self.current(), outside, inside:
            enqueue()
        return TorchGraph(self.torch, graph, stream)

    def device_name(self) -> str:
        """Return the GPU's name."""
        return str(self.torch.cuda.get_device_name(self.index))

    def pci_bus_id(self) -> str:
        """Return where the GPU sits."""
        found = self.torch.cuda.get_device_properties(self.index)
        if not hasattr(found, "pci_bus_id"):
            raise EngineError(f"PyTorch {self.torch.__version__} does not tell where a GPU sits; take a newer one")
        return f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"

    def _copy(self, source: Any, target: Any, stream: TorchStream | None, *, wait: bool = False) -> None:
        with _told():
            if stream is None:
                target.copy_(source)
                return
            with self.torch.cuda.stream(stream.stream):
                target.copy_(source, non_blocking=not wait)


@contextmanager
def _told(what: str = "CUDA through PyTorch") -> Iterator[None]:
    """Turn PyTorch's errors, out of memory among them, into ours."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f"{what} failed: {' '.join(str(error).split())[:300]}") from error
