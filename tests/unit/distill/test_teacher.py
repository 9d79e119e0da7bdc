# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Teachers: frozen, matched by name, refused with a reason."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import FAMILIES, tiny_model
from yolo_compress.distill import Distillation
from yolo_compress.distill.teacher import Teacher, head_channels
from yolo_compress.errors import UsageError
from yolo_compress.recipe import DistillSection


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_is_frozen_and_gives_raw_output(make_checkpoint, family):
    teacher = Teacher(make_checkpoint(family))
    before = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    out = teacher(torch.rand(2, 3, 64, 64))
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert ("one2one" in out) == (family == "yolo26n")
    dense = out.get("one2many", out)
    assert dense["scores"].shape == (2, 3, 84)
    assert tuple(f.shape[1] for f in dense["feats"]) == head_channels(teacher.model)
    assert all(torch.equal(value, before[key]) for key, value in teacher.model.state_dict().items())


def test_classes_are_matched_by_name(make_checkpoint):
    teacher = Teacher(make_checkpoint())
    assert teacher.class_index(("Bar", "disc")) == (2, 0)


def test_unknown_class_is_refused(make_checkpoint):
    with pytest.raises(UsageError, match=r"does not know 1 of the student's 2 classes \(zebra\)"):
        Teacher(make_checkpoint()).class_index(("disc", "zebra"))


def test_other_strides_are_refused(make_checkpoint):
    student = tiny_model()
    student.stride = torch.tensor([4.0, 8.0, 16.0])
    with pytest.raises(UsageError, match=r"give a teacher with the same detection levels"):
        Teacher(make_checkpoint()).check_levels(student)


def test_a_teacher_must_be_named():
    with pytest.raises(UsageError, match=r"give teacher=FILE\.pt"):
        Distillation(DistillSection())
