# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole benchmarks: simulated candidates whose speed and accuracy are known, and one real checkpoint."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from yolo_compress.bench import BenchResult, Candidate, run, run_bench
from yolo_compress.bench.gpu_latency import GpuLatency, Spread
from yolo_compress.bench.memory import Memory
from yolo_compress.bench.robustness import Conditions
from yolo_compress.bench.streams import Streams
from yolo_compress.errors import DataError, EngineError, UsageError
from yolo_compress.host.data import labels_for, read_data

MEMORY = Memory(20, 80, 123.5, load_ms=80.0, first_inference_ms=9.0)
SPREAD = Spread(4.0, 4.1, 3.9, 5.0, 0.01, 4.5, None, None)
GPU = GpuLatency(
    90, 7, 3.0, 1, True, *[SPREAD] * 5, 240.0, (4.0, 4.1), ("unstable",), "unavailable: x", "unavailable: x"
)
IMGSZ = 64  # of the square test images, so that letterboxing changes nothing


class FakeSession:
    """Knows the images by their content and answers with their labels, slowly or wrongly if told to."""

    def __init__(self, answers, *, sleep=0.001, mode="right", precision="fp32", most=1, timed=False):
        self.answers, self.sleep, self.mode, self.precision, self.most = answers, sleep, mode, precision, most
        self.calls, self.closed = 0, False
        if timed:  # as a session on a GPU
            self.timed_infer = self.queued_infer = self.infer

    def infer(self, images):
        assert not self.closed
        if len(images) > self.most:
            raise EngineError(f"a batch of {len(images)} was given and the engine holds {self.most}")
        if images.shape[-1] != IMGSZ:
            raise RuntimeError(f"expected {IMGSZ}")
        self.calls += 1
        time.sleep(self.sleep)
        rows = self.answers.get(images[0].tobytes(), ())
        raw = np.zeros((len(images), 7, 8), np.float32)
        if self.mode == "nan":
            return raw * np.nan
        if self.mode == "blind":
            return raw
        for anchor, (cls, *box) in enumerate(rows):
            raw[:, :4, anchor] = np.array(box) * IMGSZ
            raw[:, 4 + (int(cls) + (self.mode == "wrong")) % 3, anchor] = 0.9
        return raw

    def describe(self):
        return {"precision": self.precision, "threads": 1}

    def close(self):
        self.closed = True


class FakeEngine:
    name = "fake"

    def __init__(self, sessions):
        self.sessions, self.loads = sessions, []

    def load(self, path, *, device="cpu", threads=None):
        self.loads.append((path.name, device, threads))
        self.sessions[path.name].closed = False
        return self.sessions[path.name]


@pytest.fixture
def data(tiny_data):
    return read_data(tiny_data)


@pytest.fixture
def bench(data, tmp_path, monkeypatch):
    """Return a function that benchmarks fake sessions given by label; the sessions stay in `bench.sessions`."""
    from yolo_compress.bench.accuracy import to_input
    from yolo_compress.host.data import letterbox, read_image

    answers = {
        to_input(letterbox(read_image(path), IMGSZ)[0])[0].tobytes(): rows
        for path, rows in zip(data.val, labels_for(data.val), strict=True)
    }

    def measure(given, *, memory_reading=MEMORY, imgsz=IMGSZ, **options):
        sessions = {label: FakeSession(answers, **settings) for label, settings in given.items()}
        for label in sessions:
            (tmp_path / label).write_bytes(label.encode() * 10)
        measure.engine, measure.sessions = FakeEngine(sessions), sessions
        monkeypatch.setattr(run, "engine_for", lambda path: measure.engine)
        monkeypatch.setattr(run, "measure_memory", lambda path, **_: memory_reading)
        candidates = [Candidate(label, tmp_path / label, "native", "same") for label in given]
        quick = {"rounds": 8, "warmup": 2, "margin": 0, "patience": 0, "settle_ms": 0, "lead_ms": 0}
        options = {**quick, "progress": lambda line: None, **options}
        return run_bench(candidates, options.pop("data", data), imgsz=imgsz, **options)

    return measure


def test_a_benchmark_measures_everything(bench, data):
    result = bench({"slow": {"sleep": 0.040}, "fast": {"sleep": 0.002}}, threads=1)
    slow, fast = result.rows
    assert (slow.status, fast.status) == ("ok", "ok")
    assert slow.map50_95 == pytest.approx(1)
    assert 0 < fast.latency_ratio_p50 < 0.8  # a sleep lasts at least as long as asked, and longer on a busy machine
    assert fast.latency_ratio_spread[0] <= fast.latency_ratio_p50 <= fast.latency_ratio_spread[1]
    assert fast.latency_ratio_interval is not None
    assert slow.latency_ratio_p50 == 1
    assert slow.latency_ms_p50 >= 40
    assert len(slow.latency_ms_samples) == 8
    assert slow.latency_ms_p90 is None  # eight rounds
    assert 0 < slow.throughput_images_per_s <= 1000 / 40
    assert (slow.peak_memory_mb, slow.load_ms, slow.first_inference_ms) == (123.5, 80.0, 9.0)
    assert slow.size_bytes == 40
    assert slow.postprocess_ms_p50 > 0
    assert slow.params is None  # an engine file does not know it
    assert result.preprocess_ms_p50 > 0
    assert (result.images, result.images_available, result.objects) == (4, 4, 8)
    assert result.settings["rounds"] == 8
    assert "steal_s" in result.machine
    assert BenchResult.from_json(result.to_json()) == result


def test_rounds_are_added_where_ratios_are_not_known(bench):
    """No ratio of two sleeps is known to a millionth."""
    result = bench({"a": {"sleep": 0.003}, "b": {"sleep": 0.002}}, rounds=8, margin=1e-6)
    assert [result.settings[name] for name in ("rounds", "rounds_asked", "loads")] == [32, 8, 16]
    assert [len(row.latency_ms_samples) for row in result.rows] == [32, 32]


@pytest.mark.parametrize(("device", "looked"), [("cpu", True), ("0", False)])
def test_rounds_beside_a_neighbour_are_told(bench, monkeypatch, device, looked):
    class Disturbed:
        waited = 1.26

        def __call__(self):
            return False

    asked = []

    @contextmanager
    def cores(patience, threads):
        asked.append((patience, threads))
        yield Disturbed() if patience else None

    monkeypatch.setattr(run, "undisturbed_cores", cores)
    result = bench({"a": {}, "b": {}}, rounds=8, patience=2.0, threads=3, device=device)
    assert asked == [(2.0 if looked else 0.0, 3)]
    note = "in 8 of 8 rounds other work slowed the cores; run it again on a quiet machine"
    assert [note in row.notes for row in result.rows] == [looked, looked]
    assert result.settings.get("rounds_disturbed") == (8 if looked else None)
    assert result.settings.get("waited_s") == (1.3 if looked else None)
    assert result.settings["patience"] == 2.0


def test_several_streams_are_measured_where_asked_for_and_not_of_what_is_refused(bench, monkeypatch):
    found, asked = Streams(3, 1, 5.0, 150, 30.0, 100.0, None), []

    def measure(path, **given):
        asked.append((path.name, given))
        return "unavailable: no memory" if path.name == "big" else found

    monkeypatch.setattr(run, "measure_streams", measure)
    result = bench({"a": {}, "big": {}, "broken": {"mode": "nan"}}, streams=3, threads=2)
    given = {"imgsz": IMGSZ, "streams": 3, "device": "cpu", "threads": 2}
    assert asked == [("a", given), ("big", given)]
    assert [row.streams for row in result.rows] == [found, None, None]
    assert result.rows[1].notes[-1] == "3 streams unavailable: no memory"
    assert result.settings["streams"] == 3
    assert BenchResult.from_json(result.to_json()) == result
    asked.clear()
    assert bench({"a": {}}).rows[0].streams is None
    assert not asked
    with pytest.raises(UsageError, match="streams=0 is too small; give at least 1"):
        bench({"a": {}}, streams=0)


def test_a_session_on_a_gpu_tells_more(bench, monkeypatch):
    asked = []

    def measure(session, inputs):
        asked.append((session, len(inputs), inputs[0].shape))
        return GPU

    monkeypatch.setattr(run.gpu_latency, "measure", measure)
    lines = []
    result = bench({"cpu": {}, "gpu": {"timed": True}, "broken": {"timed": True, "mode": "nan"}}, progress=lines.append)
    assert [row.gpu for row in result.rows] == [None, GPU, None]
    assert asked == [(bench.sessions["gpu"], 4, (1, 3, IMGSZ, IMGSZ))]
    assert "bench: GPU time of gpu" in lines
    assert result.rows[1].latency_ratio_p50 > 0  # beside what every candidate gets
    assert BenchResult.from_json(result.to_json()) == result


def test_accuracy_and_latency_come_from_the_same_file_in_the_same_settings(bench):
    bench({"a": {}, "b": {}}, rounds=8, warmup=2, threads=3, device="cpu")
    a, b = ("a", "cpu", 3), ("b", "cpu", 3)
    assert bench.engine.loads == [a, b, b, a, a, b, b, a]  # the last one first in every other turn
    for session in bench.sessions.values():
        assert session.calls >= 4 + 8 + 2  # images, rounds, warm-up
        assert session.closed


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("nan", "the output holds NaN or infinity on 4 images"),
        ("blind", "nothing is detected on any image"),
        ("wrong", "mAP50-95 of 0.0 is below 0.5 of the 100.0 that good reaches with the same weights"),
    ],
)
def test_a_broken_candidate_gets_no_latency(bench, mode, reason):
    result = bench({"good": {}, "broken": {"mode": mode, "precision": "int8"}})
    good, broken = result.rows
    assert good.status == "ok"
    assert (broken.status, broken.reason) == ("refused", reason)
    for name in ("latency_ms_p50", "latency_ratio_p50", "throughput_images_per_s", "peak_memory_mb"):
        assert getattr(broken, name) is None, name
    assert broken.latency_ms_samples == ()
    assert bench.sessions["broken"].calls == 1 + 4  # tried out, and accuracy
    json.loads(result.to_json())


def test_without_the_first_candidate_there_are_no_ratios(bench):
    result = bench({"broken": {"mode": "blind"}, "good": {}})
    good = result.rows[1]
    assert good.latency_ms_p50 > 0
    assert good.latency_ratio_p50 is None
    assert good.notes == ("no latency ratio: the first candidate, broken, is refused",)


def test_when_all_are_broken_nothing_is_timed(bench):
    result = bench({"a": {"mode": "nan"}, "b": {"mode": "blind"}})
    assert [row.status for row in result.rows] == ["refused", "refused"]
    assert result.preprocess_ms_p50 is None


def test_accuracy_comes_with_its_interval_and_its_errors(bench):
    result = bench({"good": {}, "wrong": {"mode": "wrong"}, "again": {}})
    good, wrong, again = result.rows
    assert good.map50_95_difference is None
    assert wrong.map50_95_difference == pytest.approx(-1)
    assert wrong.map50_95_difference_interval == pytest.approx((-1, -1))
    assert wrong.map50_95_difference_below_zero == 1
    assert (again.map50_95_difference, again.map50_95_difference_interval) == (0, (0, 0))
    assert good.error_gains == pytest.approx((0,) * 6)
    assert good.error_counts == (0,) * 6
    assert wrong.error_gains[1] == pytest.approx(1)  # every box has the wrong class and nothing else is wrong
    assert wrong.error_counts == (0, 8, 0, 0, 0, 0)
    assert result.settings["bootstrap_resamples"] == 1000


def test_robustness_is_measured_where_it_is_asked_for(bench):
    conditions = Conditions(("gaussian_noise", "jpeg"), (1, 3), 3)
    result = bench({"good": {}, "broken": {"mode": "nan"}}, robustness=conditions)
    good, broken = result.rows
    assert good.clean_map50_95 == pytest.approx(1)
    assert good.corruption_drops == (("gaussian_noise", 1.0), ("jpeg", 1.0))  # it knows images by their bytes
    assert len(good.corrupted_map50_95) == 4
    assert (broken.clean_map50_95, broken.corruption_drops) == (None, ())
    assert bench.sessions["good"].calls >= 1 + 4 + 3 * 5
    assert result.settings["robustness_images"] == 3
    assert BenchResult.from_json(result.to_json()) == result


def test_without_robustness_nothing_is_corrupted(bench, monkeypatch):
    monkeypatch.setattr(run, "under_corruption", None)
    result = bench({"good": {}})
    assert (result.rows[0].clean_map50_95, result.rows[0].corrupted_map50_95) == (None, ())
    assert "robustness_images" not in result.settings


def test_a_larger_batch_is_measured_where_the_engine_takes_it(bench):
    fixed, dynamic = bench({"fixed": {}, "dynamic": {"most": 4, "sleep": 0.01}}, batch=4).rows
    assert dynamic.batch_throughput_images_per_s > dynamic.throughput_images_per_s
    assert fixed.batch_throughput_images_per_s is None
    assert fixed.notes[-1].startswith("throughput at batch 4 unavailable: a batch of 4 was given")


def test_an_engine_of_another_size_is_told_before_anything_is_measured(bench):
    with pytest.raises(EngineError, match=r"a' does not take an image of 96 x 96 \(expected 64\); give the imgsz="):
        bench({"a": {}}, imgsz=96)
    assert bench.sessions["a"].closed


def test_sessions_are_closed_when_something_fails(bench, data):
    data.val[2].write_bytes(b"")
    with pytest.raises(DataError, match=data.val[2].name):
        bench({"a": {}, "b": {}})
    assert all(session.closed for session in bench.sessions.values())


def test_energy_is_measured_after_the_timed_rounds_and_only_when_asked(bench, monkeypatch):
    asked = []

    def measured(rows, infer, inputs, *, device, seconds, progress):
        infer[0](inputs[0])  # the sessions are still open
        asked.append((device, seconds, rows[0].latency_ms_p50 > 0, inputs[0].shape))
        return [replace(row, energy="unavailable: played") for row in rows], ("energy unavailable: played",)

    monkeypatch.setattr(run, "measure_energies", measured)
    off = bench({"a": {}})
    assert asked == []
    assert off.rows[0].energy is None
    assert not any(note.startswith("energy") for note in off.notes)
    assert "power_seconds" not in off.settings
    on = bench({"a": {}}, power=True, power_seconds=4)
    assert asked == [("cpu", 4, True, (1, 3, IMGSZ, IMGSZ))]
    assert on.rows[0].energy == "unavailable: played"
    assert on.notes == (*off.notes, "energy unavailable: played")
    assert on.settings["power_seconds"] == 4
    for seconds in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="is no length of time; give 30 or more"):
            bench({"a": {}}, power=True, power_seconds=seconds)


def test_memory_that_cannot_be_read_leaves_a_note(bench):
    (row,) = bench({"a": {}}, memory_reading=Memory(None, None, None, "unavailable: no such thing here")).rows
    assert row.peak_memory_mb is None
    assert row.notes[-1] == "peak memory unavailable: no such thing here"


def test_progress_tells_the_steps(bench):
    lines = []
    bench({"a": {}, "b": {"mode": "blind"}}, progress=lines.append)
    text = "\n".join(lines)
    for part in (
        "loading a",
        "accuracy of 2 candidates on 4 images",
        "a: mAP50-95 100.00",
        "nothing is detected",
        "memory of a",
    ):
        assert part in text
    assert "memory of b" not in text


def test_images_are_spaced_evenly(bench, data):
    result = bench({"a": {}}, images=2)
    assert (result.images, result.images_available) == (2, 4)
    assert run.evenly(list(range(10)), 4) == (0, 2, 5, 7)
    assert run.evenly(list(range(3)), 9) == (0, 1, 2)


def test_a_data_set_without_val_images_is_refused(bench, data):
    empty = type(data)(data.path, data.names, data.train, ())
    with pytest.raises(DataError, match="has no val images, and accuracy cannot be measured without; add val: FOLDER"):
        bench({"a": {}}, data=empty)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 2}, "rounds=2 is too small; give at least 3"),
        ({"warmup": -1}, "warmup=-1 is too small; give at least 0"),
        ({"images": 0}, "images=0 is too small; give at least 1"),
        ({"batch": 0}, "batch=0 is too small; give at least 1"),
        ({"patience": -1}, "patience=-1 is no share of the time; give 1, or 0 not to wait for quiet"),
        ({"margin": -0.1}, "margin=-0.1 is no share of a ratio; give 0.01, or 0 to add no rounds"),
        ({"min_accuracy_share": 1.5}, "min_accuracy_share=1.5 is not a share; give a number from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(bench, options, message):
    with pytest.raises(UsageError, match=message):
        bench({"a": {}}, **options)


def test_candidates_must_exist_and_differ(data):
    with pytest.raises(UsageError, match="no candidates are given"):
        run_bench([], data, imgsz=IMGSZ)
    twice = [Candidate("a", Path("x.pt")), Candidate("a", Path("y.pt"))]
    with pytest.raises(UsageError, match="two candidates are labelled 'a'"):
        run_bench(twice, data, imgsz=IMGSZ)


def test_a_real_checkpoint_has_parameters_and_operations(make_checkpoint, data):
    path = make_checkpoint()
    result = run_bench(
        [Candidate("tiny", path)],
        data,
        imgsz=IMGSZ,
        rounds=3,
        warmup=1,
        threads=1,
        memory=False,
        progress=lambda line: None,
    )
    (row,) = result.rows
    assert (row.engine, row.precision) == ("pytorch", "fp32")
    assert row.params > 10_000
    assert row.gflops > 0
    assert row.status in {"ok", "refused"}  # random weights may well detect nothing
    assert row.path == str(path)
    assert result.names == data.names
