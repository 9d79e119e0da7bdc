# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantizers that learn: forward as the operators do, gradients as the source defines them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.fake import ActivationQuantizer, WeightQuantizer, pair_peaks
from yolo_compress.quantize.weights import WeightForm, channel_peaks, nearest, spread


@given(
    scale=st.floats(1e-4, 10.0),
    zero=st.integers(-128, 127),
    signed=st.booleans(),
    seed=st.integers(0, 2**16),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_values_are_those_of_the_operators(scale, zero, signed, seed, shape):
    start = Affine(np.float32(scale), zero if signed else zero + 128, signed)
    quantizer = ActivationQuantizer(start)
    affine = quantizer.affine()  # a logarithm and back costs the last digit of a scale
    assert affine.scale == pytest.approx(float(start.scale), rel=1e-5)
    assert (affine.zero_point, affine.signed) == (start.zero_point, signed)
    x = np.random.default_rng(seed).normal(0, 100 * scale, shape).astype(np.float32)
    ratio = x / affine.scale
    clear = np.abs(ratio - np.floor(ratio) - 0.5) > 1e-3  # at a tie, a product and a quotient may round apart
    found = quantizer(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found[clear], affine.round_trip(x)[clear], rtol=1e-6)


@given(bits=st.integers(2, 8), outputs=st.integers(1, 4), blocks=st.sampled_from([1, 2]), seed=st.integers(0, 2**16))
def test_weights_are_those_of_the_graph(bits, outputs, blocks, seed):
    weight = np.random.default_rng(seed).normal(size=(outputs, 4, 3, 3)).astype(np.float32)
    form = WeightForm(bits, 4 // blocks if blocks > 1 else None)
    known = nearest(weight, form)
    quantizer = WeightQuantizer(known.scales, form)
    scales = quantizer.scales(torch.from_numpy(weight))
    np.testing.assert_allclose(scales, known.scales, rtol=1e-5)
    ratio = weight / spread(scales, 4)
    clear = np.abs(ratio - np.floor(ratio) - 0.5) > 1e-3
    found = quantizer(torch.from_numpy(weight)).detach().numpy()
    np.testing.assert_allclose(found[clear], known.values[clear], rtol=1e-4)


class Round(torch.autograd.Function):
    """Rounding that passes gradients on."""

    @staticmethod
    def forward(ctx, values):
        return values.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def straight_through(x: torch.Tensor, scale: torch.Tensor, zero: float, low: int, high: int) -> torch.Tensor:
    """The definition, all but rounding left to automatic differentiation: values that round to an edge are within."""
    codes, below, above = Round.apply(x / scale), torch.tensor(float(low - zero)), torch.tensor(float(high - zero))
    return torch.where(codes < below, below, torch.where(codes > above, above, codes)) * scale


@pytest.mark.parametrize(("zero", "signed"), [(0, True), (3, False), (-128, True), (120, False)])
def test_gradients_are_those_of_the_definition(zero, signed):
    torch.manual_seed(0)
    quantizer = ActivationQuantizer(Affine(np.float32(0.03), zero, signed))
    # in and outside of the range, and never at a tie, where a product and a quotient may round apart
    codes = torch.randint(-200, 200, (2, 3, 8, 8)) + torch.rand(2, 3, 8, 8) * 0.8 - 0.4
    x = (codes * quantizer.log_scale.exp().detach()).requires_grad_()
    towards = torch.randn(2, 3, 8, 8)
    (quantizer(x) * towards).sum().backward()
    twin, scale = x.detach().clone().requires_grad_(), torch.tensor(float(quantizer.affine().scale), requires_grad=True)
    (straight_through(twin, scale, zero, quantizer.low, quantizer.high) * towards).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad)
    # the parameter is the logarithm, and its gradient that of the scale over the scale
    factor = (3 * 8 * 8 * quantizer.high) ** -0.5 / scale.item()
    torch.testing.assert_close(quantizer.log_scale.grad[0], scale.grad * factor, rtol=1e-3, atol=1e-6)


def test_gradients_of_weight_scales_are_those_of_the_definition():
    torch.manual_seed(0)
    form = WeightForm(4, 2)
    quantizer = WeightQuantizer(np.full((3, 2), 0.2, np.float32), form)
    weight = torch.randn(3, 4, 3, 3, requires_grad=True)
    towards = torch.randn(3, 4, 3, 3)
    (quantizer(weight) * towards).sum().backward()
    twin, scales = weight.detach().clone().requires_grad_(), torch.full((3, 2), 0.2, requires_grad=True)
    wide = scales.repeat_interleave(2, dim=1)[:, :, None, None]
    (straight_through(twin, wide, 0, -7, 7) * towards).sum().backward()
    torch.testing.assert_close(weight.grad, twin.grad)
    factor = (2 * 9 * 7) ** -0.5 / 0.2
    torch.testing.assert_close(quantizer.log_scale.grad, scales.grad * factor, rtol=1e-3, atol=1e-6)


def test_scales_follow_a_device_and_no_precision():
    quantizer = ActivationQuantizer(Affine(np.float32(0.0123), 0, True))
    before = quantizer.log_scale.item()
    holder = torch.nn.Sequential(quantizer, torch.nn.Conv2d(1, 1, 1)).half()
    assert holder[1].weight.dtype == torch.float16
    assert quantizer.log_scale.dtype == quantizer.zero_point.dtype == torch.float32
    assert quantizer.log_scale.item() == before
    assert quantizer(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


@given(outputs=st.integers(1, 4), inputs=st.integers(1, 6), kernel=st.sampled_from([1, 3]), seed=st.integers(0, 999))
def test_limits_of_pairs_are_those_of_the_search(outputs, inputs, kernel, seed):
    weight = np.random.default_rng(seed).normal(size=(outputs, inputs, kernel, kernel)).astype(np.float32)
    found = pair_peaks(torch.from_numpy(weight)).numpy()
    limited = channel_peaks(weight, WeightForm(avoid_overflow=True))[:, 0]
    whole = channel_peaks(weight, WeightForm())[:, 0]
    np.testing.assert_allclose(np.maximum(found, whole), limited, rtol=1e-6)


def test_learned_scales_cannot_make_pairs_saturate():
    torch.manual_seed(0)
    form = WeightForm(avoid_overflow=True)
    weight = torch.randn(4, 6, 3, 3)
    quantizer = WeightQuantizer(nearest(weight.numpy(), form).scales, form)
    with torch.no_grad():
        quantizer.log_scale -= 1.0
    codes = quantizer(weight).detach().numpy() / quantizer.scales(weight)[:, :, None, None]
    pairs = np.rint(codes).reshape(4, 3, 2, -1)
    assert np.clip(pairs, 0, None).sum(2).max() <= 128
    assert np.clip(pairs, None, 0).sum(2).min() >= -128
