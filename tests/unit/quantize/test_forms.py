# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Weights of few and of unequal levels, against every choice there is on small cases, and against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_compress.quantize.codebook import _Line, descend, fit_codebook
from yolo_compress.quantize.forms import (
    WEIGHT_FORMS,
    as_cast,
    binary_scales,
    midpoints,
    power_levels,
    ternary_scales,
)
from yolo_compress.quantize.rounding import Moments, adaround, output_error
from yolo_compress.quantize.weights import SHARES, WeightForm, nearest, with_scales

KINDS = [(name, bits) for name, kind in WEIGHT_FORMS.items() for bits in (kind.bits[0], kind.default_bits)]
COARSE = ("binary", "ternary", "pow2", "codebook")


def drawn(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error(weight, values) -> np.ndarray:
    """Return the squared error of each output channel."""
    return ((weight.astype(np.float64) - values) ** 2).reshape(len(weight), -1).sum(1)


def levels_of(found, form) -> np.ndarray:
    return form.levels if found.table is None else found.table


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([kind for kind in KINDS if not WEIGHT_FORMS[kind[0]].cast]),
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 4, 5]), st.sampled_from([1, 3]), st.just(1)),
    group=st.sampled_from([None, 2]),
    seed=st.integers(0, 999),
)
def test_every_weight_has_the_nearest_level(kind, shape, group, seed):
    name, bits = kind
    form, weight = WeightForm(bits, group, kind=name), drawn(shape, seed)
    found = nearest(weight, form)
    assert found.scales.shape == (shape[0], form.blocks(shape[1]))
    levels = levels_of(found, form)
    assert len(levels) <= 2**bits
    for index in np.ndindex(shape):
        scale = found.scales[index[0], index[1] * found.scales.shape[1] // shape[1]]
        best = np.abs(levels * scale - weight[index]).min()
        assert abs(found.values[index] - weight[index]) <= best + 3e-7 * (abs(weight[index]) + scale)
    assert np.array_equal(with_scales(weight, found.scales, form, found.table).codes, found.codes)
    assert np.array_equal(found.with_steps(found.steps).codes, found.codes)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 3), count=st.integers(1, 7), seed=st.integers(0, 999))
def test_binary_and_ternary_scales_are_the_best_of_all(rows, count, seed):
    """Against every way of giving the values to the weights, each with its own best scale."""
    weight = drawn((rows, count), seed).astype(np.float64)
    for scales, values in ((binary_scales, (-1, 1)), (ternary_scales, (-1, 0, 1))):
        found = scales(weight)
        for row, scale in zip(weight, found, strict=True):
            codes = np.array([c for c in itertools.product(values, repeat=count) if any(c)])
            fits = (codes @ row) ** 2 / (codes**2).sum(1)  # what the best scale of each takes off the error
            least = (row**2).sum() - fits.max()
            levels = np.array(values)
            taken = levels[np.abs(row[:, None] - scale * levels).argmin(1)]
            assert ((row - scale * taken) ** 2).sum() == pytest.approx(least, rel=1e-5, abs=1e-9)


def test_ternary_is_no_worse_than_the_estimate_that_it_improves_on():
    weight = drawn((16, 64, 3, 3)) ** 3
    ours = error(weight, nearest(weight, WeightForm(2, kind="ternary")).values)
    flat = weight.reshape(16, -1)
    large = np.abs(flat) > 0.7 * np.abs(flat).mean(1, keepdims=True)
    scale = (np.abs(flat) * large).sum(1, keepdims=True) / large.sum(1, keepdims=True)
    theirs = error(flat, np.sign(flat) * large * scale)
    assert (ours <= theirs * (1 + 1e-6)).all()
    assert (ours < 0.99 * theirs).any()


def test_powers_of_two():
    assert power_levels(2).tolist() == [-1, 0, 1]
    assert power_levels(4).tolist() == [-64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64]
    assert midpoints(power_levels(3)).tolist() == [-3, -1.5, -0.5, 0.5, 1.5, 3]
    weight = drawn((8, 16, 3, 3))
    found = nearest(weight, WeightForm(4, kind="pow2"))
    assert found.codes.dtype == np.int8
    mantissa, _ = np.frexp(found.codes[found.codes != 0].astype(np.float64))
    assert set(np.abs(mantissa)) == {0.5}
    tried = [
        error(
            weight,
            with_scales(
                weight, (share * np.abs(weight).reshape(8, -1).max(1) / 64)[:, None], WeightForm(4, kind="pow2")
            ).values,
        )
        for share in SHARES.astype(np.float32)
    ]
    np.testing.assert_allclose(error(weight, found.values), np.min(tried, axis=0), rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 16), numbers=st.integers(1, 60), seed=st.integers(0, 999))
def test_lloyds_error_never_rises_and_ends_where_it_cannot_fall(count, numbers, seed):
    rng = np.random.default_rng(seed)
    values, mass = rng.normal(size=numbers) ** 3, rng.uniform(0.1, 2, numbers)
    line = _Line(values, mass)

    def direct(centres):
        return (mass * ((values[:, None] - centres) ** 2).min(1)).sum()

    for start in (line.even_steps(count), line.even_shares(count)):
        tables = descend(line, start)
        errors = [direct(table) for table in tables]
        assert all(after <= before + 1e-9 for before, after in itertools.pairwise(errors))
        np.testing.assert_allclose([line.error(table) for table in tables], errors, atol=1e-8)
        last, owner = tables[-1], np.abs(values[:, None] - tables[-1]).argmin(1)
        assert (np.diff(last) >= 0).all()
        for place in set(owner):
            mine = owner == place
            mean = (mass[mine] * values[mine]).sum() / mass[mine].sum()
            assert last[place] == pytest.approx(mean, abs=1e-7)


def best_table(values, mass, count) -> float:
    """Return the least error of all tables, by dynamic programming over intervals of ordered numbers."""
    order = np.argsort(values)
    v, m = values[order], mass[order]
    size = len(v)

    def cost(i, j):
        part, weights = v[i:j], m[i:j]
        return (weights * (part - (weights * part).sum() / weights.sum()) ** 2).sum()

    best = [0.0] + [np.inf] * size
    for _ in range(count):
        best = [min([best[j], *(best[i] + cost(i, j) for i in range(j))]) for j in range(size + 1)]
    return best[size]


@pytest.mark.parametrize("count", [2, 4])
def test_codebooks_are_exact_where_clusters_are_apart_and_never_better_than_the_best(count):
    rng = np.random.default_rng(0)
    mass = rng.uniform(0.5, 2, 24)
    apart = np.repeat(np.arange(count) * 10.0, 24 // count) + rng.normal(0, 0.1, 24)
    for values, exact in ((apart, True), (rng.normal(size=24), False)):
        table = fit_codebook(values, mass, count).astype(np.float64)
        found = (mass * ((values[:, None] - table) ** 2).min(1)).sum()
        least = best_table(values, mass, count)
        assert found >= least - 1e-6
        assert found <= least * (1 + 1e-4 if exact else 1.5) + 1e-6


def test_a_codebook_holds_as_many_values_as_there_are_without_loss():
    weight = np.random.default_rng(0).choice([-0.5, 0.125, 0.75, 1.0], (3, 4, 3, 3)).astype(np.float32)
    weight[:, 0, 0, 0] = 1.0  # so that scales are one, and all channels want the same table
    found = nearest(weight, WeightForm(2, kind="codebook"))
    np.testing.assert_allclose(found.values, weight, atol=1e-6)
    assert np.array_equal(found.codes, nearest(weight, WeightForm(2, kind="codebook")).codes)


def test_a_codebook_weighs_channels_by_what_their_errors_are():
    weight = drawn((4, 8, 3, 3))
    weight[0] *= 100
    form = WeightForm(2, kind="codebook")
    found = nearest(weight, form)
    even = fit_codebook((weight / found.scales[:, :, None, None]).ravel(), np.ones(weight.size), 4)
    assert error(weight, found.values).sum() < error(weight, with_scales(weight, found.scales, form, even).values).sum()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20))
def test_casts_are_those_of_torch(values):
    array = np.array(values, np.float32)
    for cast in ("float16", "bfloat16"):
        kind = getattr(torch, cast)
        limit = torch.finfo(kind).max
        expected = torch.from_numpy(array).clamp(-limit, limit).to(kind).float().numpy()
        assert np.array_equal(as_cast(array, cast), expected)


def test_few_levels_in_order_of_what_they_can_tell():
    weight = drawn((8, 32, 3, 3))
    forms = [WeightForm(kind=kind, bits=WEIGHT_FORMS[kind].default_bits) for kind in COARSE]
    binary, ternary, power, codebook = (error(weight, nearest(weight, form).values).sum() for form in forms)
    assert binary > ternary > power > codebook
    assert codebook < error(weight, nearest(weight, WeightForm(4)).values).sum()


@pytest.mark.parametrize("kind", COARSE)
def test_adaround_takes_one_of_two_neighbours_and_lowers_the_error(kind):
    form = WeightForm(WEIGHT_FORMS[kind].default_bits, kind=kind)
    rng, weight = np.random.default_rng(0), drawn((6, 4, 3, 3))
    x = (rng.normal(size=(200, 36)) @ rng.normal(size=(36, 36))).astype(np.float32)
    y = x @ weight.reshape(6, -1).T
    moments = Moments((x.T @ x / 200)[None], (y.T @ x / 200)[None], (y.astype(np.float64) ** 2).mean(0)[None])
    start = nearest(weight, form)
    found = adaround(weight, start, form, moments)
    before, after = output_error(start.values, moments), output_error(found.values, moments)
    assert (after <= before).all()
    assert after.sum() < 0.8 * before.sum()
    levels, ratio = levels_of(found, form), weight / found.spread
    above = np.searchsorted(levels, ratio, side="right")
    around = np.stack([levels[np.clip(above - 1, 0, len(levels) - 1)], levels[np.clip(above, 0, len(levels) - 1)]])
    assert (np.abs(found.steps - around).min(0) == 0).all()
