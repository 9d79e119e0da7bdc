# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Several streams at once, over sessions that only sleep, and over a real artifact in a process of its own."""

from __future__ import annotations

import subprocess
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_compress.bench import streams
from yolo_compress.bench.streams import Streams, measure_streams, run_together, share
from yolo_compress.errors import EngineError

IMAGE = np.zeros((1, 3, 4, 4), np.float32)


class Sleeper:
    """Takes a while and tells which threads have used it; a device that all of them share serves them in turn."""

    def __init__(self, seconds=0.01, device=None, fails_at=None):
        self.seconds, self.device, self.fails_at = seconds, device, fails_at
        self.threads, self.calls, self.closed = {threading.get_ident()}, 0, False

    def infer(self, images):
        self.threads.add(threading.get_ident())
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("out of\n  device memory")
        time.sleep(self.seconds if self.device is None else self.device.wait(self.seconds))

    def close(self):
        self.closed = True


class Device:
    """Serves one after the other in the order of asking, which a lock does not: who gives it back may take it again."""

    def __init__(self):
        self.lock, self.free = threading.Lock(), 0.0

    def wait(self, seconds):
        with self.lock:
            self.free = max(self.free, time.perf_counter()) + seconds
            return max(self.free - time.perf_counter(), 0)


def together(make, count, seconds=0.5):
    made = []

    def load():
        made.append(make())
        return made[-1]

    return run_together(load, IMAGE, streams=count, seconds=seconds, threads=2), made


def test_streams_that_do_not_hinder_each_other_add_up():
    one, _ = together(Sleeper, 1)
    four, made = together(Sleeper, 4)
    assert (four.count, four.threads, len(made)) == (4, 2, 4)
    assert four.images == sum(session.calls - streams.WARMUP for session in made)
    assert four.images_per_s == pytest.approx(4 * one.images_per_s, rel=0.25)
    assert four.latency_ms_p50 == pytest.approx(one.latency_ms_p50, rel=0.25)
    assert four.seconds >= 0.5
    assert all(session.closed and len(session.threads) == 1 for session in made)  # loaded where it is used
    assert len({thread for session in made for thread in session.threads}) == 4


def test_streams_that_wait_for_each_other_are_slower_and_no_more():
    device = Device()
    one, _ = together(lambda: Sleeper(device=device), 1)
    three, _ = together(lambda: Sleeper(device=device), 3, seconds=1)
    assert three.images_per_s == pytest.approx(one.images_per_s, rel=0.35)
    assert three.latency_ms_p50 > 1.5 * one.latency_ms_p50


def test_percentiles_follow_the_rule_of_samples():
    few, _ = together(lambda: Sleeper(0.02), 1, seconds=0.2)
    many, _ = together(lambda: Sleeper(0.001), 2, seconds=0.5)
    assert few.latency_ms_p95 is None
    assert many.latency_ms_p95 >= many.latency_ms_p50


@pytest.mark.parametrize("fails_at", [1, streams.WARMUP + 5])
def test_a_stream_that_fails_is_told_and_the_others_end(fails_at):
    made = []

    def load():
        made.append(Sleeper(fails_at=fails_at if not made else None))
        return made[-1]

    with pytest.raises(EngineError, match="one of 3 streams failed: out of device memory; ask for fewer streams"):
        run_together(load, IMAGE, streams=3, seconds=0.3, threads=1)
    assert all(session.closed for session in made)
    assert threading.active_count() < 10


def test_a_session_that_cannot_be_made_is_told():
    def load():
        raise EngineError("no such device")

    with pytest.raises(EngineError, match="one of 2 streams failed: no such device"):
        run_together(load, IMAGE, streams=2, seconds=0.1, threads=1)


@given(st.integers(1, 256), st.integers(1, 64))
def test_threads_are_shared_out(threads, count):
    each = share(threads, count)
    assert each >= 1
    assert each == 1 or each * count <= threads < (each + 1) * count


def test_a_real_artifact_runs_in_a_process_of_its_own(make_checkpoint):
    found = measure_streams(make_checkpoint(), imgsz=64, streams=2, threads=2, seconds=0.5)
    assert isinstance(found, Streams), found
    assert (found.count, found.threads) == (2, 1)
    assert found.images_per_s == pytest.approx(found.images / found.seconds, rel=0.2)
    assert 0 < found.latency_ms_p50 < 500


def test_an_artifact_that_cannot_be_loaded_says_why(tmp_path):
    found = measure_streams(tmp_path / "missing.onnx", imgsz=64, streams=2, threads=2)
    assert found.startswith("unavailable: the measuring process failed (")
    assert "missing.onnx" in found


def test_the_child_is_told_how_many_threads_a_stream_has(monkeypatch, tmp_path):
    seen = {}

    def run(command, **given):
        seen.update(command=command, threads=given["env"]["OMP_NUM_THREADS"])
        return subprocess.CompletedProcess(command, 1, "", "stop")

    monkeypatch.setattr(subprocess, "run", run)
    measure_streams(tmp_path / "a.onnx", imgsz=64, streams=3, threads=8)
    assert seen["threads"] == "2"
    assert seen["command"][-3:] == ["2", "3", "5.0"]
