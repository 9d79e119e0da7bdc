# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Teachers: frozen, matched by name, refused with a reason, weighed against each other."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import FAMILIES, tiny_model
from yolo_compress.distill import Distillation
from yolo_compress.distill.answer import Answer, Branch, Scene, Side, head_channels
from yolo_compress.distill.teacher import Teacher, fit, level_number, shares
from yolo_compress.errors import UsageError
from yolo_compress.host.checkpoint import load_model
from yolo_compress.recipe import DistillSection
from yolo_compress.recipe.distill import TeacherOptions


def side(model):
    return Side(model, head_channels(model), "student")


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_is_frozen_and_says_what_its_checkpoint_says(make_checkpoint, family):
    file = make_checkpoint(family)
    teacher = Teacher(file)
    images = torch.rand(2, 3, 64, 64)
    before = {key: value.clone() for key, value in teacher.side.model.state_dict().items()}
    answer = teacher(images)
    assert not any(p.requires_grad for p in teacher.side.model.parameters())
    assert (answer.sparse is not None) == (family == "yolo26n")
    assert answer.dense.scores.shape == (2, 3, 84)
    assert tuple(f.shape[1] for f in answer.features) == teacher.side.channels == head_channels(load_model(file))
    assert all(torch.equal(value, before[key]) for key, value in teacher.side.model.state_dict().items())
    raw = load_model(file)(images)[1]  # BatchNorm apart, both branches there
    expected = raw.get("one2many", raw)
    assert torch.allclose(answer.dense.scores, expected["scores"], atol=1e-4)
    assert torch.allclose(answer.dense.boxes, expected["boxes"], atol=1e-4)


def test_classes_are_matched_by_name(make_checkpoint):
    teacher = Teacher(make_checkpoint())
    assert teacher.class_index(("Bar", "disc")) == (2, 0)
    images = torch.rand(1, 3, 64, 64)
    everything = teacher(images).dense.scores
    teacher.prepare(teacher.class_index(("bar", "disc")), (), device=torch.device("cpu"), cache=False)
    assert torch.equal(teacher(images).dense.scores, everything[:, [2, 0]])


def test_unknown_class_is_refused(make_checkpoint):
    with pytest.raises(UsageError, match=r"does not know 1 of the student's 2 classes \(zebra\)"):
        Teacher(make_checkpoint()).class_index(("disc", "zebra"))


def test_other_strides_are_refused(make_checkpoint):
    student = tiny_model()
    student.model[-1].stride = torch.tensor([4.0, 8.0, 16.0])
    with pytest.raises(UsageError, match=r"give a teacher with the same detection levels"):
        Teacher(make_checkpoint()).check_levels(side(student))


def test_a_level_that_is_not_there_is_refused(make_checkpoint):
    teacher = Teacher(TeacherOptions(path=str(make_checkpoint()), levels=(3, 6)))
    with pytest.raises(UsageError, match=r"has no level P6; its levels are P3, P4, P5"):
        teacher.check_levels(side(tiny_model()))


def test_a_teacher_weighs_only_at_its_levels(make_checkpoint):
    teacher = Teacher(TeacherOptions(path=str(make_checkpoint()), levels=(3,), weight=2.0))
    assert teacher.level_weights().tolist() == [2, 0, 0]
    assert [level_number(stride) for stride in (8.0, 16.0, 32.0)] == [3, 4, 5]


def test_a_teacher_must_be_named():
    with pytest.raises(UsageError, match=r"give teacher=FILE\.pt"):
        Distillation(DistillSection())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_answers_the_same_image_without_a_forward_pass(make_checkpoint, monkeypatch, family):
    teacher = Teacher(make_checkpoint(family))
    tap = "model.4"
    teacher.prepare((0, 1, 2), (tap,), device=torch.device("cpu"), cache=True)
    images = torch.rand(3, 3, 64, 64)
    first = teacher(images)
    monkeypatch.setattr(teacher.side.model, "forward", lambda *given: pytest.fail("a forward pass"))
    again = teacher(images[[2, 0]])
    assert torch.allclose(again.dense.scores, first.dense.scores[[2, 0]], rtol=1e-2, atol=1e-2)
    assert torch.allclose(again.features[1], first.features[1][[2, 0]], rtol=1e-2, atol=1e-2)
    assert torch.allclose(again.taps[tap], first.taps[tap][[2, 0]], rtol=1e-2, atol=1e-2)
    assert (again.sparse is None) == (first.sparse is None)


def test_the_teacher_that_finds_an_image_s_objects_has_the_larger_share_of_it():
    size, strides = (32, 32), (8.0, 16.0)
    features = (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 2, 2))
    # the first anchor stands at (4, 4): sides of half a stride make the box 0 0 8 8
    sides = torch.full((2, 4, 20), 0.5)
    scores = torch.full((2, 2, 20), -9.0)
    good = scores.clone()
    good[0, 1, 0] = 9.0
    boxes = torch.tensor([[0.125, 0.125, 0.25, 0.25]])
    scene = Scene(size, 2, boxes, torch.tensor([0]), torch.tensor([1]))
    fits = torch.stack([fit(Answer(Branch(s, sides), None, features), scene, strides) for s in (good, scores)])
    assert fits[0, 0] == pytest.approx(1, abs=1e-3)
    assert fits[1, 0] == pytest.approx(0, abs=1e-3)
    assert fits[:, 1].tolist() == [0, 0]
    found = shares(fits)
    assert found[0, 0] > 1.9
    assert found[:, 1].tolist() == [1, 1]
    assert torch.allclose(found.mean(0), torch.ones(2))
