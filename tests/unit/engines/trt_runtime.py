# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A TensorRT that runs: engines of three generations over a GPU that, like a real one, works when it is waited for."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType

import numpy as np

from yolo_compress.errors import EngineError

UPLOAD_MS, COMPUTE_MS, DOWNLOAD_MS = 1.0, 5.0, 2.0
ANCHORS = 4


class FakeCuda:
    """`Cuda` whose copies and runs happen when a stream or an event is waited for, in the order of queueing."""

    version = "fake, CUDA 13.0"
    name = "fake"

    def __init__(self, *, no_graphs="", capture_fails=False):
        self.no_graphs, self.capture_fails = no_graphs, capture_fails
        self.log: list[str] = []
        self.memory: dict[int, np.ndarray] = {}
        self.capturing: list | None = None
        self.inside = threading.local()
        self.next_address = 4096
        self.streams: dict[int, FakeStream] = {}
        self.pinned_arrays: list[np.ndarray] = []

    @contextmanager
    def current(self):
        self.inside.depth = getattr(self.inside, "depth", 0) + 1
        yield
        self.inside.depth -= 1

    def need(self, what):
        assert getattr(self.inside, "depth", 0), f"{what} without a current context on this thread"

    def device(self, nbytes):
        self.need("device")
        self.next_address += 4096 + nbytes
        self.memory[self.next_address] = np.zeros(nbytes, np.uint8)
        self.log.append("device")
        return FakeBuffer(self, self.next_address, nbytes)

    def pinned(self, shape: Sequence[int], dtype):
        array = np.full(shape, 77, dtype)
        self.pinned_arrays.append(array)
        return array

    def upload(self, host, buffer, stream=None):
        assert any(host is known for known in self.pinned_arrays), "an upload from memory that is not pinned"
        self.log.append("upload")
        stream.put(lambda: self._write(buffer.address, host), UPLOAD_MS)

    def download(self, buffer, host, stream=None):
        assert any(host is known for known in self.pinned_arrays), "a download to memory that is not pinned"
        self.log.append("download")
        stream.put(lambda: self._read(buffer.address, host), DOWNLOAD_MS)

    def _write(self, address, host):
        self.memory[address][: host.nbytes] = np.frombuffer(host.tobytes(), np.uint8)

    def _read(self, address, host):
        host.reshape(-1).view(np.uint8)[...] = self.memory[address][: host.nbytes]

    def stream(self):
        self.need("stream")
        stream = FakeStream(self, len(self.streams) + 1)
        self.streams[stream.handle] = stream
        return stream

    def event(self):
        self.need("event")
        return FakeEvent()

    def graph(self, stream, enqueue):
        assert not stream.queue, "a capture began while work was pending"
        self.log.append("capture")
        self.capturing = []
        try:
            enqueue()
            if self.capture_fails:
                raise EngineError("operation not permitted when stream is capturing")
            return FakeGraph(self, stream, self.capturing)
        finally:
            self.capturing = None

    def device_name(self):
        return "Fake GPU"

    def pci_bus_id(self):
        return "0000:0a:00.0"


@dataclass
class FakeBuffer:
    cuda: FakeCuda
    address: int
    nbytes: int

    def free(self):
        if self.address:
            del self.cuda.memory[self.address]
            self.address = 0


@dataclass
class FakeStream:
    cuda: FakeCuda
    handle: int
    queue: list = field(default_factory=list)
    clock_ms: float = 0.0

    def put(self, work, takes_ms):
        if self.cuda.capturing is None:
            self.queue.append((work, takes_ms))
        else:
            self.cuda.capturing.append((work, takes_ms))

    def synchronize(self):
        for work, takes_ms in self.queue:
            self.clock_ms += takes_ms
            work()
        self.queue.clear()


class FakeEvent:
    def record(self, stream):
        self.stream, self.at = stream, None
        stream.queue.append((lambda: setattr(self, "at", stream.clock_ms), 0.0))

    def synchronize(self):
        self.stream.synchronize()

    def elapsed_ms(self, since):
        assert self.at is not None
        return self.at - since.at


@dataclass
class FakeGraph:
    cuda: FakeCuda
    stream: FakeStream
    work: list

    def launch(self):
        self.cuda.log.append("launch")
        for work, takes_ms in self.work:
            self.stream.put(work, takes_ms)


class Type(Enum):
    FLOAT, HALF, BF16, INT32 = range(4)


class Mode(Enum):
    NONE, INPUT, OUTPUT = range(3)


NUMPY = {Type.FLOAT: np.float32, Type.HALF: np.float16, Type.INT32: np.int32}


LAYERS = {
    "Layers": [
        {"Name": "r", "LayerType": "Reformat", "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}]},
        {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", "Format/Datatype": "Int8 NC/32HW32"}]},
        {"Name": "b", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", "Format/Datatype": "Half NC/2HW"}]},
    ]
}


@dataclass
class Design:
    """What an engine is like; `shape` with -1 where `limits` say what may be there."""

    shape: tuple[int, ...] = (1, 3, 2, 2)
    limits: tuple | None = None
    input: Type = Type.FLOAT
    output: Type = Type.FLOAT
    names: tuple[tuple[str, Mode], ...] = (("images", Mode.INPUT), ("output0", Mode.OUTPUT), ("scales", Mode.OUTPUT))
    data_dependent: bool = False
    inspector: str = json.dumps(LAYERS)


def answer(images: np.ndarray) -> np.ndarray:
    """Return what an engine makes of images: (N, 5, 4), each box with the number of its image's content."""
    return np.repeat(images.reshape(len(images), -1)[:, :5, None], ANCHORS, axis=2) * 2 + 1


def fake_trt(cuda: FakeCuda, design: Design, *, version="10.3.0", dla=0) -> ModuleType:
    """Return a tensorrt module of the generation that a version belongs to.

    TensorRT 8 still has bindings by number, which end the test where they are touched, and gives a profile to one
    context only; from 10 on the former are gone and the latter is shared.
    """
    old = version.startswith("8.")
    trt = ModuleType("tensorrt")
    trt.__version__ = version
    trt.contexts, trt.loggers = [], []
    trt.design = design

    class ILogger:
        pass

    class Severity(Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

    class Runtime:
        num_DLA_cores = dla

        def __init__(self, logger):
            cuda.need("Runtime")
            self.logger = logger
            trt.loggers.append(logger)

        def deserialize_cuda_engine(self, plan):
            cuda.need("deserialize")
            severity, text = REPLIES.get(bytes(plan), (None, None))
            if text:
                self.logger.log(Severity[severity], text)
            return Engine() if severity in (None, "WARNING") else None

    class Engine:
        num_io_tensors = len(design.names)

        def get_tensor_name(self, index):
            return design.names[index][0]

        def get_tensor_mode(self, name):
            return dict(design.names)[name]

        def get_tensor_dtype(self, name):
            if name == "scales":
                return Type.INT32
            return design.input if dict(design.names)[name] is Mode.INPUT else design.output

        def get_tensor_shape(self, name):
            return Dims(design.shape) if dict(design.names)[name] is Mode.INPUT else Dims((-1, 5, ANCHORS))

        def get_tensor_profile_shape(self, name, profile):
            assert profile == 0
            assert dict(design.names)[name] is Mode.INPUT, "outputs have no profile"
            return [Dims(limit) for limit in design.limits]

        def create_engine_inspector(self):
            return Inspector()

        def create_execution_context(self):
            cuda.need("create_execution_context")
            trt.contexts.append(Context(self))
            return trt.contexts[-1]

    class Inspector:
        def get_engine_information(self, form):
            assert form == "json"
            return design.inspector

    class Context:
        def __init__(self, engine):
            self.engine = engine
            self.shape = design.shape if -1 not in design.shape else None
            self.addresses, self.threads, self.runs, self.refuse = {}, set(), 0, False

        def set_input_shape(self, name, shape):
            assert name == "images"
            cuda.log.append("set_input_shape")
            if old and any(other is not self and other.shape for other in trt.contexts):
                text = "Profile 0 has been chosen by another IExecutionContext. Use another profileIndex or destroy it."
                trt.loggers[-1].log(Severity.ERROR, text)
                return False
            self.shape = tuple(shape)
            return all(
                low <= size <= high for low, size, high in zip(design.limits[0], shape, design.limits[2], strict=True)
            )

        def get_tensor_shape(self, name):
            if name == "images":
                return Dims(self.shape)
            if design.data_dependent:
                return Dims((self.shape[0], -1, 6))
            return Dims((self.shape[0], 5, ANCHORS) if name == "output0" else (self.shape[0],))

        def set_tensor_address(self, name, address):
            assert address in cuda.memory
            self.addresses[name] = address
            return True

        def execute_async_v3(self, handle):
            cuda.need("execute_async_v3")
            assert set(self.addresses) == {name for name, _ in design.names}
            assert cuda.capturing is None or self.runs, "the first run fell into a capture"
            if self.refuse:
                return False
            self.threads.add(threading.get_ident())
            self.runs += 1
            cuda.log.append("run")
            # what a kernel is launched with is what was set then, not what is set when it runs
            shape, places = self.shape, dict(self.addresses)
            cuda.streams[handle].put(lambda: self.compute(shape, places), COMPUTE_MS)
            return True

        def compute(self, shape, places):
            images = cuda.memory[places["images"]].view(NUMPY[design.input]).reshape(shape)
            found = answer(images.astype(np.float32)).astype(NUMPY[design.output])
            cuda.memory[places["output0"]][...] = np.frombuffer(found.tobytes(), np.uint8)

    if old:
        for kind, names in (
            (Engine, ("num_bindings", "get_binding_shape")),
            (Context, ("execute_async_v2", "execute_v2")),
        ):
            for name in names:
                setattr(kind, name, property(_touched))
    trt.ILogger, trt.Runtime, trt.TensorIOMode = ILogger, Runtime, Mode
    trt.LayerInformationFormat = type("LayerInformationFormat", (), {"JSON": "json"})

    def nptype(kind):
        if kind not in NUMPY:
            raise TypeError(f"Could not resolve TensorRT datatype {kind} to an equivalent numpy datatype.")
        return NUMPY[kind]

    trt.nptype = nptype
    return trt


def _touched(_):
    raise AssertionError("bindings by number are gone since TensorRT 10")


class Dims(tuple):
    """As TensorRT's: a sequence that is no tuple to `==`."""

    __slots__ = ()
    __hash__ = None

    def __eq__(self, other):
        raise AssertionError("shapes of TensorRT are compared only after they became tuples")


REPLIES = {
    b"another version": (
        "ERROR",
        "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not compatible with "
        "this version of TensorRT, expecting library version 10.3.0.26 got 8.6.1.6, please rebuild.)",
    ),
    b"another version, 8.4": (
        "ERROR",
        "1: [stdArchiveReader.cpp::StdArchiveReader::35] Error Code 1: Serialization (Serialization assertion "
        "safeVersionRead == safeSerializationVersion failed.Version tag does not match. Note: Current Version: 0, "
        "Serialized Engine Version: 96)",
    ),
    b"another GPU": (
        "ERROR",
        "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on an "
        "incompatible device, expecting compute 8.7 got compute 8.6, please rebuild.)",
    ),
    b"damaged": (
        "ERROR",
        "1: [runtime.cpp::parsePlan::314] Error Code 1: Serialization (Serialization assertion plan->header.magicTag "
        "== rt::kPLAN_MAGIC_TAG failed. Magic tag does not match)",
    ),
    b"serialized {by} others": ("ERROR", "Serialization assertion (versions) failed. Version tag does not match."),
    b"no memory": ("ERROR", "Error Code 1: Cuda Runtime (out of memory)"),
    b"silent": ("ERROR", ""),
    b"another model": (
        "WARNING",
        "Using an engine plan file across different models of devices is not recommended and is likely to affect "
        "performance or even cause errors.",
    ),
}
