# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The student's features in the teacher's head."""

from __future__ import annotations

import torch
from torch import nn

from yolo_compress.distill.answer import Answer, Branch, Pair, Scene, Side
from yolo_compress.distill.projector import project, projectors
from yolo_compress.distill.response import (
    HeadLoss,
    binary_response,
    box_weight,
    distribution_divergence,
    overlap_distance,
)

TOWERS = ("cv3", "cv2")  # classes, boxes


class CrossHead(HeadLoss):
    """CrossKD: what leaves the first layer of each of the student's towers goes through the rest of the teacher's.

    The answer that comes out is compared with the teacher's own, classes as in `response` and boxes as in `box`. Since
    the teacher's layers produce it, the student's last layers are free to follow the labels.

    Source: Wang et al. 2024, CrossKD: Cross-Head Knowledge Distillation for Object Detection.
    """

    default_temperature = 10.0

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        self.classes = torch.tensor(pair.classes)
        self.student_taps, self.teacher_taps = _first_layers(pair.student), _first_layers(pair.teacher)
        head = pair.teacher.head
        self._distributions = head.reg_max > 1
        # a plain list: the teacher's layers are not trained, moved or saved with this loss
        self._rest = [tower[1:] for kind in TOWERS for tower in getattr(head, kind)]
        ours, theirs = _widths(pair.student, self.student_taps), _widths(pair.teacher, self.teacher_taps)
        self.projectors = projectors(zip(ours, theirs, strict=True))

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Sum the class and the box part."""
        crossed = []
        taps = zip(self.student_taps, self.teacher_taps, self.projectors, self._rest, strict=True)
        for ours, theirs, projector, rest in taps:
            feature = project(projector, student.taps[ours], teacher.taps[theirs])
            with scene.autocast(feature.device):
                crossed.append(rest(feature).flatten(2))
        levels = len(self.strides)
        scores, boxes = (torch.cat(part, 2).float() for part in (crossed[:levels], crossed[levels:]))
        answer = Branch(scores[:, self.classes.to(scores.device)], boxes)
        target, weight = teacher.dense, box_weight(teacher.dense, sparse=False)
        if self._distributions:
            sides = distribution_divergence(boxes, target.boxes.float(), weight, self.temperature)
        else:
            stride = self.anchor_strides(student)
            sides = overlap_distance(answer.distances(), target.distances(), weight, stride, scene.size)
        return self.by_level([binary_response(answer.scores, target.scores.float()) + sides], student)

    def modules(self) -> nn.Module:
        """Return the projectors."""
        return self.projectors


def _first_layers(side: Side) -> tuple[str, ...]:
    """Return the first layer of each tower by name, class towers first."""
    head = side.head
    return tuple(f"model.{head.i}.{kind}.{level}.0" for kind in TOWERS for level in range(len(side.strides)))


def _widths(side: Side, layers: tuple[str, ...]) -> tuple[int, ...]:
    """Return the channels that leave each layer, or left it when the run began."""
    found = []
    for name in layers:
        convolutions = [module for module in side.module(name).modules() if isinstance(module, nn.Conv2d)]
        found.append(side.widths.get(name, convolutions[-1].out_channels))
    return tuple(found)
