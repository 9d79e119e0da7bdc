# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The ways to CUDA on a real GPU: identical bytes, pinned copies, events, graphs, and life beside PyTorch."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tests import cuda_checks
from yolo_compress.bench.gpu_latency import measure
from yolo_compress.bench.gpu_state import GpuState, read_state
from yolo_compress.engines.tensorrt.cuda import choose
from yolo_compress.engines.timed import QueryTimes
from yolo_compress.errors import EngineError

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

MEBI = 1 << 20


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (2, 3, 640, 640)])
def test_bytes_survive_the_way_there_and_back(cuda, dtype, shape):
    content = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    cuda_checks.check_bytes_survive(cuda, content)


def test_every_bit_pattern_survives(cuda):
    bits = np.random.default_rng(1).integers(0, 2**32, 1 << 16, dtype=np.uint32).view(np.float32)  # NaN, infinities
    cuda_checks.check_bytes_survive(cuda, bits)


def test_it_lives_beside_pytorch(cuda):
    """Contexts of their own would make one of the two fail with an invalid handle."""
    torch = pytest.importorskip("torch")
    tensor = torch.arange(1024, dtype=torch.float32, device="cuda:0")
    for _ in range(3):
        cuda_checks.check_bytes_survive(cuda, np.arange(1024, dtype=np.float32))
        assert float((tensor * 2).sum()) == 1023 * 1024


def test_read_only_memory_can_be_uploaded(cuda):
    cuda_checks.check_read_only_memory_can_be_uploaded(cuda)


def test_pinned_memory_lives_with_its_views(cuda):
    cuda_checks.check_pinned_memory_lives_with_its_views(cuda)


def test_pinned_memory_is_pinned(cuda):
    torch = pytest.importorskip("torch")
    array = cuda.pinned((1024,), np.float32)
    assert torch.from_numpy(array).is_pinned()  # as the driver sees the address, whoever allocated it


def test_copies_stay_in_their_buffer(cuda):
    cuda_checks.check_copies_stay_in_their_buffer(cuda)


def test_events_tell_a_time_that_the_host_agrees_with(cuda):
    host, buffer = cuda.pinned((64 * MEBI,), np.uint8), cuda.device(64 * MEBI)

    def work(stream):
        for _ in range(10):
            cuda.upload(host, buffer, stream)

    cuda_checks.check_events_tell_time(cuda, work)
    begin = time.perf_counter()
    told_ms = cuda_checks.check_events_tell_time(cuda, work)
    host_ms = (time.perf_counter() - begin) * 1e3
    assert 0 < told_ms <= host_ms
    # 640 MiB take longer than a millisecond over any bus, and are most of what happened in between
    assert told_ms > 1
    assert told_ms > 0.5 * host_ms
    buffer.free()


def test_graphs_replay_or_are_refused(cuda):
    if not cuda.no_graphs:
        cuda_checks.check_a_graph_replays_with_what_lies_there_then(cuda)
        return
    with pytest.raises(EngineError, match="no CUDA graphs"):
        cuda.graph(cuda.stream(), lambda: None)


def test_work_of_pytorch_is_captured_from_a_stream_of_any(cuda):
    """What TensorRT does too: another library queues its kernels on the stream that it is handed."""
    torch = pytest.importorskip("torch")
    if cuda.no_graphs:
        pytest.skip(cuda.no_graphs)
    given, result = torch.ones(1024, device="cuda:0"), torch.zeros(1024, device="cuda:0")
    torch.cuda.synchronize()
    stream = cuda.stream()
    theirs = torch.cuda.ExternalStream(stream.handle)

    def enqueue():
        with torch.cuda.stream(theirs):
            torch.mul(given, 2, out=result)

    enqueue()
    stream.synchronize()
    graph = cuda.graph(stream, enqueue)
    for value in (3, 5):
        given.fill_(value)
        torch.cuda.synchronize()
        graph.launch()
        stream.synchronize()
        assert (result == 2 * value).all()


def test_threads_that_end_leave_nothing_behind(cuda):
    found = []

    def work():
        cuda_checks.check_bytes_survive(cuda, np.arange(4096, dtype=np.float32))
        found.append(True)

    for _ in range(4):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [True] * 4


def test_more_than_there_is_cannot_be_had(cuda):
    with pytest.raises(EngineError, match=r"(?i)memory"):
        cuda.device(1 << 46)
    cuda_checks.check_bytes_survive(cuda, np.arange(8, dtype=np.float32))  # and nothing is broken afterwards


def test_all_name_the_same_gpu(cuda):
    torch_cuda = choose("torch")
    assert cuda.device_name() == torch_cuda.device_name()
    assert cuda.pci_bus_id()[-10:] == torch_cuda.pci_bus_id()[-10:]


class TorchEngine:
    """A stand-in for an engine: a convolution of PyTorch's, captured and timed through the protocol."""

    def __init__(self, *, graph):
        import torch

        torch.manual_seed(0)
        self.torch, self.cuda = torch, choose("torch")
        self.layer = torch.nn.Conv2d(3, 8, 3, padding=1).cuda().eval()
        self.shape = (1, 3, 320, 320)
        self.input = torch.zeros(self.shape, device="cuda:0")
        self.host = self.cuda.pinned(self.shape, np.float32)
        self.result = self.cuda.pinned((1, 8, 320, 320), np.float32)
        self.stream, self.output = self.cuda.stream(), None
        self.back = self.torch.from_numpy(self.result)
        self.enqueue()
        self.stream.synchronize()
        self.graph = self.cuda.graph(self.stream, self.enqueue) if graph else None

    def enqueue(self):
        with self.torch.no_grad(), self.torch.cuda.stream(self.stream.stream):
            self.output = self.layer(self.input)

    def run(self):
        self.graph.launch() if self.graph else self.enqueue()

    def copy_in(self, images):
        self.host[...] = images
        with self.torch.cuda.stream(self.stream.stream):
            self.input.copy_(self.torch.from_numpy(self.host), non_blocking=True)

    def infer(self, images):
        self.copy_in(images)
        self.run()
        with self.torch.cuda.stream(self.stream.stream):
            self.back.copy_(self.output, non_blocking=True)
        self.stream.synchronize()
        return self.result.copy()

    def timed_infer(self, images):
        begin, loaded, done, end = (self.cuda.event() for _ in range(4))
        begin.record(self.stream)
        self.copy_in(images)
        loaded.record(self.stream)
        before = time.perf_counter()
        self.run()
        enqueue_ms = (time.perf_counter() - before) * 1e3
        done.record(self.stream)
        with self.torch.cuda.stream(self.stream.stream):
            self.back.copy_(self.output, non_blocking=True)
        end.record(self.stream)
        end.synchronize()
        return QueryTimes(enqueue_ms, done.elapsed_ms(loaded), loaded.elapsed_ms(begin), end.elapsed_ms(done))

    def queued_infer(self, images, queries):
        self.infer(images)
        begin = time.perf_counter()
        for _ in range(queries):
            self.run()
        self.stream.synchronize()
        return time.perf_counter() - begin

    def describe(self):
        return {"pci_bus_id": self.cuda.pci_bus_id(), "graph": self.graph is not None}


def test_a_captured_engine_answers_as_it_does_without_and_as_on_the_cpu():
    torch = pytest.importorskip("torch")
    plain, captured = TorchEngine(graph=False), TorchEngine(graph=True)
    layer = plain.layer.cpu()
    for seed in range(3):
        images = np.random.default_rng(seed).random(plain.shape).astype(np.float32)
        plain.layer.cuda()
        assert (captured.infer(images) == plain.infer(images)).all()
        with torch.no_grad():
            expected = layer.cpu()(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(captured.infer(images), expected, atol=2e-2)  # TF32 keeps ten bits


def test_the_protocol_measures_a_real_gpu():
    engine = TorchEngine(graph=True)
    images = np.zeros(engine.shape, np.float32)
    found = measure(engine, [images], warmup_ms=100, duration_s=0.5)
    assert found.queries >= 10
    assert found.compute.min_ms > 0
    assert found.compute.min_ms <= found.compute.median_ms <= found.compute.max_ms
    assert found.upload.median_ms > 0
    assert found.download.median_ms > 0
    per_query_ms = found.measured_s * 1e3 / found.queries
    assert found.latency.mean_ms <= per_query_ms  # the parts fit into the time that the host saw
    assert 1e3 / found.queued_images_per_s <= per_query_ms
    assert not isinstance(found.state_before, str) or found.state_before.startswith("unavailable: ")


def test_the_energy_counter_goes_up():
    pytest.importorskip("pynvml")
    engine = TorchEngine(graph=True)
    place = engine.cuda.pci_bus_id()
    before = read_state(place)
    if isinstance(before, str) or before.energy_j is None:
        pytest.skip(f"no energy counter: {before}")
    engine.queued_infer(np.zeros(engine.shape, np.float32), 5000)
    time.sleep(0.3)  # the counter moves in steps
    after = read_state(place)
    assert isinstance(after, GpuState)
    assert after.energy_j is not None
    assert 0 < after.energy_j - before.energy_j < 5000  # joules: no GPU takes more than some kilowatts
