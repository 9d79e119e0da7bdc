# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""GPU latency: the protocol on a simulated clock, its statistics against numpy, its warnings on series made by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.bench.samples import result, row
from yolo_compress.bench import BenchResult, gpu_latency
from yolo_compress.bench.gpu_latency import GpuLatency, measure, spread, warnings
from yolo_compress.bench.gpu_state import GpuState
from yolo_compress.bench.latency import SAMPLES_FOR
from yolo_compress.engines.timed import QueryTimes
from yolo_compress.errors import DataError, UsageError
from yolo_compress.report import content
from yolo_compress.report.html import page
from yolo_compress.report.markdown import document

COOL = GpuState((), 1980, 41, 1000.5)


class Simulated:
    """A session whose queries take what they are told to; the clock moves with them."""

    def __init__(self, *, enqueue=0.1, compute=4.0, upload=0.3, download=0.2, step_s=0.010, graph=True):
        self.parts = {"enqueue": enqueue, "compute": compute, "upload": upload, "download": download}
        self.step_s, self.graph, self.now = step_s, graph, 100.0
        self.seen, self.starts, self.queued, self.events = [], [], [], []

    def timed_infer(self, images):
        self.seen.append(images)
        self.starts.append(self.now)
        self.events.append("query")
        self.now += self.step_s
        count = len(self.seen) - 2  # of those after the one that prepares
        return QueryTimes(
            *(
                value(count) if callable(value) else value
                for value in (self.parts[key] for key in ("enqueue", "compute", "upload", "download"))
            )
        )

    def queued_infer(self, images, queries):
        self.queued.append(queries)
        self.events.append("queued")
        return 0.004 * queries

    def describe(self):
        return {"pci_bus_id": "0000:0a:00.0", "graph": self.graph}

    def clock(self):
        return self.now


def run(session, *, inputs=None, state=lambda place: COOL, **options):
    inputs = [np.full((1, 3, 2, 2), number, np.float32) for number in range(3)] if inputs is None else inputs
    return measure(session, inputs, state=state, clock=session.clock, **options)


def test_queries_that_start_in_the_warm_up_do_not_count():
    session = Simulated(compute=lambda count: 100.0 if count < 20 else 4.0)
    found = run(session, warmup_ms=200, duration_s=0.5)
    # 10 ms each: the query at 200 ms is the 21st
    assert found.queries_warmup == 20
    assert found.queries == 50
    assert found.compute.max_ms == 4.0
    assert found.measured_s == pytest.approx(0.5)
    assert (found.warmup_ms, found.duration_s) == (200, 0.5)


def test_at_least_so_many_queries_are_made_however_slow():
    found = run(Simulated(step_s=1.0), warmup_ms=200, duration_s=0.5, least_queries=10)
    assert (found.queries, found.queries_warmup) == (10, 1)
    found = run(Simulated(), warmup_ms=0, duration_s=0.0, least_queries=3)
    assert (found.queries, found.queries_warmup) == (3, 0)


def test_inputs_are_used_in_turn_after_one_query_that_prepares():
    session = Simulated()
    run(session, warmup_ms=0, duration_s=0, least_queries=5)
    assert [int(images[0, 0, 0, 0]) for images in session.seen] == [0, 0, 1, 2, 0, 1]
    assert session.starts[0] == session.starts[1] - session.step_s


def test_the_sum_is_taken_query_by_query():
    session = Simulated(upload=lambda count: count % 2, download=lambda count: 1 - count % 2)
    found = run(session, warmup_ms=0, duration_s=0, least_queries=10)
    assert found.latency.variation == pytest.approx(0)
    assert found.latency.median_ms == 5.0
    assert found.upload.median_ms == 0.5
    assert found.compute_ms_samples == (4.0,) * 10


def test_throughput_comes_from_queued_queries_and_counts_images():
    session = Simulated(compute=4.0)
    found = run(session, inputs=[np.zeros((8, 3, 2, 2), np.float32)], warmup_ms=0, duration_s=0)
    assert session.queued == [250]  # a second of work
    assert session.events[-1] == "queued"
    assert found.batch == 8
    assert found.queued_images_per_s == pytest.approx(8 / 0.004)
    fast = Simulated(compute=1e-6)
    run(fast, warmup_ms=0, duration_s=0)
    assert fast.queued == [gpu_latency.MOST_QUEUED]


def test_the_gpu_is_read_before_and_right_after():
    session, places = Simulated(), []

    def state(place):
        session.events.append("state")
        places.append(place)
        return dataclasses.replace(COOL, slowed_by=() if len(places) == 1 else ("heat (hardware)", "the power limit"))

    found = run(session, state=state, warmup_ms=0, duration_s=0, least_queries=2)
    assert places == ["0000:0a:00.0"] * 2
    assert session.events == ["query", "state", "query", "query", "state", "queued"]
    assert found.state_before["slowed_by"] == []
    assert found.state_before["sm_clock_mhz"] == 1980
    assert found.warnings == ("throttled: the driver held clocks down for heat (hardware), the power limit",)


def test_what_cannot_be_read_is_said_and_is_no_warning():
    found = run(Simulated(), state=lambda place: "unavailable: no NVML", warmup_ms=0, duration_s=0)
    assert (found.state_before, found.state_after, found.warnings) == ("unavailable: no NVML",) * 2 + ((),)


@pytest.mark.parametrize(
    "options", [{"inputs": []}, {"least_queries": 0}, {"warmup_ms": -1}, {"duration_s": -0.1}], ids=str
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match="give at least one input and one query, and no negative time"):
        run(Simulated(), **options)


# statistics, against numpy

SERIES = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=700).map(np.array)


@settings(deadline=None, max_examples=50)
@given(SERIES)
def test_a_spread_is_what_numpy_says(values):
    found = spread(values)
    assert found.median_ms == pytest.approx(np.percentile(values, 50))
    assert (found.min_ms, found.max_ms) == (values.min(), values.max())
    assert found.mean_ms == pytest.approx(np.mean(values))
    assert found.variation == pytest.approx(np.sqrt(np.mean((values - values.mean()) ** 2)) / np.mean(values), abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 1400), st.integers(0, 99))
def test_percentiles_are_numpys_and_come_from_enough_samples(count, seed):
    values = np.random.default_rng(seed).uniform(1, 9, count)
    found = spread(values)
    for percent, least in SAMPLES_FOR.items():
        told = getattr(found, f"p{percent}_ms")
        if count < least:
            assert told is None
        else:
            # trtexec takes sorted[n - 1 - floor((1 - p) n)], which is the same sample
            assert told == pytest.approx(np.percentile(values, percent, method="inverted_cdf"))
            assert told == pytest.approx(np.sort(values)[count - 1 - (100 - percent) * count // 100])


def test_a_constant_does_not_vary():
    assert spread(np.full(5, 3.0)).variation == 0
    assert spread(np.zeros(5)).variation == 0


# warnings


def told(*, enqueue=(0.1,), compute=(4.0,), upload=(0.3,), download=(0.2,), graph=True):
    parts = {"enqueue": enqueue, "compute": compute, "upload": upload, "download": download}
    return warnings(**{name: spread(np.array(series)) for name, series in parts.items()}, graph=graph)


def test_a_good_run_is_not_warned_of():
    assert told() == ()


def test_enqueue_bound_is_judged_by_medians_and_above_the_bound_only():
    assert told(enqueue=(3.2,)) == ()  # 0.8 of 4.0 exactly
    assert told(enqueue=(0.1, 0.1, 99.0)) == ()
    (warning,) = told(enqueue=(3.21,))
    assert warning == (
        "enqueue-bound: queueing takes 3.210 ms of host time and the work 4.000 ms (medians), so the GPU waits for the "
        "host; a larger batch would help"
    )
    assert "a CUDA graph would help" in told(enqueue=(3.21,), graph=False)[0]


def test_transfer_bound_is_said_of_each_way_from_equality_on():
    assert told(upload=(3.99,), download=(3.99,)) == ()
    up, down = told(upload=(4.0,), download=(5.0,))
    assert up == ("transfer-bound: copying the inputs to the GPU takes 4.000 ms and the work 4.000 ms (medians)")
    assert down.startswith("transfer-bound: copying the outputs from the GPU takes 5.000 ms")


def test_unstable_clocks_are_told_by_the_variation_of_compute_alone():
    # two values a and b vary by |a - b| / (a + b): 2.5 % of 4.0 and 4.0 * 1.025 / 0.975
    assert told(compute=(4.0, 4.0 * 1.0249 / 0.9751)) == ()
    (warning,) = told(compute=(4.0, 4.0 * 1.0251 / 0.9749))
    assert warning == (
        "unstable: GPU compute varies by 2.5 % of its mean, over 2.5 %; lock the clocks and measure again"
    )
    assert told(enqueue=(0.1, 0.9), upload=(0.1, 0.9)) == ()


# in a result and a report


def measured(**options) -> GpuLatency:
    return run(Simulated(**options), warmup_ms=20, duration_s=0.7)


def test_it_survives_json_as_part_of_a_result():
    given_result = result(row("cpu"), row("gpu", gpu=measured(enqueue=4.0)))
    text = given_result.to_json()
    assert BenchResult.from_json(text) == given_result
    assert json.loads(text)["rows"][1]["gpu"]["compute"]["median_ms"] == 4.0


def test_files_of_before_there_was_any_are_read():
    tree = json.loads(result(row("a")).to_json())
    del tree["rows"][0]["gpu"]
    assert BenchResult.from_json(json.dumps(tree)) == result(row("a"))


@pytest.mark.parametrize("broken", [{"queries": 3}, {**dataclasses.asdict(measured()), "compute": {"median": 1}}])
def test_a_damaged_part_is_no_result(broken):
    tree = json.loads(result(row("a")).to_json())
    tree["rows"][0]["gpu"] = broken
    with pytest.raises(DataError, match=r"bench.json' is not the result of a benchmark"):
        BenchResult.from_json(json.dumps(tree))


def test_the_report_shows_it_where_it_is_and_nothing_where_it_is_not():
    with_gpu = result(row("cpu"), row("gpu", gpu=measured(enqueue=4.0))).to_dict()
    table = content.gpu_table(with_gpu)
    (line,) = table.rows
    assert len(line) == len(table.header)
    assert line == ("gpu", "4.000", "-", "-", "0.0", "4.000", "0.300", "0.200", "4.500", "250.0", "70", "yes")
    text = document(with_gpu)
    assert "## GPU" in text
    assert "* gpu: enqueue-bound: queueing takes 4.000 ms" in text
    assert "over 0.7 s after 20 ms of warm-up" in text
    assert "<h2>GPU</h2>" in page(with_gpu, None, {})
    without = result(row("cpu")).to_dict()
    assert "<h2>GPU</h2>" not in page(without, None, {})
    assert content.gpu_table(without) is None
    assert "GPU" not in document(without)


def test_percentiles_stand_in_the_report_from_enough_queries():
    found = run(Simulated(), warmup_ms=0, duration_s=0, least_queries=130)
    (line,) = content.gpu_table(result(row("gpu", gpu=found)).to_dict()).rows
    assert line[2:4] == ("4.000", "-")
