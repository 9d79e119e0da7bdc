# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""One thread's way through an engine: an execution context, a stream, the memory of one shape, and its graph."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

from yolo_compress.engines.tensorrt.cuda import Buffer, Cuda, Graph
from yolo_compress.engines.tensorrt.logger import last_error
from yolo_compress.engines.tensorrt.tensors import Tensors
from yolo_compress.engines.timed import QueryTimes
from yolo_compress.errors import EngineError


class Lane:
    """Runs queries one after another; every method is called with the GPU current.

    Attributes:
        notes: What could not be done as asked.
    """

    def __init__(self, cuda: Cuda, engine: Any, tensors: Tensors, logger: Any, *, graph: bool) -> None:
        self.cuda, self.tensors, self.logger, self.wants_graph = cuda, tensors, logger, graph
        self.context = engine.create_execution_context()
        if self.context is None:
            raise self._refused("no execution context could be made")
        self.stream = cuda.stream()
        self.events = [cuda.event() for _ in range(4)]
        self.notes: list[str] = []
        self._forget()

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Copy in, run, copy out, wait; the result is the caller's, in float32."""
        self._load(images)
        self.cuda.upload(self.host, self.buffers[0], self.stream)
        self._run()
        self._download()
        self.stream.synchronize()
        return self.results[0].astype(np.float32)

    def timed(self, images: np.ndarray) -> QueryTimes:
        """Do the same between events, which the device marks as it reaches them."""
        self._load(images)
        begin, loaded, done, end = self.events
        begin.record(self.stream)
        self.cuda.upload(self.host, self.buffers[0], self.stream)
        loaded.record(self.stream)
        before = perf_counter()
        self._run()
        enqueue_ms = (perf_counter() - before) * 1e3
        done.record(self.stream)
        self._download()
        end.record(self.stream)
        end.synchronize()
        return QueryTimes(enqueue_ms, done.elapsed_ms(loaded), loaded.elapsed_ms(begin), end.elapsed_ms(done))

    def queued(self, images: np.ndarray, queries: int) -> float:
        """Queue the same query again and again, without copies."""
        self._load(images)
        self.cuda.upload(self.host, self.buffers[0], self.stream)
        self.stream.synchronize()
        begin = perf_counter()
        for _ in range(queries):
            self._run()
        self.stream.synchronize()
        return perf_counter() - begin

    def close(self) -> None:
        """Give everything back; the lane's thread may keep the empty lane for as long as it lives."""
        self.stream.synchronize()
        self._release()
        self.context = None
        self.events.clear()
        del self.stream

    def _load(self, images: np.ndarray) -> None:
        self.tensors.check(images)
        if images.shape != self.shape:
            self._prepare(images.shape)
        np.copyto(self.host, images, casting="same_kind")  # to half, where the engine takes that

    def _prepare(self, shape: tuple[int, ...]) -> None:
        self.stream.synchronize()
        self._release()
        tensors = self.tensors
        if tensors.limits is not None and not self.context.set_input_shape(tensors.input, shape):
            raise self._refused(f"input shape {shape} was refused")
        self.host = self._place(tensors.input, tensors.input_dtype)
        self.results = [self._place(name, dtype) for name, dtype in tensors.outputs]
        # TensorRT allocates and settles shapes in the first run, which must not fall into a capture
        self._enqueue()
        self.stream.synchronize()
        if self.wants_graph:
            self._capture()
        self.shape = shape

    def _place(self, name: str, dtype: np.dtype) -> np.ndarray:
        """Make device memory for a tensor and tell TensorRT; return its page-locked counterpart."""
        shape = tuple(self.context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise EngineError(
                f"'{self.tensors.path}': the size of '{name}' depends on what is in the image, {shape}; export with a "
                "fixed number of detections"
            )
        host = self.cuda.pinned(shape, dtype)
        buffer = self.cuda.device(host.nbytes)
        self.buffers.append(buffer)
        if not self.context.set_tensor_address(name, buffer.address):
            raise self._refused(f"the memory of '{name}' was refused")
        return host

    def _capture(self) -> None:
        try:
            self.graph = self.cuda.graph(self.stream, self._enqueue)
        except EngineError as error:
            self.wants_graph = False
            self.notes.append(f"runs without a CUDA graph, which adds time on the host: {error}")
            self._enqueue()  # a capture that failed leaves nothing pending, but the context is used again to be sure
            self.stream.synchronize()

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self.stream.handle):
            raise self._refused("the run was refused")

    def _run(self) -> None:
        if self.graph is None:
            self._enqueue()
        else:
            self.graph.launch()

    def _download(self) -> None:
        # all of them: a tensor that nobody reads is still part of what a deployed program copies
        for result, buffer in zip(self.results, self.buffers[1:], strict=True):
            self.cuda.download(buffer, result, self.stream)

    def _release(self) -> None:
        self.graph = None  # before the memory that it writes to
        for buffer in self.buffers:
            buffer.free()
        self._forget()

    def _forget(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self.graph: Graph | None = None
        self.buffers: list[Buffer] = []
        self.host = np.empty(0, np.float32)
        self.results: list[np.ndarray] = []

    def _refused(self, what: str) -> EngineError:
        reason = last_error(self.logger) or "TensorRT gave no reason"
        return EngineError(f"'{self.tensors.path}': {what}: {reason}")
