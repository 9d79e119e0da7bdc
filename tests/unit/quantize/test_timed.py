# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Maps for a latency: against every set of layers where times add up, and corrected where they do not."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_compress.quantize.knapsack import Knapsack
from yolo_compress.quantize.timed import TOLERANCE, TRIES, Measured, fit_latency

LAYERS = st.lists(st.tuples(st.floats(0.01, 5), st.floats(0.1, 3)), min_size=3, max_size=8)


def measured(ratio):
    return Measured(ratio, None, 10 * ratio, 10.0)


def named(pairs):
    return {f"model.{i}": c for i, (c, _) in enumerate(pairs)}, {f"model.{i}": s for i, (_, s) in enumerate(pairs)}


@given(pairs=LAYERS, latency=st.floats(0.5, 0.95), gain=st.floats(0.1, 0.8))
def test_where_times_add_up_no_other_set_within_the_time_is_cheaper(pairs, latency, gain):
    costs, savings = named(pairs)
    total = sum(savings.values())
    calls = []

    def ratio(keep):
        return 1 - gain * sum(saved for layer, saved in savings.items() if layer not in keep) / total

    def measure(keep):
        calls.append(keep)
        return measured(ratio(keep))

    knapsack = Knapsack(costs, savings)
    found = fit_latency(knapsack, measure, latency=latency)
    assert len(calls) == len(set(calls)) <= TRIES + 1
    assert found.measured.ratio == pytest.approx(ratio(found.choice.keep))
    if 1 - gain > latency * (1 + TOLERANCE):
        assert not found.holds(latency)
        assert found.choice.keep == ()
        return
    assert found.holds(latency)
    if 1 - gain >= latency * (1 - TOLERANCE):
        return  # all in INT8 is within the tolerance already
    sets = [keep for count in range(len(costs) + 1) for keep in itertools.combinations(costs, count)]
    slack = gain * knapsack.error / total
    within = [keep for keep in sets if ratio(keep) <= latency - slack]
    best = min(sum(cost for layer, cost in costs.items() if layer not in keep) for keep in within)
    assert found.choice.cost <= best + 1e-9


def test_a_budget_that_the_sum_of_savings_misjudges_is_corrected():
    """Every layer in float costs a change of layout that no profile of a whole model has."""
    names = [f"model.{index}" for index in range(40)]
    knapsack = Knapsack({name: 1.0 + 0.01 * i for i, name in enumerate(names)}, dict.fromkeys(names, 1.0))
    ratios = []

    def measure(keep):
        changes = 0.1 * min(1.0, len(keep) / 8)  # soon as many as there can be
        ratios.append(0.5 + 0.5 * len(keep) / 40 + changes * (len(keep) < 40))
        return measured(ratios[-1])

    found = fit_latency(knapsack, measure, latency=0.7)
    assert max(ratios) > 0.7 * (1 + TOLERANCE)  # the first one missed
    assert abs(found.measured.ratio - 0.7) <= 0.7 * TOLERANCE
    assert len(ratios) <= TRIES + 1


def test_it_stops_after_so_many_tries():
    """A model whose time has nothing to do with its layers."""
    names = [f"model.{index}" for index in range(60)]
    knapsack = Knapsack(dict.fromkeys(names, 1.0), dict.fromkeys(names, 1.0))
    calls = []

    def measure(keep):
        calls.append(keep)
        return measured(0.65 if keep else 0.5)

    found = fit_latency(knapsack, measure, latency=0.62)
    assert found.choice.keep == ()
    assert len(calls) == TRIES + 1


def test_layers_that_save_nothing_are_float_unless_that_is_slower_as_a_whole():
    costs = dict.fromkeys("abc", 1.0)
    knapsack = Knapsack(costs, {"a": 1.0, "b": -0.2, "c": 1.0})
    quick = fit_latency(knapsack, lambda keep: measured(0.6 if keep == ("b",) else 0.65), latency=0.6)
    assert quick.choice.keep == ("b",)
    plain = fit_latency(knapsack, lambda keep: measured(0.65 if keep else 0.6), latency=0.6)
    assert plain.choice.keep == ()
    late = fit_latency(knapsack, lambda keep: measured(0.85 if keep else 0.9), latency=0.6)
    assert (late.choice.keep, late.holds(0.6)) == (("b",), False)


def test_where_no_layer_saves_only_all_in_int8_is_tried():
    calls = []
    knapsack = Knapsack({"a": 1.0, "b": 1.0}, {"a": -1.0, "b": 0.0})
    found = fit_latency(knapsack, lambda keep: calls.append(keep) or measured(1.2), latency=0.9)
    assert calls == [()]
    assert not found.holds(0.9)


def test_a_measurement_in_words():
    assert str(measured(0.5)) == "0.500 of the float model's time, 5.00 of 10.00 ms"
    assert str(Measured(0.5, (0.4, 0.6), 5.0, 10.0)).startswith("0.500 (0.400 to 0.600) of the float")
