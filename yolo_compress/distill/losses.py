# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Distillation losses, one registry entry each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

Outputs = dict[str, Any]
EPSILON = 1e-6  # keeps a constant channel from dividing by zero when it is standardised


class DistillLoss(Protocol):
    """A loss between what the student's and the teacher's heads return in training mode."""

    def __call__(self, student: Outputs, teacher: Outputs) -> torch.Tensor:
        """Return a scalar, a mean over images."""
        ...

    def modules(self) -> nn.Module:
        """Return trainable parts, such as projectors; an empty module where there are none."""
        ...


@dataclass(frozen=True)
class Shapes:
    """What a loss needs to know before the first batch."""

    student_channels: tuple[int, ...]
    teacher_channels: tuple[int, ...]
    class_index: tuple[int, ...]
    temperature: float


@dataclass(frozen=True)
class LossEntry:
    """A loss that recipes can name."""

    name: str
    description: str
    source: str
    build: Callable[[Shapes], DistillLoss]


def channel_wise_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Compare where each channel responds, as distributions over positions.

    `tau^2 / (N C) * sum_{n,c} KL(softmax(t_nc / tau) || softmax(s_nc / tau))`, the softmax over the H x W positions of
    features that are first standardised per channel over images and positions.

    Source: Shu et al. 2021, Channel-wise Knowledge Distillation for Dense Prediction; the standardisation is that of
    Cao et al. 2022, PKD.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W).
        temperature: tau.
    """
    n, c = student.shape[:2]
    rows = []
    for feature in (student, teacher):
        feature = feature.float()
        mean = feature.mean((0, 2, 3), keepdim=True)
        deviation = feature.std((0, 2, 3), keepdim=True, correction=0)
        rows.append(((feature - mean) / (deviation + EPSILON)).reshape(n * c, -1) / temperature)
    log_student, log_teacher = (row.log_softmax(1) for row in rows)
    return F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) * temperature**2 / (n * c)


def binary_response(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compare class scores as independent binary decisions, weighted by how far apart they are.

    `sum |p_t - p_s| * BCE(p_s, p_t) / sum_a max_c p_t`: every class of every anchor counts by the gap it still has, and
    the sum is normalised by the teacher's confident anchors, as detection losses are by their positives. Detectors are
    multi-label, so there is no softmax across classes.

    Source: Yang et al. 2023, Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection
    (binary classification distillation loss).

    Args:
        student: Class logits (N, classes, anchors).
        teacher: Class logits (N, classes, anchors).
    """
    student, teacher = student.float(), teacher.float()
    target = teacher.sigmoid()
    gap = (target - student.detach().sigmoid()).abs()
    loss = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    return (gap * loss).sum() / target.amax(1).sum().clamp(min=1.0)


class ChannelWise:
    """CWD on the features that enter the head, level by level; 1 x 1 projectors where channel counts differ."""

    def __init__(self, shapes: Shapes) -> None:
        self.temperature = shapes.temperature
        pairs = zip(shapes.student_channels, shapes.teacher_channels, strict=True)
        self.projectors = nn.ModuleList(nn.Conv2d(s, t, 1) if s != t else nn.Identity() for s, t in pairs)

    def __call__(self, student: Outputs, teacher: Outputs) -> torch.Tensor:
        """Average over the levels."""
        levels = zip(self.projectors, _branch(student)["feats"], _branch(teacher)["feats"], strict=True)
        losses = [channel_wise_divergence(p(s.float()), t, self.temperature) for p, s, t in levels]
        return torch.stack(losses).mean()

    def modules(self) -> nn.Module:
        """Return the projectors."""
        return self.projectors


class Response:
    """Binary response distillation on class scores, each branch of the head from the same branch of the teacher."""

    def __init__(self, shapes: Shapes) -> None:
        self.index = torch.tensor(shapes.class_index)

    def __call__(self, student: Outputs, teacher: Outputs) -> torch.Tensor:
        """Average over the branches that both heads have; a one-to-one branch never follows dense targets."""
        shared = [name for name in ("one2many", "one2one") if name in student and name in teacher]
        pairs = [(student[n], teacher[n]) for n in shared] or [(_branch(student), _branch(teacher))]
        losses = [binary_response(s["scores"], t["scores"][:, self.index.to(t["scores"].device)]) for s, t in pairs]
        return torch.stack(losses).mean()

    def modules(self) -> nn.Module:
        """Return an empty module: there is nothing to train."""
        return nn.ModuleList()


LOSSES = {
    entry.name: entry
    for entry in (
        LossEntry(
            "cwd",
            "Channel-wise divergence of standardised neck features.",
            "Shu et al. 2021; Cao et al. 2022",
            ChannelWise,
        ),
        LossEntry(
            "response",
            "Per-class binary divergence of class scores, weighted by the gap to the teacher.",
            "Yang et al. 2023",
            Response,
        ),
    )
}


def _branch(outputs: Outputs) -> Outputs:
    """Return the dense branch of a head's output, which every head has."""
    return outputs.get("one2many", outputs)
