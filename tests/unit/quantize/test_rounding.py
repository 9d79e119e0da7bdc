# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Adaptive rounding against every possible rounding, and its error against samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_compress.quantize.rounding import Moments, adaround, output_error
from yolo_compress.quantize.weights import WeightForm, nearest


def problem(seed, *, groups=1, outputs=3, size=6, positions=200):
    """Return a weight and inputs of the float and the quantized model, correlated as those of real layers are."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(groups, size, size))
    exact = rng.normal(size=(groups, positions, size)) @ mixed + 0.5
    got = exact + 0.1 * rng.normal(size=exact.shape)
    weight = rng.normal(size=(groups * outputs, size, 1, 1)).astype(np.float32)
    return weight, exact, got


def moments_of(weight, exact, got):
    rows = weight.reshape(len(exact), -1, exact.shape[2]).astype(np.float64)
    y = exact @ rows.transpose(0, 2, 1)
    n = exact.shape[1]
    return Moments(got.transpose(0, 2, 1) @ got / n, y.transpose(0, 2, 1) @ got / n, (y**2).mean(axis=1))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), groups=st.integers(1, 3), outputs=st.integers(1, 3), size=st.integers(1, 7))
def test_error_is_that_of_the_samples(seed, groups, outputs, size):
    weight, exact, got = problem(seed, groups=groups, outputs=outputs, size=size)
    values = nearest(weight, WeightForm(3)).values
    told = output_error(values, moments_of(weight, exact, got))
    for output in range(len(weight)):
        group = output // outputs
        difference = exact[group] @ weight[output, :, 0, 0] - got[group] @ values[output, :, 0, 0]
        assert told[output] == pytest.approx((difference**2).mean(), rel=1e-4, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), groups=st.integers(1, 3), bits=st.integers(2, 8))
def test_no_output_gets_worse_and_codes_are_the_two_around(seed, groups, bits):
    weight, exact, got = problem(seed, groups=groups)
    form, moments = WeightForm(bits), moments_of(weight, exact, got)
    start = nearest(weight, form)
    found = adaround(weight, start, form, moments)
    assert (output_error(found.values, moments) <= output_error(start.values, moments)).all()
    assert np.array_equal(found.scales, start.scales)
    assert np.abs(found.codes).max() <= form.highest
    exact_codes = np.clip(weight / start.spread, -form.highest, form.highest)
    assert (np.abs(found.codes - exact_codes) < 1).all()


def test_rounding_is_nearly_the_best_of_all():
    """Over forty problems of six weights, all 64 roundings of each tried."""
    form, ours, best, plain = WeightForm(3), 0.0, 0.0, 0.0
    for seed in range(40):
        weight, exact, got = problem(seed, outputs=1)
        moments, start = moments_of(weight, exact, got), nearest(weight, form)
        flat = np.clip((weight / start.spread).reshape(-1), -form.highest, form.highest)
        every = itertools.product(*zip(np.floor(flat), np.ceil(flat), strict=True))
        tried = [start.with_steps(np.array(codes).reshape(weight.shape)).values for codes in every]
        best += min(output_error(values, moments)[0] for values in tried)
        ours += output_error(adaround(weight, start, form, moments).values, moments)[0]
        plain += output_error(start.values, moments)[0]
    assert best <= ours < 1.15 * best
    assert ours < 0.75 * plain


def test_independent_inputs_are_rounded_to_the_nearest():
    weight = np.random.default_rng(0).normal(size=(4, 9, 1, 1)).astype(np.float32)
    rows = weight.reshape(1, 4, 9)
    moments = Moments(np.eye(9)[None], rows.astype(np.float64), (rows**2).sum(axis=2).astype(np.float64))
    start = nearest(weight, WeightForm(4))
    assert np.array_equal(adaround(weight, start, WeightForm(4), moments).codes, start.codes)


def test_inputs_that_are_always_zero_are_survived():
    weight = np.ones((2, 3, 1, 1), np.float32)
    moments = Moments(np.zeros((1, 3, 3)), np.zeros((1, 2, 3)), np.zeros((1, 2)))
    start = nearest(weight, WeightForm(4))
    assert np.array_equal(adaround(weight, start, WeightForm(4), moments).codes, start.codes)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_pairs_of_chosen_codes_cannot_saturate_sixteen_bits(seed):
    weight, exact, got = problem(seed, outputs=4, size=8)
    form = WeightForm(avoid_overflow=True)
    codes = adaround(weight, nearest(weight, form), form, moments_of(weight, exact, got)).codes
    pairs = codes.reshape(4, 4, 2).astype(np.int32)
    sums = max(np.maximum(pairs, 0).sum(2).max(), np.maximum(-pairs, 0).sum(2).max())
    assert 255 * int(sums) <= 32767
