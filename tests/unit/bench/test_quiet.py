# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Waiting for undisturbed cores: on a simulated clock, and what is read on this machine's own cores."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bench.test_latency import Machine
from yolo_compress.bench import quiet
from yolo_compress.bench.quiet import (
    FIRST_PAUSE_S,
    GRACE_S,
    LONGEST_PAUSE_S,
    SLICE_S,
    SLICES,
    CoreProbe,
    Gate,
    slowdown,
    undisturbed_cores,
)


def gate(machine, busy, patience=1.0):
    """Make a gate on a machine whose neighbour is busy at the moments that `busy` says."""
    return Gate(lambda: 2.5 if busy(machine.now) else 1.04, patience=patience, watch=machine.watch)


def test_nothing_is_waited_for_on_a_quiet_machine():
    machine = Machine()
    waits = gate(machine, lambda now: False)
    assert waits()
    assert machine.paused == waits.waited == 0


def test_the_end_of_a_disturbance_is_waited_for():
    machine = Machine()
    waits = gate(machine, lambda now: now < 3)
    assert waits()
    assert 3 <= machine.now <= 3 + LONGEST_PAUSE_S
    assert waits.waited == pytest.approx(machine.paused)


def test_a_short_disturbance_costs_little():
    machine = Machine()
    assert gate(machine, lambda now: now < 0.004)()
    assert machine.now == pytest.approx(FIRST_PAUSE_S)


@given(
    st.floats(0.05, 3),
    st.lists(st.floats(0.001, 2), min_size=1, max_size=60),
)
def test_waiting_is_bounded_by_what_passes_otherwise(patience, turns):
    """The neighbour never stops."""
    machine = Machine()
    waits, worked = gate(machine, lambda now: True, patience), 0.0
    for seconds in turns:
        assert not waits()
        assert waits.waited <= GRACE_S + patience * worked + LONGEST_PAUSE_S + 1e-9
        assert waits.waited >= GRACE_S + patience * worked - 1e-9  # no patience is left over
        machine.now += seconds
        worked += seconds
    assert machine.now == pytest.approx(worked + waits.waited)


def test_a_reading_is_of_as_many_cores_as_compute():
    least = np.array([1.0, 2.0, 4.0, 1.0])
    seconds = least[:, None] * np.array([[3.0] * SLICES, [1.0] * SLICES, [1.1] * SLICES, [2.0] * SLICES])
    assert [slowdown(seconds, least, needed) for needed in (1, 2, 3, 4)] == pytest.approx([1.0, 1.1, 2.0, 3.0])


def test_single_interrupts_do_not_count():
    seconds = np.ones((2, SLICES))
    seconds[:, :4] = 50.0
    assert slowdown(seconds, np.ones(2), 2) == 1.0


def test_a_core_is_held_to_the_least_that_it_ever_took(monkeypatch):
    """The first readings are of busy cores, one of which is slower than the other even when it is free."""
    readings = iter([[2.0, 4.0]] * 2 + [[2.0, 8.0], [1.0, 4.0], [1.0, 2.0], [1.5, 2.0], [1.0, 2.0]])
    monkeypatch.setattr(
        CoreProbe, "_run", lambda self: np.repeat(np.array(next(readings), float)[: len(self._pools), None], SLICES, 1)
    )
    monkeypatch.setattr(quiet.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(quiet.os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    probe = CoreProbe()
    assert [probe() for _ in range(6)] == [1.0, 2.0, 1.0, 1.0, 1.5, 1.0]
    probe.close()


def test_cores_of_this_machine_are_read_at_once_and_threads_end():
    before = set(threading.enumerate())
    with undisturbed_cores(1.0) as waits:
        readings = [waits.probe() for _ in range(50)]
        least = waits.probe._least
    assert all(np.isfinite(readings))
    assert min(readings) >= 1.0
    assert len(least) >= 1
    assert (least > SLICE_S / 5).all()  # as long as it was meant to be: work is fitted to how fast the machine is
    assert (least < SLICE_S * 5).all()
    assert set(threading.enumerate()) <= before


def test_a_thread_that_cannot_be_had_ends_the_others(monkeypatch):
    monkeypatch.setattr(quiet.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(quiet.os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    before, asked = set(threading.enumerate()), []

    class Pool(quiet.ThreadPoolExecutor):
        def submit(self, *given, **options):
            asked.append(given)
            if len(asked) == 2:
                raise RuntimeError("can't start new thread")
            return super().submit(*given, **options)

    monkeypatch.setattr(quiet, "ThreadPoolExecutor", Pool)
    with pytest.raises(RuntimeError, match="new thread"):
        CoreProbe()
    assert set(threading.enumerate()) <= before


def test_nobody_looks_without_patience():
    with undisturbed_cores(0.0) as waits:
        assert waits is None


def test_many_cores_are_sampled(monkeypatch):
    monkeypatch.setattr(quiet.os, "sched_getaffinity", lambda pid: set(range(100)), raising=False)
    monkeypatch.setattr(quiet.os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    probe = CoreProbe(threads=64)
    assert len(probe._pools) == probe.needed == 15
    assert probe() >= 1
    probe.close()
