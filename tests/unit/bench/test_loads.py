# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Rounds that are spread over several loads: who is loaded when, how many rounds there are, and what that is for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.unit.bench.test_latency import Machine
from yolo_compress.bench.latency import summarize
from yolo_compress.bench.loads import LOADS, MOST, Loaded, time_over_loads


class FakeSession:
    """A session that tells when it is opened and closed."""

    def __init__(self, name, infer, log):
        self.name, self.infer, self.log = name, infer, log
        log.append(("open", name))

    def close(self):
        self.log.append(("close", self.name))


def timed(machine, seconds, *, placed=lambda name: 1.0, candidates=None, **options):
    """Time candidates by their seconds, each load of one slowed by what `placed` returns; also return the log."""
    log, images = [], []

    def loader(name):
        return lambda: FakeSession(name, machine.candidate(name, seconds[name] * placed(name)), log)

    def prepare(index):
        images.append(index)
        return np.full((1, 3, 2, 2), index, np.float32)

    loaded = Loaded([loader(name) for name in range(len(seconds))])
    options = {"rounds": 12, "warmup": 4, **options}
    timings = time_over_loads(
        loaded,
        range(len(seconds)) if candidates is None else candidates,
        prepare,
        finish=lambda raw: None,
        watch=machine.watch,
        **options,
    )
    loaded.close()
    return timings, log, images


def test_every_candidate_is_loaded_for_each_part_and_never_twice_at_once():
    timings, log, images = timed(Machine(), [0.010, 0.004, 0.006])
    assert timings.inference.shape == (12, 3)
    assert len(timings.preprocess) == len(timings.postprocess) == 12
    np.testing.assert_allclose(timings.inference, [[0.010, 0.004, 0.006]] * 12, atol=1e-12)
    opened = [name for what, name in log if what == "open"]
    assert [opened[start : start + 3] for start in range(0, 12, 3)] == [[0, 1, 2], [2, 1, 0]] * 2
    alive = itertools.accumulate(1 if what == "open" else -1 for what, _ in log)
    assert max(alive) == 3
    assert sum(what == "close" for what, _ in log) == 12
    assert images == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11, 12]  # one of warm-up before each part of three


@pytest.mark.parametrize(("rounds", "expected"), [(3, 4), (8, 8), (130, 132)])
def test_rounds_are_a_multiple_of_the_loads(rounds, expected):
    assert timed(Machine(), [0.010, 0.004], rounds=rounds)[0].inference.shape == (expected, 2)


def test_only_what_is_named_is_timed():
    timings, _, _ = timed(Machine(), [0.010, 0.004, 0.006], candidates=[0, 2])
    np.testing.assert_allclose(timings.inference, [[0.010, 0.006]] * 12, atol=1e-12)


def test_no_round_is_added_where_ratios_are_known():
    assert len(timed(Machine(), [0.010, 0.004], margin=0.01)[0].inference) == 12


def test_rounds_are_added_until_ratios_are_known():
    """A neighbour slows single calls by up to a third; a narrow margin takes more rounds than a wide one."""
    random = np.random.default_rng(0)
    jitter = [1 + random.random() / 3 for _ in range(5000)]
    taken = []
    for margin in (0.0, 0.5, 0.1, 0.0001):
        calls = iter(jitter)
        machine = Machine(slowdown=lambda now, calls=calls: next(calls))
        timings, log, _ = timed(machine, [0.010, 0.004, 0.02], margin=margin)
        taken.append(len(timings.inference))
        assert sum(what == "open" for what, _ in log) == 3 * LOADS * taken[-1] // 12
    assert taken[0] == taken[1] == 12
    assert 12 < taken[2] < MOST * 12 == taken[3]


def test_no_single_load_decides():
    """One of four happens to be fast, one slow; and a neighbour is there in half of the rounds of each."""
    speeds = itertools.chain.from_iterable((1.0, speed) for speed in (0.9, 1.1, 1.02, 0.98))
    calls = itertools.count()
    machine = Machine(slowdown=lambda now: 1.5 if next(calls) // 4 % 2 else 1.0)  # two candidates run twice in a round
    loaded = list(speeds)  # in the order of the loads, which turns
    loaded[2:4], loaded[6:8] = loaded[3:1:-1], loaded[7:5:-1]
    turn = iter(loaded)
    timings, _, _ = timed(machine, [0.010, 0.004], placed=lambda name: next(turn), rounds=160, warmup=0)
    assert len(timings.quiet) == 40
    assert [sum(timings.quiet // 40 == load) for load in range(LOADS)] == [10] * 4
    ratios = timings.inference[:, 1] / timings.inference[:, 0]
    of_each = [0.4 * speed for speed in (0.9, 1.1, 1.02, 0.98)]
    np.testing.assert_allclose(ratios.reshape(LOADS, 40), np.repeat(np.array(of_each)[:, None], 40, 1), rtol=1e-9)
    assert timings.inference[timings.quiet, 0] == pytest.approx(0.010)  # none of the disturbed ones
    assert summarize(timings.inference, timings.quiet)[1].ratio_p50 == pytest.approx(0.4, rel=0.02)


def test_ratios_are_of_rounds_that_a_gate_let_through():
    """A neighbour that makes small models slower: found in every other turn of the second half of each load."""
    machine, turns = Machine(), itertools.count()
    disturbed = [False]

    def gate():
        disturbed[0] = next(turns) // 2 % 10 >= 5
        return not disturbed[0]

    machine.slowdown = lambda now: 0.5 if disturbed[0] else 1.0  # less time, so that time alone would choose these
    timings, _, _ = timed(machine, [0.010, 0.004], rounds=160, warmup=0, gate=gate)
    assert timings.disturbed.reshape(-1, 10).tolist() == [[False] * 5 + [True] * 5] * 16
    assert not timings.disturbed[timings.quiet].any()
    assert len(timings.quiet) == 40


def test_what_is_open_is_closed_when_a_load_fails():
    log = []

    def fails():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Loaded([lambda: FakeSession("a", None, log), fails])
    assert log == [("open", "a"), ("close", "a")]
