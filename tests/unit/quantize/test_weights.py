# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Codes of weights: the overflow rule against its definition, scales per block, fewer bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_compress.quantize.weights import WeightForm, nearest

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 9), st.sampled_from([1, 3]), st.sampled_from([1, 3]))


def drawn(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES.filter(lambda shape: shape[1] > 1), seed=st.integers(0, 1000))
def test_pairs_of_weights_cannot_saturate_sixteen_bits(shape, seed):
    codes = nearest(drawn(shape, seed), WeightForm(avoid_overflow=True)).codes.astype(np.int32)
    flat = codes.reshape(shape[0], shape[1], -1)
    worst = np.sort(np.abs(flat), axis=1)[:, -2:].sum(1).max() if shape[1] % 2 else 0
    even = shape[1] - shape[1] % 2
    pairs = flat[:, :even].reshape(shape[0], -1, 2, flat.shape[2])
    sums = max(np.maximum(pairs, 0).sum(2).max(), np.maximum(-pairs, 0).sum(2).max(), worst)
    assert 255 * int(sums) <= 32767


def test_weights_use_the_whole_range_where_nothing_can_saturate():
    codes = nearest(drawn((4, 8, 3, 3)), WeightForm()).codes
    assert (np.abs(codes.reshape(4, -1)).max(1) == 127).all()


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 1000), bits=st.integers(2, 8), group=st.sampled_from([None, 1, 2, 4]))
def test_every_weight_has_the_nearest_of_all_codes(shape, seed, bits, group):
    """Against a loop that tries every code."""
    form, weight = WeightForm(bits, group), drawn(shape, seed)
    found = nearest(weight, form)
    assert found.codes.dtype == np.int8
    assert found.scales.shape == (shape[0], shape[1] // group if group and shape[1] % group == 0 else 1)
    assert np.abs(found.codes).max() <= form.highest
    codes = np.arange(-form.highest, form.highest + 1)
    for index in np.ndindex(shape):
        step = found.scales[index[0], index[1] * found.scales.shape[1] // shape[1]]
        assert abs(found.values[index] - weight[index]) <= np.abs(codes * step - weight[index]).min() + 1e-6


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_few_bits_lose_less_with_clipping_and_less_again_with_blocks(bits):
    weight = drawn((8, 64, 3, 3))
    highest = WeightForm(bits).highest
    step = np.abs(weight).reshape(8, -1).max(1).reshape(8, 1, 1, 1) / highest
    unclipped = ((np.rint(weight / step) * step - weight) ** 2).sum()
    whole = ((nearest(weight, WeightForm(bits)).values - weight) ** 2).sum()
    blocks = ((nearest(weight, WeightForm(bits, 16)).values - weight) ** 2).sum()
    assert blocks < whole < unclipped


def test_scales_can_be_kept_from_falling_too_low():
    found = nearest(drawn((2, 4, 1, 1)) * 1e-6, WeightForm(), np.array([[0.5], [1.0]], np.float32))
    assert found.scales.tolist() == [[0.5], [1.0]]
    assert not found.codes.any()
