# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Modules that behave as cuda.bindings.runtime, pycuda and torch.cuda do, with the host's memory as the device's."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import torch


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorStreamCaptureInvalidated = 901


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class FakeRuntime(ModuleType):
    """cuda.bindings.runtime: values and errors come back in tuples. `failing` names calls and what they return."""

    cudaError_t = Error
    cudaMemcpyKind = Kind
    cudaStreamNonBlocking = 1
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, *, devices=1, driver=13000, version=13050):
        super().__init__("cuda.bindings.runtime")
        self.devices, self.driver, self.version = devices, driver, version
        self.failing: dict[str, Error] = {}
        self.calls: list[tuple] = []
        self.memory: dict[int, object] = {}
        self.pinned: dict[int, object] = {}
        self.things: dict[int, str] = {}
        self.capture: dict[int, list] = {}
        self.graphs: dict[int, list] = {}
        self.chosen = 0
        self.clock = 0.0
        self.marks: dict[int, float] = {}

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found

        def called(*arguments):
            self.calls.append((name, *arguments))
            if name in self.failing:
                return (self.failing[name], None)
            values = found(*arguments)
            return (Error.cudaSuccess, *(values if isinstance(values, tuple) else () if values is None else (values,)))

        return called

    def cudaGetErrorName(self, code):
        return Error(code).name.encode()

    def cudaGetErrorString(self, code):
        return b"what " + Error(code).name.encode() + b" means"

    def cudaGetDeviceCount(self):
        return self.devices

    def cudaDriverGetVersion(self):
        return self.driver

    def cudaRuntimeGetVersion(self):
        return self.version

    def cudaGetDevice(self):
        return self.chosen

    def cudaSetDevice(self, index):
        self.chosen = index

    def cudaGetDeviceProperties(self, index):
        return SimpleNamespace(name=f"Fake GPU {index}".encode() + b"\0\0")

    def cudaDeviceGetPCIBusId(self, length, index):
        return b"0000:0A:00.0\0".ljust(length, b"\0")

    def cudaMalloc(self, size):
        block = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cudaFree(self, address):
        del self.memory[address]

    def cudaMallocHost(self, size):
        block = (ctypes.c_uint8 * size)()
        self.pinned[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cudaFreeHost(self, address):
        del self.pinned[address]

    def _thing(self, kind):
        handle = 1000 + len(self.things)
        self.things[handle] = kind
        return handle

    def _gone(self, handle):
        assert self.things[handle] != "gone"
        self.things[handle] = "gone"

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        return self._thing("stream")

    def cudaEventCreate(self):
        return self._thing("event")

    cudaStreamDestroy = cudaEventDestroy = cudaGraphExecDestroy = cudaGraphDestroy = _gone

    def cudaStreamSynchronize(self, stream):
        assert self.things[stream] == "stream"

    def cudaEventRecord(self, event, stream):
        self.marks[event] = self.clock

    def cudaEventSynchronize(self, event):
        assert event in self.marks

    def cudaEventElapsedTime(self, start, end):
        return self.marks[end] - self.marks[start]

    def cudaMemcpy(self, target, source, count, kind):
        near, far = (source, target) if kind == Kind.cudaMemcpyHostToDevice else (target, source)
        assert far in self.memory
        assert near not in self.memory
        ctypes.memmove(target, source, count)
        self.clock += 0.5

    def cudaMemcpyAsync(self, target, source, count, kind, stream):
        if stream in self.capture:
            self.capture[stream].append((target, source, count, kind))
        else:
            FakeRuntime.cudaMemcpy(self, target, source, count, kind)

    def cudaStreamBeginCapture(self, stream, mode):
        assert mode == 1
        self.capture[stream] = []

    def cudaStreamEndCapture(self, stream):
        graph = self._thing("graph")
        self.graphs[graph] = self.capture.pop(stream)
        return graph

    def cudaGraphInstantiate(self, graph, flags):
        assert flags == 0
        executable = self._thing("executable")
        self.graphs[executable] = self.graphs[graph]
        return executable

    def cudaGraphLaunch(self, executable, stream):
        assert self.things[executable] == "executable"
        for copy in self.graphs[executable]:
            FakeRuntime.cudaMemcpy(self, *copy)


class FakePyCuda:
    """pycuda with its stack of contexts: what is called on a thread that has none fails, as the driver does."""

    def __init__(self, *, address="0000:0A:00.0", devices=1):
        self.stacks: dict[int, int] = {}
        self.address, self.devices = address, devices

        class DriverError(Exception):
            pass

        self.Error = DriverError
        self.driver = ModuleType("pycuda.driver")
        for name in ("Error", "mem_alloc", "pagelocked_empty", "Device", "Context", "Stream", "Event"):
            setattr(self.driver, name, getattr(self, name))
        self.driver.get_version = lambda: (12, 6, 0)
        self.driver.memcpy_htod = self.up
        self.driver.memcpy_htod_async = lambda target, host, stream: self.up(target, host)
        self.driver.memcpy_dtoh = self.down
        self.driver.memcpy_dtoh_async = lambda host, source, stream: self.down(host, source)
        self.primary = ModuleType("pycuda.autoprimaryctx")
        self.primary.context = SimpleNamespace(push=self.push)
        self.primary.device = SimpleNamespace(name=lambda: "Fake GPU", pci_bus_id=lambda: "0000:0A:00.0")

    def depth(self):
        return self.stacks.get(threading.get_ident(), 0)

    def push(self):
        self.stacks[threading.get_ident()] = self.depth() + 1

    @property
    def Context(self):
        def pop():
            self.need()
            self.stacks[threading.get_ident()] -= 1

        return SimpleNamespace(pop=pop)

    def need(self):
        if not self.depth():
            raise self.Error("invalid device context")

    @property
    def Device(self):
        fake = self

        class Device:
            def __init__(self, index):
                self.index = index

            count = staticmethod(lambda: fake.devices)

            def pci_bus_id(self):
                return fake.address if self.index == 0 else f"0000:0{self.index}:00.0"

        return Device

    def mem_alloc(self, nbytes):
        self.need()
        if nbytes > 1 << 30:
            raise self.Error("cuMemAlloc failed: out of memory")
        fake = self

        class Memory:
            block = np.zeros(nbytes, np.uint8)

            def __int__(self):
                return self.block.ctypes.data

            def free(self):
                fake.need()
                self.block = None

        return Memory()

    def pagelocked_empty(self, shape, dtype):
        self.need()
        return np.empty(shape, dtype)

    def up(self, target, host):
        self.need()
        target.block[: host.nbytes] = np.frombuffer(host.tobytes(), np.uint8)

    def down(self, host, source):
        self.need()
        host.reshape(-1).view(np.uint8)[...] = source.block[: host.nbytes]

    def Stream(self):
        self.need()
        return SimpleNamespace(handle=77, synchronize=self.need)

    def Event(self):
        self.need()
        return SimpleNamespace(record=lambda stream: self.need(), synchronize=self.need, time_till=lambda other: 1.25)


def fake_torch():
    """Return the part of torch that is used, with the CPU as the GPU."""

    class Streams:
        current = None
        made = 0

        def __init__(self, device):
            assert device == 0
            Streams.made += 1
            self.cuda_stream = 40 + Streams.made

        def synchronize(self):
            pass

    @contextlib.contextmanager
    def on(stream):
        before, Streams.current = Streams.current, stream
        yield
        Streams.current = before

    class Graph:
        content = None

        def replay(self):
            raise AssertionError("only a real GPU captures what PyTorch does")

    class Capture(contextlib.AbstractContextManager):
        def __init__(self, graph, *, stream, capture_error_mode):
            assert capture_error_mode == "thread_local"
            self.stream = stream

        def __exit__(self, *_):
            raise RuntimeError("CUDA error: operation would make the legacy stream depend on a capturing stream")

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.stream = stream

        def synchronize(self):
            assert self.stream is not None

        def elapsed_time(self, later):
            return 1.25

    def empty(count, *, dtype, device=None, pin_memory=False):
        assert (device == "cuda:0") != pin_memory
        if count > 1 << 40:
            raise RuntimeError("CUDA out of memory.\nTried to allocate 1024 GiB")
        return torch.empty(count, dtype=dtype)

    properties = SimpleNamespace(pci_domain_id=0, pci_bus_id=10, pci_device_id=0)
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        device=lambda index: contextlib.nullcontext(),
        stream=on,
        Stream=Streams,
        Event=Event,
        CUDAGraph=Graph,
        graph=Capture,
        get_device_name=lambda index: f"Fake GPU {index}",
        get_device_properties=lambda index: properties,
    )
    module = ModuleType("torch")
    module.__version__ = "2.9.0+cu130"
    module.version, module.cuda = SimpleNamespace(cuda="13.0"), cuda
    module.empty, module.uint8, module.from_numpy = empty, torch.uint8, torch.from_numpy
    return module
