# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Energy from readings of signals whose integral is known, and from sensors that fail."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, trapezoid

from yolo_compress.bench.power.meter import EnergyMeter, NotMeasured, Samples, integrate, window
from yolo_compress.bench.throttle import ThrottleWatch

SIGNALS = {
    "constant": lambda t: 7.5 + 0 * t,
    "ramp": lambda t: 3 + 2 * t,
    "sine": lambda t: 10 + 4 * np.sin(2 * np.pi * t / 3),
}


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize(("begin", "end"), [(0.0, 30.0), (0.013, 29.987), (2.71, 3.14), (5.0, 5.01)])
def test_signals_with_a_known_integral(name, begin, end):
    signal = SIGNALS[name]
    times = np.arange(0, 30.001, 0.05)  # 20 readings a second
    exact, _ = quad(signal, begin, end, limit=400)
    tolerance = (
        1e-9 if name != "sine" else (2 * math.pi / 3) ** 2 * 4 * 0.05**2 / 8
    )  # of the trapezium rule, per second
    assert integrate(times, signal(times), begin, end) == pytest.approx(exact, abs=tolerance * (end - begin) + 1e-9)


@given(
    st.lists(st.floats(0.001, 2), min_size=2, max_size=40),
    st.floats(-5, 5),
    st.floats(-50, 50),
    st.floats(0, 1),
    st.floats(0, 1),
)
@settings(deadline=None)
def test_a_ramp_is_exact_however_it_is_sampled(steps, slope, level, first, second):
    times = np.cumsum(steps)
    begin, end = sorted(times[0] + share * (times[-1] - times[0]) for share in (first, second))
    exact = level * (end - begin) + slope * (end**2 - begin**2) / 2
    assert integrate(times, level + slope * times, begin, end) == pytest.approx(exact, abs=1e-6)


@given(st.lists(st.tuples(st.floats(0.001, 2), st.floats(0, 100)), min_size=3, max_size=40), st.floats(0, 1))
@settings(deadline=None)
def test_parts_add_up_to_the_whole_which_is_scipys(readings, share):
    times, watts = np.cumsum([step for step, _ in readings]), np.array([value for _, value in readings])
    begin, end = times[0], times[-1]
    middle = begin + share * (end - begin)
    whole = integrate(times, watts, begin, end)
    assert whole == pytest.approx(trapezoid(watts, times))
    parts = integrate(times, watts, begin, middle) + integrate(times, watts, middle, end)
    assert parts == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_counter_of_the_same_signal_gives_the_same(name):
    signal = SIGNALS[name]
    times = np.arange(0, 10.001, 0.05)
    joules = np.array([quad(signal, 0, moment)[0] for moment in times])
    counted = window(Samples(list(times), list(joules)), 1.0, 9.0, counts=True)
    powered = window(Samples(list(times), list(signal(times))), 1.0, 9.0, counts=False)
    assert counted.joules == pytest.approx(quad(signal, 1, 9)[0], rel=1e-4)
    assert powered.joules == pytest.approx(counted.joules, rel=1e-3)
    assert counted.rate_hz == pytest.approx(20)
    assert counted.watts == pytest.approx(counted.joules / 8)


def test_power_is_held_where_readings_do_not_reach():
    assert integrate(np.array([1.0, 2.0]), np.array([4.0, 6.0]), 0.0, 3.0) == pytest.approx(4 + 5 + 6)


class Bench:
    """A sensor on a machine that takes `idle` watts, and `busy` watts from its first piece of work on."""

    name, measures, counts, period_s = "bench", "a machine that is played", False, 0.01

    def __init__(self, *, idle=5.0, busy=15.0, counts=False, fails=lambda read: False, period_s=0.01):
        self.idle, self.busy, self.counts, self.fails, self.period_s = idle, busy, counts, fails, period_s
        self.working, self.reads, self.started, self.joules = False, 0, time.perf_counter(), 0.0
        self.threads = set()
        self.lock = threading.Lock()

    def work(self):
        with self.lock:
            self._count()
            self.working = True
        time.sleep(0.005)
        return 2

    def _count(self):
        now = time.perf_counter()
        self.joules += (self.busy if self.working else self.idle) * (now - self.started)
        self.started = now

    def read(self):
        self.threads.add(threading.get_ident())
        self.reads += 1
        if self.fails(self.reads):
            raise OSError("Input/output error: curr1_input")
        with self.lock:
            self._count()
            return self.joules if self.counts else self.busy if self.working else self.idle

    def signs(self):
        return ("slow",) if self.working else ()

    def settings(self):
        return {"rails_found": "A, B"}


def measure(bench, tmp_path, *, seconds=0.2, idle_seconds=0.1, **options):
    meter = EnergyMeter(bench, rate_hz=200, watch=lambda: ThrottleWatch(tmp_path), **options)
    return meter.measure(bench.work, seconds=seconds, idle_seconds=idle_seconds)


@pytest.mark.parametrize(("counts", "tolerance"), [(False, 1e-9), (True, 0.15)])
def test_gross_net_and_per_image(tmp_path, counts, tolerance):
    bench = Bench(counts=counts)
    found = measure(bench, tmp_path)
    assert found.seconds >= 0.2
    assert found.gross_j == pytest.approx(15 * found.seconds, rel=tolerance)
    assert found.net_j == pytest.approx(10 * found.seconds, rel=3 * tolerance)
    assert found.mean_w == pytest.approx(15, rel=tolerance)
    assert found.idle_w == pytest.approx(5, rel=3 * tolerance)
    assert found.images % 2 == 0
    assert found.gross_j_per_image == found.gross_j / found.images
    assert found.net_j_per_image == found.net_j / found.images
    assert found.idle_seconds >= 0.1
    assert found.samples >= 3
    assert 0 < found.rate_hz < 250
    assert (found.failed_reads, found.sensor, found.measures) == (0, "bench", "a machine that is played")
    assert found.settings == {"rails_found": "A, B"}
    assert threading.get_ident() not in bench.threads  # the work is not held up by readings


def test_the_last_moment_is_covered_by_a_reading(tmp_path):
    """The work ends while a reading is under way, which tells of the time before; one more has to follow."""
    bench, second, begun = Bench(), threading.Event(), []
    read = bench.read

    def slow_read():
        begun.append(time.perf_counter())
        if len(begun) == 2:
            second.set()
            time.sleep(0.05)
        return read()

    bench.read = slow_read
    ended = []
    found = EnergyMeter(bench, rate_hz=1000)._window(lambda: (second.wait(5), ended.append(time.perf_counter())))
    assert len(begun) == found.samples == 3
    assert begun[0] < begun[1] < ended[0] < begun[2]


def test_a_short_run_is_noted_against_30_s_or_the_sensors_period(tmp_path):
    short = measure(Bench(), tmp_path)
    assert not short.long_enough
    assert short.notes[0].endswith(" s; at least 30 s are recommended for this sensor")
    slow = measure(Bench(period_s=0.43), tmp_path)
    assert slow.notes[0].endswith("at least 43 s are recommended for this sensor")
    assert measure(Bench(period_s=None), tmp_path).sensor_period_s is None


def test_a_long_run_is_not_noted(tmp_path, monkeypatch):
    monkeypatch.setattr("yolo_compress.bench.power.meter.LEAST_S", 0.1)
    found = measure(Bench(period_s=0.001), tmp_path)
    assert found.long_enough
    assert found.notes == ()


def test_an_idle_machine_that_took_more_is_noted_and_not_hidden(tmp_path):
    found = measure(Bench(idle=20, busy=15), tmp_path)
    assert found.net_j < 0
    assert found.notes[-1] == "net energy is below 0: the machine took more power before, idle, than while it ran"


def test_a_few_failed_reads_are_counted(tmp_path):
    found = measure(Bench(fails=lambda read: read % 15 == 0), tmp_path, seconds=0.4)
    assert found.failed_reads >= 1
    assert found.gross_j == pytest.approx(15 * found.seconds)
    assert any("reads failed: Input/output error: curr1_input" in note for note in found.notes)


def test_a_sensor_that_fails_often_gives_nothing(tmp_path):
    with pytest.raises(NotMeasured, match=r"\d+ of \d+ reads failed: Input/output error: curr1_input"):
        measure(Bench(fails=lambda read: read % 3 == 0), tmp_path)
    with pytest.raises(NotMeasured, match="reads failed"):
        measure(Bench(fails=lambda read: True), tmp_path)


def test_one_reading_is_no_energy():
    with pytest.raises(NotMeasured, match="0 of 1 reads failed, at least 2 are needed"):
        window(Samples([1.0], [2.0]), 0, 1, counts=False)


def test_work_is_done_once_even_in_no_time(tmp_path):
    bench = Bench()
    assert measure(bench, tmp_path, seconds=0, idle_seconds=0.02).images == 2


def test_what_fails_in_the_work_stops_the_reading(tmp_path):
    bench = Bench()

    def work():
        raise RuntimeError("out of memory")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        EnergyMeter(bench).measure(work, seconds=0.1, idle_seconds=0.01)
    assert threading.active_count() == before


def test_signs_of_sensor_and_machine_are_kept(tmp_path):
    counter = tmp_path / "sys/class/hwmon/hwmon3/oc3_event_cnt"
    counter.parent.mkdir(parents=True)
    counter.write_text("4\n")
    bench, watches = Bench(), []

    def watch():
        watches.append(ThrottleWatch(tmp_path))
        return watches[0]

    def heavy():
        if watches:
            counter.write_text("6\n")
        return bench.work()

    found = EnergyMeter(bench, rate_hz=200, watch=watch).measure(heavy, seconds=0.2, idle_seconds=0.05)
    assert found.throttled[0] == "over-current event of oc3 counted 2 times"
    assert found.throttled[1].startswith("slow, in ")
    assert found.throttle_watched == ("over-current event",)
