# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Weight quantizers for training: values of the graph, gradients of the straight-through definitions by autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_compress.quantize.forms import WEIGHT_FORMS
from yolo_compress.quantize.straight import weight_quantizer
from yolo_compress.quantize.weights import WeightForm, nearest, with_scales

KINDS = [name for name in WEIGHT_FORMS if name != "uniform"]


def begun(kind, shape=(3, 4, 3, 3), group=None, seed=0):
    weight = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    form = WeightForm(WEIGHT_FORMS[kind].default_bits, group, kind=kind)
    known = nearest(weight, form)
    return weight, form, known, weight_quantizer(known.scales, form, known.table)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    outputs=st.integers(1, 4),
    group=st.sampled_from([None, 2]),
    seed=st.integers(0, 2**16),
)
def test_values_are_those_of_the_graph(kind, outputs, group, seed):
    weight, form, known, quantizer = begun(kind, (outputs, 4, 3, 3), None if WEIGHT_FORMS[kind].cast else group, seed)
    given_ = torch.from_numpy(weight)
    scales = quantizer.scales(given_)
    np.testing.assert_allclose(scales, known.scales, rtol=1e-5)
    written = with_scales(weight, scales, form, quantizer.values_of_table())
    found = quantizer(given_).detach().numpy()
    apart = np.abs(found - written.values) > 1e-5 * np.abs(written.values).max()
    assert apart.sum() <= 1  # a logarithm and back can move a border across a weight


class Straight(torch.autograd.Function):
    """Any function of a tensor, whose gradient is passed on as it is."""

    @staticmethod
    def forward(ctx, values, function):
        return function(values)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def gradients(quantizer, weight):
    torch.manual_seed(0)
    given_ = torch.from_numpy(weight).requires_grad_()
    towards = torch.randn(weight.shape)
    (quantizer(given_) * towards).sum().backward()
    return given_.grad, towards


@pytest.mark.parametrize("kind", ["binary", "ternary", "fp16", "bf16", "codebook"])
def test_gradients_of_weights_go_straight_through(kind):
    weight, _, known, quantizer = begun(kind, group=None)
    found, towards = gradients(quantizer, weight)
    twin = torch.from_numpy(weight).requires_grad_()
    fixed = torch.from_numpy(known.values)
    (Straight.apply(twin, lambda _: fixed) * towards).sum().backward()
    torch.testing.assert_close(found, twin.grad)
    assert len(list(quantizer.parameters())) == (kind == "codebook")


@pytest.mark.parametrize("group", [None, 2])
def test_gradients_of_powers_of_two_are_those_of_learned_steps(group):
    weight, form, _, quantizer = begun("pow2", group=group)
    weight *= 1.5  # some lie outside of the outermost levels
    found, towards = gradients(quantizer, weight)
    levels = torch.from_numpy(form.levels.astype(np.float32))
    scales = quantizer.log_scale.detach().exp().requires_grad_()
    twin = torch.from_numpy(weight).requires_grad_()
    wide = scales.repeat_interleave(4 // scales.shape[1], dim=1)[:, :, None, None]
    inside = (twin / wide).clamp(-64, 64)
    codes = Straight.apply(inside, lambda v: levels[(v[..., None] - levels).abs().argmin(-1)])
    (codes * wide * towards).sum().backward()
    torch.testing.assert_close(found, twin.grad)
    assert (found == 0).any()
    factor = (4 // scales.shape[1] * 9 * 64) ** -0.5 / scales.detach()
    torch.testing.assert_close(quantizer.log_scale.grad, scales.grad * factor, rtol=1e-3, atol=1e-6)


def test_a_codebook_comes_back_with_the_scales_that_its_values_were_learned_under():
    weight, _, _, quantizer = begun("codebook", group=2)
    _, _, _, other = begun("codebook", group=2)
    other.fixed *= 2
    other.load_state_dict(quantizer.state_dict())
    weight = torch.from_numpy(weight)
    assert torch.equal(other(weight), quantizer(weight))


def test_a_value_of_a_codebook_learns_from_the_weights_that_have_it():
    weight, _, known, quantizer = begun("codebook", group=2)
    _, towards = gradients(quantizer, weight)
    share = (towards.numpy() * known.spread).ravel()
    expected = np.bincount(known.codes.ravel(), weights=share, minlength=16)
    np.testing.assert_allclose(quantizer.table.grad.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_values_that_pass_each_other_stay_in_order():
    weight, _, known, quantizer = begun("codebook")
    with torch.no_grad():
        quantizer.table.copy_(quantizer.table.flip(0))
    assert np.array_equal(quantizer.values_of_table(), known.table)
    np.testing.assert_allclose(quantizer(torch.from_numpy(weight)).detach().numpy(), known.values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_no_precision_moves_a_code(kind):
    weight, _, _, quantizer = begun(kind)
    before = quantizer(torch.from_numpy(weight))
    quantizer.half()
    assert all(value.dtype == torch.float32 for value in quantizer.state_dict().values())
    assert torch.equal(quantizer(torch.from_numpy(weight)), before)


@pytest.mark.parametrize("kind", ["binary", "ternary"])
def test_scales_follow_the_weights(kind):
    weight, form, _, quantizer = begun(kind, group=2)
    moved = torch.from_numpy(weight * 3 + 0.1)
    expected = nearest(moved.numpy(), form)
    np.testing.assert_allclose(quantizer.scales(moved), expected.scales, rtol=1e-5)
    np.testing.assert_allclose(quantizer(moved).numpy(), expected.values, rtol=1e-4)
