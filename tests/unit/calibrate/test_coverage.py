# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The objective against its formula, and the greedy search against every possible set."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_compress.calibrate.bins import class_bins, value_bins
from yolo_compress.calibrate.coverage import EPSILON, Objective, cover, cover_by_sampling
from yolo_compress.errors import UsageError

few = settings(max_examples=25, deadline=None)
GUARANTEE = 1 - 1 / math.e
ROUNDING = 1e-9  # sums of a few terms near 1


def made(seed: int, images: int, n: int, balance: float = 0.5, weights: dict | None = None) -> Objective:
    """Return an objective over a feature of one bin per image, one of several and one of perhaps none."""
    rng = np.random.default_rng(seed)
    sets = [rng.integers(0, 4, rng.integers(0, 4)) for _ in range(images - 1)] + [np.arange(4)]
    objects = [np.column_stack([found, np.zeros((len(found), 4))]) for found in sets]
    features = [
        value_bins("light", rng.random(images)),
        value_bins("pair", rng.integers(0, 3, (images, 2)).astype(float)),
        class_bins(objects, 4),
    ]
    return Objective(features, n, balance=balance, weights=weights)


def by_formula(objective: Objective, chosen, balance: float, weights: dict[str, float]) -> float:
    """Return F as the module's docstring writes it, in loops."""
    total = 0.0
    for feature in objective.features:
        table = feature.members.toarray()
        images = len(table)
        held = [sum(table[i][b] for i in range(images)) for b in range(table.shape[1])]
        mean = sum(held) / images
        norm = sum(count ** (1 - balance) for count in held)
        for b, count in enumerate(held):
            there = sum(table[i][b] for i in chosen)
            total += weights[feature.name] * math.sqrt(count ** (1 - balance) / norm * there / (objective.n * mean))
    return total / sum(weights.values())


@few
@given(st.integers(0, 999), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_objective_is_its_formula(seed, balance):
    weights = {"light": 1.0, "pair": 2.0, "classes": 0.5}
    objective = made(seed, 9, 4, balance, weights)
    chosen = np.random.default_rng(seed).choice(9, 4, replace=False)
    assert objective.value(chosen) == pytest.approx(by_formula(objective, chosen, balance, weights), abs=ROUNDING)


@few
@given(st.integers(0, 999), st.integers(1, 4))
def test_greedy_is_within_its_guarantee_of_the_best_set(seed, n):
    objective = made(seed, 9, n)
    best = max(objective.value(chosen) for chosen in combinations(range(9), n))
    found = objective.value(cover(objective, seed=seed))
    assert GUARANTEE * best <= found <= best + ROUNDING


@few
@given(st.integers(0, 999), st.integers(1, 10))
def test_lazy_greedy_is_plain_greedy(seed, n):
    objective = made(seed, 12, n)
    rank = np.random.default_rng(seed).permutation(12)
    plain: list[int] = []
    while len(plain) < n:
        gains = {i: objective.value([*plain, i]) - objective.value(plain) for i in range(12) if i not in plain}
        most = max(gains.values())
        plain.append(min((i for i, gain in gains.items() if gain > most - ROUNDING), key=lambda i: rank[i]))
    lazy = cover(objective, seed=seed)
    for size in range(1, n + 1):  # two orders of images that add the same are both right
        assert objective.value(lazy[:size]) == pytest.approx(objective.value(plain[:size]), abs=n * ROUNDING)
    assert len(set(lazy)) == n


@few
@given(st.integers(0, 999))
def test_the_objective_is_monotone_and_submodular(seed):
    rng = np.random.default_rng(seed)
    objective = made(seed, 12, 6)
    order = rng.permutation(12)
    inside, more, image = list(order[:2]), list(order[:6]), int(order[6])
    gain = objective.value([*inside, image]) - objective.value(inside)
    later = objective.value([*more, image]) - objective.value(more)
    assert gain >= later - ROUNDING
    assert later >= 0


@few
@given(st.integers(0, 999), st.integers(1, 12))
def test_the_same_seed_chooses_the_same(seed, n):
    assert cover(made(1, 12, n), seed=seed) == cover(made(1, 12, n), seed=seed)


@pytest.mark.parametrize(("seed", "n"), [(0, 3), (1, 4), (2, 6)])
def test_choosing_among_samples_is_within_its_guarantee_on_average(seed, n):
    objective = made(seed, 16, n)
    best = max(objective.value(chosen) for chosen in combinations(range(16), n))
    found = [cover_by_sampling(objective, np.random.default_rng(draw)) for draw in range(40)]
    assert all(len(set(chosen)) == n for chosen in found)
    assert np.mean([objective.value(chosen) for chosen in found]) >= (GUARANTEE - EPSILON) * best
    drawn = [np.random.default_rng(draw).choice(16, n, replace=False) for draw in range(40)]
    assert np.mean([objective.value(c) for c in found]) > np.mean([objective.value(c) for c in drawn])
    assert len({tuple(sorted(chosen)) for chosen in found}) > 1


@few
@given(st.integers(0, 999), st.integers(1, 12))
def test_the_same_draws_choose_the_same(seed, n):
    again = [cover_by_sampling(made(1, 12, n), np.random.default_rng(seed)) for _ in range(2)]
    assert again[0] == again[1]
    assert len(set(again[0])) == n


def test_the_seed_decides_between_equals():
    same = Objective([value_bins("light", np.zeros(30))], 3)
    assert cover(same, seed=0) == list(np.argsort(np.random.default_rng(0).permutation(30))[:3])
    assert cover(same, seed=0) != cover(same, seed=1)


def test_all_images_of_a_data_set_score_one_where_they_are_to_be_as_it_is():
    objective = made(0, 15, 15, balance=0.0)
    figures = objective.figures(range(15), seed=0)
    assert [row.score for row in figures.values()] == pytest.approx([1, 1, 1])
    assert [row.covered for row in figures.values()] == [1, 1, 1]
    assert objective.value(range(15)) == pytest.approx(1)


def test_a_rare_class_is_chosen_when_bins_are_to_be_alike():
    rare = [np.array([[1, 0, 0, 0, 0]])]
    objective = Objective([class_bins([np.zeros((1, 5))] * 999 + rare, 2)], 4, balance=1.0)
    assert 999 in cover(objective, seed=0)
    (row,) = objective.figures(cover(objective, seed=0), seed=0).values()
    assert (row.covered, row.random_covered) == (1.0, 0.5)


def test_a_weight_of_zero_leaves_a_feature_out():
    objective = made(3, 40, 5, weights={"light": 0, "pair": 0})
    alone = Objective(objective.features[2:], 5)
    assert objective.value(range(5)) == pytest.approx(alone.value(range(5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"kontrast": 1}}, "there is no feature 'kontrast' to weigh; choose from light, pair, classes"),
        ({"weights": {"light": -1}}, "the weight of light is -1; give a number of at least 0"),
        ({"weights": {"light": float("nan")}}, "the weight of light is nan"),
        ({"weights": dict.fromkeys(("light", "pair", "classes"), 0)}, "all weights are 0"),
        ({"balance": 1.5}, "balance=1.5 is not possible; give 0, as the data set is, to 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UsageError) as caught:
        made(0, 5, 2, **options)
    assert message in str(caught.value)
