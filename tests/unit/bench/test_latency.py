# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Timing on a simulated clock: every number that comes out is known beforehand."""

from __future__ import annotations

import gc
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_compress.bench.latency import (
    LEAD,
    QUIET_SHARE,
    SAMPLES_FOR,
    Watch,
    median_interval,
    order,
    percentile_ms,
    quiet_rounds,
    rest,
    summarize,
    throughput,
    time_alternately,
    widest_margin,
)


class Machine:
    """A clock that only advances when simulated work is done, and a log of who worked."""

    def __init__(self, slowdown=lambda now: 1.0):
        self.now, self.log, self.slowdown, self.paused = 0.0, [], slowdown, 0.0
        self.used, self.spinning = 0.0, 0.0  # processor time so far, and what threads will still burn while idle
        self.watch = Watch(lambda: self.now, lambda: self.used, self.pause)

    def pause(self, seconds):
        self.now += seconds
        self.paused += seconds
        burnt = min(seconds, self.spinning)
        self.used += burnt
        self.spinning -= burnt

    def candidate(self, name, seconds):
        def infer(image):
            self.now += seconds * self.slowdown(self.now)
            self.log.append((name, float(image.flat[0])))
            return image

        return infer

    def work(self, seconds):
        def do(_):
            self.now += seconds

        return do


def run(machine, seconds, **options):
    def prepare(index):
        machine.now += 0.002
        return np.full((1, 3, 2, 2), index, np.float32)

    options = {"rounds": 12, "warmup": 2, **options}
    return time_alternately(
        [machine.candidate(name, s) for name, s in enumerate(seconds)],
        prepare,
        finish=machine.work(0.001),
        watch=machine.watch,
        **options,
    )


def test_each_part_is_measured_apart_and_warm_up_does_not_count():
    machine = Machine()
    timings = run(machine, [0.010, 0.004], settle_ms=5)
    assert timings.inference.shape == (12, 2)
    np.testing.assert_allclose(timings.inference, [[0.010, 0.004]] * 12, atol=1e-12)
    np.testing.assert_allclose(timings.preprocess, 0.002, atol=1e-12)
    np.testing.assert_allclose(timings.postprocess, 0.001, atol=1e-12)
    assert len(machine.log) == 14 * 2 * 2  # one that leads, and one that is timed
    assert machine.paused == pytest.approx(14 * 3 * 0.005)  # before preparing and before each turn
    assert timings.restless == 0


@pytest.mark.parametrize("lead", [0, 1, 2])
def test_every_round_runs_each_candidate_in_one_turn_on_the_same_image(lead):
    machine = Machine()
    run(machine, [0.01, 0.02, 0.03], lead=lead)
    size = 3 * (lead + 1)
    rounds = [machine.log[start : start + size] for start in range(0, len(machine.log), size)]
    assert len(rounds) == 14
    for index, entries in enumerate(rounds):
        turns = [name for name, _ in itertools.groupby(name for name, _ in entries)]
        assert sorted(turns) == [0, 1, 2]
        assert {image for _, image in entries} == {index}


@pytest.mark.parametrize(("seconds", "expected"), [(0.008, 13), (0.03, 4), (0.12, 1), (0.5, 1), (0.001, 20)])
def test_a_candidate_leads_for_a_time_but_neither_never_nor_for_ever(seconds, expected):
    machine = Machine()
    timings = run(machine, [seconds], rounds=3, warmup=1, settle_ms=5, lead_s=0.1)
    assert len(machine.log) == 4 * (expected + 1)
    np.testing.assert_allclose(timings.inference, seconds, atol=1e-12)


def test_a_rest_lasts_until_spinning_threads_stop():
    machine = Machine()
    machine.spinning = 0.073
    assert rest(5, machine.watch)
    assert 0.073 <= machine.paused <= 0.085
    assert rest(0, machine.watch)
    assert machine.paused <= 0.085


def test_a_process_that_never_rests_is_told():
    machine = Machine()
    machine.spinning = float("inf")
    assert not rest(5, machine.watch)
    timings = run(machine, [0.01], rounds=3, warmup=0, settle_ms=50)
    assert timings.restless == 3 * 2


def test_a_gate_is_asked_before_each_turn_and_its_waits_are_not_charged():
    machine, asked = Machine(), []

    def gate():
        asked.append(len(machine.log))
        machine.now += 0.7
        return len(asked) != 11  # the third turn of the fourth round, of which the first is warm-up

    timings = run(machine, [0.010, 0.004, 0.006], rounds=5, warmup=1, gate=gate)
    assert asked == list(range(0, 6 * 3 * 2, 2))  # each turn is two inferences, which it comes before
    np.testing.assert_allclose(timings.inference, [[0.010, 0.004, 0.006]] * 5, atol=1e-12)
    assert timings.disturbed.tolist() == [False, False, True, False, False]


def test_disturbed_rounds_come_last_whatever_they_took():
    inference = np.array([[1.0], [0.5], [1.2], [0.6], [1.1], [0.7], [1.3], [0.8]])
    disturbed = np.array([False, True] * 4)
    assert quiet_rounds(inference, disturbed=disturbed).tolist() == [0, 4]
    assert quiet_rounds(inference, 5, disturbed).tolist() == [0, 1, 2, 4, 6]
    assert quiet_rounds(inference).tolist() == [1, 3]


def test_what_a_rest_and_the_others_cost_is_not_charged():
    """The first inference of a turn is slow; with none that leads, it is the one that is timed."""
    machine = Machine()
    last = [None]

    def cold(name, seconds):
        warm, slow = machine.candidate(name, seconds), machine.candidate(name, 1.5 * seconds)

        def infer(image):
            raw = (warm if last[0] == name else slow)(image)
            last[0] = name
            return raw

        return infer

    def timed(lead):
        candidates, image = [cold("a", 0.01), cold("b", 0.02)], np.zeros((1, 3, 2, 2), np.float32)
        given = {"finish": lambda raw: None, "rounds": 8, "warmup": 2, "watch": machine.watch}
        return time_alternately(candidates, lambda index: image, lead=lead, **given).inference

    np.testing.assert_allclose(timed(1), [[0.01, 0.02]] * 8, atol=1e-12)
    assert (timed(0) > [0.0149, 0.0299]).any(axis=0).all()


def test_a_margin_is_the_farther_end_of_the_widest_interval():
    inference = np.array([[1.0, 2.0 + 0.01 * n, 3.0] for n in range(101)])
    low, high = median_interval(inference[:, 1])
    assert widest_margin(inference) == pytest.approx(max(2.5 - low, high - 2.5) / 2.5)
    assert widest_margin(inference[:, :1]) == 0
    assert widest_margin(inference[:5]) == float("inf")  # five rounds tell no interval


def test_threads_that_spin_are_not_charged_to_the_next_candidate():
    machine = Machine(slowdown=lambda now: 2.0 if machine.spinning > 0 else 1.0)
    quiet, spins = machine.candidate("quiet", 0.01), machine.candidate("spins", 0.01)

    def spinning(image):
        machine.spinning = 0.0  # its own threads are at work, and in nobody's way
        raw = spins(image)
        machine.spinning = 0.075
        return raw

    timings = time_alternately(
        [quiet, spinning],
        lambda index: np.zeros((1, 3, 2, 2), np.float32),
        finish=lambda raw: None,
        rounds=20,
        warmup=1,
        settle_ms=5,
        watch=machine.watch,
    )
    np.testing.assert_allclose(timings.inference, 0.01, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_order_gives_each_candidate_each_place_equally_often(count):
    cycle = [order(index, count) for index in range(2 * count)]
    for place in range(count):
        assert sorted(row[place] for row in cycle) == sorted(list(range(count)) * 2)


def test_order_changes_predecessors():
    pairs = {pair for index in range(6) for pair in itertools.pairwise(order(index, 3))}
    assert pairs == set(itertools.permutations(range(3), 2))


def test_drift_moves_medians_and_leaves_paired_ratios():
    machine = Machine(slowdown=lambda now: 1 + now)  # a machine that gets hotter and slower
    timings = run(machine, [0.010, 0.004], rounds=60)
    reference, ours = summarize(timings.inference)
    assert reference.p50_ms > 1.2 * 10
    assert ours.ratio_p50 == pytest.approx(0.4, rel=0.02)
    assert ours.ratio_spread[0] <= ours.ratio_p50 <= ours.ratio_spread[1]
    assert reference.ratio_p50 == 1.0


@pytest.mark.parametrize("busy", [0.1, 0.4, 0.6])
def test_a_neighbour_does_not_move_ratios(busy):
    """It slows the small model by more than the large one, in a share of the rounds that changes from day to day."""
    rng = np.random.default_rng(0)
    inference = np.array([0.012, 0.006]) * (1 + 0.02 * rng.random((200, 2)))
    inference[rng.random(200) < busy] *= (1.3, 1.6)
    assert summarize(inference, quiet_rounds(inference))[1].ratio_p50 == pytest.approx(0.5, rel=0.004)
    if busy > 0.5:
        assert summarize(inference)[1].ratio_p50 > 0.55  # the median of all rounds is


@given(rounds=st.integers(1, 300), candidates=st.integers(1, 4), fewest=st.integers(0, 40), seed=st.integers(0, 99))
def test_quiet_rounds_are_those_in_which_candidates_took_least(rounds, candidates, fewest, seed):
    inference = np.random.default_rng(seed).lognormal(0, 0.3, (rounds, candidates))
    quiet = quiet_rounds(inference, fewest)
    assert len(quiet) == max(math.ceil(QUIET_SHARE * rounds), min(fewest, rounds))
    assert (np.diff(quiet) > 0).all()
    disturbed = (inference / np.median(inference, axis=0)).mean(axis=1)
    others = np.setdiff1d(np.arange(rounds), quiet)
    assert len(others) == 0 or disturbed[quiet].max() <= disturbed[others].min()
    assert np.array_equal(quiet, quiet_rounds(inference * 2.0 ** np.arange(candidates), fewest))  # each counts alike


def test_a_quiet_machine_is_not_noisy_and_a_bursty_one_is():
    quiet = summarize(run(Machine(), [0.01], rounds=20).inference)[0]
    steps = itertools.count()
    bursty = summarize(run(Machine(lambda _: 1 + 0.5 * (next(steps) % 2)), [0.01], rounds=20, lead=0).inference)[0]
    assert not quiet.noisy
    assert quiet.spread == pytest.approx(0, abs=1e-9)
    assert bursty.noisy
    assert bursty.spread == pytest.approx(0.005 / 0.0125)


def test_percentiles_need_their_samples():
    for percent, needed in SAMPLES_FOR.items():
        assert percentile_ms(np.arange(needed - 1) / 1e3, percent) is None
        assert percentile_ms(np.arange(1, needed + 1) / 1e3, percent) == pytest.approx(
            math.ceil(needed * percent / 100)
        )


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60))
def test_median_interval_encloses_the_median(samples):
    values = np.array(samples)
    interval = median_interval(values)
    if len(values) < 6:
        assert interval is None
    else:
        assert interval[0] <= np.median(values) <= interval[1]


def test_median_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval(rng.exponential(size=25))
        hits += low <= math.log(2) <= high
    assert 0.945 <= hits / 2000 <= 0.985  # exact coverage at 25 samples is 0.9567


def test_throughput_counts_images_per_second_of_each_candidate():
    machine = Machine()
    infer = [machine.candidate(name, seconds) for name, seconds in enumerate([0.010, 0.004])]
    images = [np.zeros((1, 3, 2, 2), np.float32)] * 3
    rates = throughput(infer, images, images=20, watch=machine.watch)
    assert rates == pytest.approx([100, 250])
    batches = [np.zeros((4, 3, 2, 2), np.float32)]
    assert throughput(infer[:1], batches, images=8, watch=machine.watch) == pytest.approx([400])


def test_garbage_collection_is_off_only_while_timing():
    seen = []
    machine = Machine()
    time_alternately(
        [lambda image: seen.append(gc.isenabled()) or image],
        lambda index: np.zeros((1, 3, 2, 2), np.float32),
        finish=lambda raw: None,
        rounds=3,
        warmup=0,
        watch=machine.watch,
    )
    assert seen == [False] * 3 * (1 + LEAD)
    assert gc.isenabled()


def test_progress_is_told_about_every_ten_seconds():
    lines = []
    run(Machine(), [0.5, 0.5], rounds=30, warmup=0, progress=lines.append)
    assert 4 <= len(lines) <= 6
    assert lines[0].startswith("latency: round ")
