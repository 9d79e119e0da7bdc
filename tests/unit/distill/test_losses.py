# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Distillation losses in float64 against definitions written out as loops, and their gradients."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from yolo_compress.distill import classic_distillation
from yolo_compress.distill.answer import Scene
from yolo_compress.distill.attention import (
    attention_matrix,
    channel_attention,
    energy_distance,
    map_distance,
    spatial_attention,
)
from yolo_compress.distill.features import channel_wise_divergence, focal_squares, foreground, weighted_squares
from yolo_compress.distill.relation import angle_loss, distance_loss, likeness_loss
from yolo_compress.distill.response import (
    best_anchors,
    binary_response,
    distribution_divergence,
    overlap_distance,
)

shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 5), st.integers(2, 5))


def draw(*shape, seed=0):
    return torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def kl(p, q):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def close(value, expected):
    value = value.detach().numpy() if torch.is_tensor(value) else value
    return np.allclose(value, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(shape=shapes, tau=st.sampled_from([0.5, 1.0, 4.0]))
def test_cwd_equals_its_definition(shape, tau):
    student, teacher = draw(*shape)
    n, c, _, _ = shape

    def standard(x):
        x = x.numpy()
        return (x - x.mean((0, 2, 3), keepdims=True)) / (x.std((0, 2, 3), keepdims=True) + 1e-6)

    s, t = standard(student), standard(teacher)
    expected = [
        sum(kl(softmax(t[i, j].ravel() / tau), softmax(s[i, j].ravel() / tau)) for j in range(c)) * tau**2 / c
        for i in range(n)
    ]
    assert close(channel_wise_divergence(student, teacher, tau), expected)


def test_cwd_ignores_scale_and_offset_of_a_channel():
    teacher = torch.randn(2, 3, 4, 4)
    student = teacher * torch.tensor([0.1, 5.0, 2.0]).view(1, 3, 1, 1) + torch.tensor([1.0, -3.0, 0.0]).view(1, 3, 1, 1)
    assert channel_wise_divergence(student, teacher).sum().item() == pytest.approx(0, abs=1e-5)


def test_cwd_survives_a_constant_channel():
    student = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = channel_wise_divergence(student, torch.randn(1, 2, 4, 4)).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@settings(max_examples=20, deadline=None)
@given(shape=shapes)
def test_mimic_equals_the_loss_of_ultralytics(shape):
    from ultralytics.nn.distill_model import DistillationModel

    student, teacher = draw(*shape)
    belief = torch.rand(shape[0], 1, *shape[2:], dtype=torch.float64)
    native = DistillationModel.loss_sl2(SimpleNamespace(), student, teacher, 0, (belief.flatten(2),))
    assert close(weighted_squares(student, teacher, belief).sum(), native.item())


@settings(max_examples=20, deadline=None)
@given(shape=shapes, temperature=st.sampled_from([0.5, 2.0]))
def test_attention_maps_equal_their_definitions(shape, temperature):
    student, teacher = draw(*shape)
    n, c, h, w = shape
    expected = []
    for i in range(n):
        maps = []
        for f in (student[i].numpy(), teacher[i].numpy()):
            space = h * w * softmax(np.abs(f).mean(0).ravel() / temperature)
            channel = c * softmax(np.abs(f).mean((1, 2)) / temperature)
            maps.append((space, channel))
        expected.append(sum(np.abs(a - b).mean() for a, b in zip(*maps, strict=True)))
    assert close(map_distance(student, teacher, temperature), expected)
    assert close(spatial_attention(student, temperature).mean((1, 2)), np.ones(n))
    assert close(channel_attention(student, temperature).mean(1), np.ones(n))


def test_attention_maps_of_two_widths_leave_channels_out():
    student = torch.randn(2, 3, 4, 4)
    wider = torch.cat([student, student], 1)
    assert map_distance(student, wider).max() < 1e-6


@settings(max_examples=20, deadline=None)
@given(shape=shapes, scale=st.floats(0.1, 9))
def test_energy_maps_equal_their_definition_and_ignore_scale(shape, scale):
    student, teacher = draw(*shape)
    expected = []
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        q = [(f**2).sum(0).ravel() for f in (s, t)]
        expected.append(np.linalg.norm(q[0] / np.linalg.norm(q[0]) - q[1] / np.linalg.norm(q[1])))
    assert close(energy_distance(student, teacher), expected)
    assert close(energy_distance(student * scale, teacher), expected)


def test_energy_maps_need_no_equal_widths_and_have_a_gradient_where_they_agree():
    student = torch.randn(1, 4, 3, 3, requires_grad=True)
    energy_distance(student, student.detach()).sum().backward()
    assert torch.isfinite(student.grad).all()
    assert energy_distance(torch.randn(1, 2, 3, 3), torch.randn(1, 5, 3, 3)).shape == (1,)


@pytest.mark.parametrize(("heads", "key", "value"), [(1, 2, 4), (2, 3, 6), (3, 2, 2)])
def test_the_attention_matrix_is_that_of_the_block(heads, key, value):
    from ultralytics.nn.modules.block import Attention

    torch.manual_seed(0)
    block = Attention(heads * value, heads, key / value).eval()
    seen = {}
    block.qkv.register_forward_hook(lambda m, i, out: seen.update(qkv=out))
    x = torch.randn(2, heads * value, 3, 2)
    expected = block(x)
    weights = attention_matrix(seen["qkv"], heads, key, value).exp()
    assert torch.allclose(weights.sum(-1), torch.ones(()))
    v = seen["qkv"].view(2, heads, 2 * key + value, 6)[:, :, 2 * key :]
    mixed = (v @ weights.transpose(-2, -1)).view(2, -1, 3, 2) + block.pe(v.reshape(2, -1, 3, 2))
    assert torch.allclose(block.proj(mixed), expected, atol=1e-5)


def test_foreground_gives_every_object_the_same_weight_and_overlaps_the_smaller_one():
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.25, 0.25, 0.25]])
    mask = foreground(Scene((64, 64), 2, boxes, torch.tensor([0, 0])), 8, 8, torch.zeros(()))
    assert mask.shape == (2, 1, 8, 8)
    assert mask[1].sum() == 0
    by_hand = torch.full((8, 8), 1 / 64)
    by_hand[1:3, 1:3] = 1 / 4
    assert torch.equal(mask[0, 0], by_hand)


@settings(max_examples=20, deadline=None)
@given(shape=shapes)
def test_focal_squares_equal_their_definition(shape):
    student, teacher = draw(*shape)
    n, c, h, w = shape
    objects = torch.zeros(n, 1, h, w, dtype=torch.float64)
    objects[:, :, 0, 0], objects[:, :, 1, 1] = 0.5, 0.25
    expected = []
    for i in range(n):
        s, t, o = student[i].numpy(), teacher[i].numpy(), objects[i, 0].numpy()
        space = (h * w * softmax(np.abs(t).mean(0).ravel() / 0.5)).reshape(h, w)
        channel = c * softmax(np.abs(t).mean((1, 2)) / 0.5)
        empty = (o == 0).sum()
        total = 0.0
        for j in range(c):
            for y in range(h):
                for x in range(w):
                    share = o[y, x] / o.sum() if o[y, x] else 0.5 / empty
                    total += share * space[y, x] * channel[j] * (s[j, y, x] - t[j, y, x]) ** 2 / c
        expected.append(total + 0.05 * map_distance(student, teacher)[i].item())
    assert close(focal_squares(student, teacher, objects), expected)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 5), c=st.integers(1, 4), d=st.integers(1, 4))
def test_distances_equal_their_definition(n, c, d):
    student, teacher = draw(n, c)[0], draw(n, d, seed=1)[1]

    def pairs(x):
        raw = {(i, j): np.linalg.norm(x[i] - x[j]) for i, j in permutations(range(n), 2)}
        mean = sum(raw.values()) / len(raw)
        return {key: value / mean for key, value in raw.items()}

    s, t = pairs(student.numpy()), pairs(teacher.numpy())
    expected = np.mean([huber(s[key] - t[key]) for key in s])
    assert close(distance_loss(student, teacher), expected)


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


@settings(max_examples=20, deadline=None)
@given(n=st.integers(3, 5), c=st.integers(2, 4), d=st.integers(2, 4))
def test_angles_equal_their_definition(n, c, d):
    student, teacher = draw(n, c)[0], draw(n, d, seed=1)[1]

    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    s, t = student.numpy(), teacher.numpy()
    expected = np.mean([huber(cosine(s, *ijk) - cosine(t, *ijk)) for ijk in permutations(range(n), 3)])
    assert close(angle_loss(student, teacher), expected)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 5), c=st.integers(1, 4), d=st.integers(1, 4))
def test_likeness_equals_its_definition(n, c, d):
    student, teacher = draw(n, c)[0].numpy(), draw(n, d, seed=1)[1].numpy()

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    gaps = [cosine(student[i], student[j]) - cosine(teacher[i], teacher[j]) for i, j in combinations(range(n), 2)]
    expected = 2 * sum(gap**2 for gap in gaps) / n**2
    assert close(likeness_loss(torch.tensor(student), torch.tensor(teacher)), expected)


@pytest.mark.parametrize("loss", [distance_loss, angle_loss, likeness_loss])
def test_relations_ignore_rotation_scale_and_order_and_are_zero_where_there_is_none(loss):
    student, teacher = draw(6, 3)
    rotation = torch.linalg.qr(draw(3, 3)[0])[0]
    expected = loss(student, teacher)
    assert loss(student @ rotation * 3, teacher).item() == pytest.approx(expected.item())
    order = torch.randperm(6)
    assert loss(student[order], teacher[order]).item() == pytest.approx(expected.item())
    assert loss(student[:1], teacher[:1]) == 0
    assert loss(student, student).item() == pytest.approx(0, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), classes=st.integers(1, 4), anchors=st.integers(1, 7))
def test_response_equals_its_definition(n, classes, anchors):
    student, teacher = draw(n, classes, anchors) * 2
    p_s, p_t = sigmoid(student.numpy()), sigmoid(teacher.numpy())
    total = np.zeros((n, anchors))
    for i in range(n):
        for c in range(classes):
            for a in range(anchors):
                s, t = p_s[i, c, a], p_t[i, c, a]
                total[i, a] += abs(t - s) * -(t * math.log(s) + (1 - t) * math.log(1 - s))
    assert close(binary_response(student, teacher), total / max(p_t.max(1).sum(), 1))


def test_response_weight_carries_no_gradient():
    student, teacher = draw(1, 2, 5)
    student.requires_grad_()
    binary_response(student, teacher).sum().backward()
    p_s, p_t = student.detach().sigmoid(), teacher.sigmoid()
    expected = (p_t - p_s).abs() * (p_s - p_t) / max(p_t.amax(1).sum().item(), 1.0)
    assert torch.allclose(student.grad, expected)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 2), bins=st.integers(2, 5), anchors=st.integers(1, 5), temperature=st.sampled_from([1.0, 10.0]))
def test_distributions_equal_their_definition(n, bins, anchors, temperature):
    student, teacher = draw(n, 4 * bins, anchors)
    weight = torch.rand(n, anchors, dtype=torch.float64)
    expected = np.zeros((n, anchors))
    for i in range(n):
        for a in range(anchors):
            for side in range(4):
                at = slice(side * bins, (side + 1) * bins)
                s, t = (x[i, at, a].numpy() / temperature for x in (student, teacher))
                expected[i, a] += kl(softmax(t), softmax(s)) / 4
    expected *= temperature**2 * weight.numpy() / weight.sum().item()
    assert close(distribution_divergence(student, teacher, weight, temperature), expected)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 2), anchors=st.integers(1, 6))
def test_overlap_equals_that_of_decoded_boxes(n, anchors):
    student, teacher = draw(n, 4, anchors).abs()
    weight = torch.rand(n, anchors, dtype=torch.float64)
    stride = torch.tensor([8.0, 16.0, 32.0] * 2, dtype=torch.float64)[:anchors]
    size = (320, 640)
    expected = np.zeros((n, anchors))
    for i in range(n):
        for a in range(anchors):
            place = np.array([100.0, 70.0])  # cancels out
            boxes = []
            for distances in (student, teacher):
                left, top, right, bottom = distances[i, :, a].numpy() * stride[a].item()
                boxes.append((place[0] - left, place[1] - top, place[0] + right, place[1] + bottom))
            (ax, ay, bx, by), (cx, cy, dx, dy) = boxes
            both = max(0, min(bx, dx) - max(ax, cx)) * max(0, min(by, dy) - max(ay, cy))
            iou = both / ((bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - both)
            sides = np.abs(np.array(boxes[0]) - np.array(boxes[1])) / np.array([640, 320, 640, 320])
            expected[i, a] = (1 - iou + sides.mean()) * weight[i, a].item() / weight.sum().item()
    assert close(overlap_distance(student, teacher, weight, stride, size), expected)


def test_overlap_of_boxes_turned_inside_out_is_none():
    student = torch.full((1, 4, 1), -1.0, requires_grad=True)
    loss = overlap_distance(student, torch.ones(1, 4, 1), torch.ones(1, 1), torch.tensor([8.0]), (80, 80))
    loss.sum().backward()
    assert loss.item() == pytest.approx(1 + 2 * 8 / 80)
    assert (student.grad < 0).all()


def test_classic_distillation_equals_its_definition():
    student, teacher = draw(3, 5)
    labels = torch.tensor([0, 4, 2])
    expected = 0.0
    for i in range(3):
        s, t = (softmax(x[i].numpy() / 4) for x in (student, teacher))
        hard = -math.log(softmax(student[i].numpy())[labels[i]])
        expected += (0.3 * hard + 0.7 * 16 * kl(t, s)) / 3
    assert close(classic_distillation(student, teacher, labels, 0.3, 4.0), expected)


def test_best_anchors_are_those_of_the_best_class():
    scores = torch.zeros(1, 2, 200)
    scores[0, 1, ::2] = torch.arange(100.0) + 1
    assert torch.equal(best_anchors(scores)[0].nonzero()[:, 0], torch.arange(0, 200, 2))


weight = torch.rand(2, 5, dtype=torch.float64)
stride = torch.full((5,), 8.0, dtype=torch.float64)
belief = torch.rand(2, 1, 3, 3, dtype=torch.float64)
objects = (belief > 0.5).double() / 4


def rows_differ(student, teacher):
    """Compare the rows of two attention matrices, two heads with keys of two channels and values of one."""
    ours, theirs = attention_matrix(student, 2, 2, 1), attention_matrix(teacher, 2, 2, 1)
    return F.kl_div(ours, theirs, reduction="sum", log_target=True)


DISTANCES = (
    (channel_wise_divergence, (2, 3, 3, 3)),
    (lambda s, t: weighted_squares(s, t, belief), (2, 3, 3, 3)),
    (map_distance, (2, 3, 3, 3)),
    (energy_distance, (2, 3, 3, 3)),
    (lambda s, t: focal_squares(s, t, objects), (2, 3, 3, 3)),
    (rows_differ, (2, 10, 2, 2)),
    (distance_loss, (4, 3)),
    (angle_loss, (4, 3)),
    (likeness_loss, (4, 3)),
    (lambda s, t: distribution_divergence(s, t, weight, 10.0), (2, 8, 5)),
    (lambda s, t: overlap_distance(s.abs(), t.abs(), weight, stride, (64, 64)), (2, 4, 5)),
)


@pytest.mark.parametrize(("loss", "shape"), DISTANCES)
def test_a_distance_has_its_own_gradient_and_ends_at_the_teacher(loss, shape):
    student, teacher = draw(*shape, seed=3)
    assert gradcheck(lambda s: loss(s, teacher), (student.clone().requires_grad_(),), atol=1e-6)
    assert loss(student, teacher).sum() > 1e-3
    assert loss(teacher, teacher).sum().item() == pytest.approx(0, abs=1e-5)


def test_classic_distillation_has_its_own_gradient():
    student, teacher = draw(2, 4)
    labels = torch.tensor([0, 1])
    assert gradcheck(lambda s: classic_distillation(s, teacher, labels, 0.5, 3.0), (student.requires_grad_(),))
