# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Distillation losses against definitions written out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_compress.distill.losses import LOSSES, ChannelWise, Response, Shapes, binary_response, channel_wise_divergence


def cwd_by_hand(student, teacher, tau):
    """Loop over images and channels, with torch's own KL divergence between two categorical distributions."""
    n, c = student.shape[:2]

    def standard(x):
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, unbiased=False).sqrt() + 1e-6)

    s, t = standard(student), standard(teacher)
    total = 0.0
    for i in range(n):
        for j in range(c):
            p = torch.distributions.Categorical(logits=t[i, j].flatten() / tau)
            q = torch.distributions.Categorical(logits=s[i, j].flatten() / tau)
            total = total + torch.distributions.kl_divergence(p, q)
    return total * tau**2 / (n * c)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 3),
    c=st.integers(1, 4),
    h=st.integers(2, 5),
    w=st.integers(2, 5),
    tau=st.sampled_from([0.5, 1.0, 4.0]),
)
def test_cwd_equals_its_definition(n, c, h, w, tau):
    torch.manual_seed(n * 100 + c * 10 + h + w)
    student, teacher = torch.randn(2, n, c, h, w)
    assert channel_wise_divergence(student, teacher, tau).item() == pytest.approx(
        cwd_by_hand(student, teacher, tau).item(), rel=1e-4, abs=1e-6
    )


def test_cwd_ignores_scale_and_offset_of_a_channel():
    teacher = torch.randn(2, 3, 4, 4)
    student = teacher * torch.tensor([0.1, 5.0, 2.0]).view(1, 3, 1, 1) + torch.tensor([1.0, -3.0, 0.0]).view(1, 3, 1, 1)
    assert channel_wise_divergence(student, teacher).item() == pytest.approx(0, abs=1e-5)


def test_cwd_survives_a_constant_channel():
    student = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = channel_wise_divergence(student, torch.randn(1, 2, 4, 4))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_response_equals_its_definition():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 7)
    p_t, p_s = teacher.sigmoid(), student.sigmoid()
    expected = ((p_t - p_s).abs() * F.binary_cross_entropy(p_s, p_t, reduction="none")).sum()
    expected = expected / max(p_t.amax(1).sum().item(), 1.0)
    assert binary_response(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


def test_response_pulls_towards_the_teacher():
    student = torch.tensor([[[0.0, 3.0]]], requires_grad=True)
    binary_response(student, torch.tensor([[[4.0, -4.0]]])).backward()
    assert student.grad[0, 0, 0] < 0 < student.grad[0, 0, 1]


def test_response_weight_carries_no_gradient():
    student = torch.randn(1, 2, 5, requires_grad=True)
    teacher = torch.randn(1, 2, 5)
    binary_response(student, teacher).backward()
    p_s, p_t = student.detach().sigmoid(), teacher.sigmoid()
    expected = (p_t - p_s).abs() * (p_s - p_t) / max(p_t.amax(1).sum().item(), 1.0)
    assert torch.allclose(student.grad, expected, atol=1e-6)


def outputs(channels, classes, branches=("",)):
    feats = [torch.randn(2, c, s, s) for c, s in zip(channels, (4, 2), strict=True)]
    one = {"scores": torch.randn(2, classes, 20), "boxes": torch.randn(2, 64, 20), "feats": feats}
    return one if branches == ("",) else dict.fromkeys(branches, one)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("student_branches", [("",), ("one2many", "one2one")])
@pytest.mark.parametrize("teacher_branches", [("",), ("one2many", "one2one")])
def test_every_loss_works_across_families(name, student_branches, teacher_branches):
    shapes = Shapes((8, 16), (12, 16), (2, 0), 1.0)
    loss = LOSSES[name].build(shapes)
    value = loss(outputs((8, 16), 2, student_branches), outputs((12, 16), 3, teacher_branches))
    assert value.ndim == 0
    assert torch.isfinite(value)


def test_projectors_only_where_channels_differ():
    loss = ChannelWise(Shapes((8, 16), (12, 16), (0,), 1.0))
    assert [type(p).__name__ for p in loss.modules()] == ["Conv2d", "Identity"]


def test_one2one_never_follows_dense_targets():
    student = {
        "one2many": {"scores": torch.zeros(1, 1, 4)},
        "one2one": {"scores": torch.zeros(1, 1, 4, requires_grad=True)},
    }
    dense = {"scores": torch.full((1, 1, 4), 3.0)}
    student["one2many"]["scores"].requires_grad_()
    Response(Shapes((), (), (0,), 1.0))(student, dense).backward()
    assert student["one2one"]["scores"].grad is None
    assert student["one2many"]["scores"].grad is not None
