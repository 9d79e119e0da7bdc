# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Layers in float for a time that may be given back, against every set there is."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_compress.quantize.knapsack import Knapsack

WHOLE = st.lists(st.tuples(st.integers(0, 30), st.integers(-3, 12)), min_size=1, max_size=9)
ANY = st.lists(st.tuples(st.floats(0, 10), st.floats(-1, 5)), min_size=1, max_size=8)
SLACK = 1e-9  # of sums in another order


def layers(pairs):
    costs = {f"model.{index}": float(cost) for index, (cost, _) in enumerate(pairs)}
    return costs, {f"model.{index}": float(saving) for index, (_, saving) in enumerate(pairs)}


def least_cost(costs, savings, allowed):
    """Return the cost of the best of all sets that may go back to float; what saves nothing weighs nothing."""
    found = []
    for count in range(len(costs) + 1):
        for keep in itertools.combinations(costs, count):
            if sum(max(savings[layer], 0) for layer in keep) <= allowed:
                found.append(sum(cost for layer, cost in costs.items() if layer not in keep))
    return min(found)


@given(pairs=WHOLE, allowed=st.integers(0, 60))
def test_whole_savings_are_solved_exactly(pairs, allowed):
    """With a unit of one, nothing is rounded, and the cost is the least there is."""
    costs, savings = layers(pairs)
    total = int(sum(saving for saving in savings.values() if saving > 0))
    found = Knapsack(costs, savings, levels=max(total, 1)).allowing(allowed)
    assert found.cost == least_cost(costs, savings, allowed)
    assert found.given_back <= allowed


@given(pairs=ANY, share=st.floats(0, 1), levels=st.integers(5, 400))
def test_rounding_never_breaks_the_allowance_and_costs_no_more_than_it_says(pairs, share, levels):
    costs, savings = layers(pairs)
    knapsack = Knapsack(costs, savings, levels=levels)
    allowed = share * knapsack.most
    found = knapsack.allowing(allowed)
    assert found.given_back <= allowed + SLACK
    if allowed >= knapsack.error:
        assert found.cost <= least_cost(costs, savings, allowed - knapsack.error) + SLACK
    assert found.cost >= least_cost(costs, savings, allowed + SLACK) - SLACK
    assert knapsack.error <= len(pairs) * knapsack.most / levels + SLACK


@given(pairs=ANY)
def test_steps_go_from_the_fastest_to_the_cheapest(pairs):
    costs, savings = layers(pairs)
    knapsack = Knapsack(costs, savings, levels=500)
    steps = knapsack.steps(20)
    assert set(steps[0].keep) == {layer for layer, saving in savings.items() if saving <= 0}
    assert steps[0].saving == pytest.approx(knapsack.most)
    assert steps[-1].cost == pytest.approx(0)
    assert [step.cost for step in steps] == sorted((step.cost for step in steps), reverse=True)
    assert len({step.keep for step in steps}) == len(steps) <= 21
    for step in steps:
        coded = [layer for layer in costs if layer not in step.keep]
        assert step.saving == pytest.approx(sum(savings[layer] for layer in coded))
        assert step == knapsack.of(step.keep)


def test_a_layer_that_costs_nothing_stays_in_int8():
    found = Knapsack({"a": 0.0, "b": 1.0, "c": 0.0}, {"a": 1.0, "b": 1.0, "c": -1.0}).allowing(9.0)
    assert found.keep == ("b", "c")
    costs = {"a": 0.0, "b": 1.0, "c": 5.0, "d": 0.0}
    assert Knapsack(costs, dict.fromkeys(costs, 1.0)).allowing(3.0).keep == ("b", "c")


def test_a_model_in_which_nothing_saves_goes_back_whole():
    knapsack = Knapsack({"a": 1.0, "b": 2.0}, {"a": 0.0, "b": -1.0})
    assert knapsack.most == knapsack.error == 0
    assert knapsack.allowing(0.0).keep == ("a", "b")
    assert [step.keep for step in knapsack.steps(5)] == [("a", "b")]


def test_the_published_error_is_small():
    """Of 200 equal layers, rounding hides less than half a per cent of what they save."""
    names = [f"model.{index}" for index in range(200)]
    knapsack = Knapsack(dict.fromkeys(names, 1.0), dict.fromkeys(names, 0.1))
    assert knapsack.error <= 0.005 * knapsack.most
    assert len(knapsack.allowing(0.5 * knapsack.most).keep) == pytest.approx(100, abs=1)
