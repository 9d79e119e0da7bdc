# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What stands between the student's features and the teacher's while they are compared."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

RIDGE = 1e-3  # of the mean variance of the student's channels


class Projector(nn.Conv2d):
    """A 1 x 1 convolution that begins at its least-squares fit on the first batch it sees.

    A random one has to be learned before the student can hear the teacher through it, which takes longer than a short
    recovery lasts. `fitted` travels with the weights, so that a resumed run does not fit again.
    """

    fitted: torch.Tensor

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__(student, teacher, 1)
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        """Solve for the weights once; later calls do nothing.

        Minimises `sum ||t - W s - b||^2 + ridge * ||W||^2` over images and positions.

        Args:
            student: (N, C_s, H, W).
            teacher: (N, C_t, H, W).
        """
        if self.fitted:
            return
        with torch.no_grad():
            s, t = (feature.detach().cpu().double().transpose(0, 1).flatten(1) for feature in (student, teacher))
            mean_s, mean_t = s.mean(1, keepdim=True), t.mean(1, keepdim=True)
            s, t = s - mean_s, t - mean_t
            gram = s @ s.T
            weight = torch.linalg.solve(
                gram + RIDGE * gram.trace() / len(gram) * torch.eye(len(gram)).to(gram), s @ t.T
            )
            self.weight.copy_(weight.T[:, :, None, None])
            self.bias.copy_((mean_t - weight.T @ mean_s)[:, 0])
            self.fitted.fill_(True)
            if dist.is_initialized():  # every process has seen another batch
                for value in (self.weight, self.bias):
                    dist.broadcast(value.data, 0)


def projectors(widths: Iterable[tuple[int, int]]) -> nn.ModuleList:
    """Return a projector for each pair of the student's and the teacher's channels, nothing where they agree."""
    return nn.ModuleList(Projector(s, t) if s != t else nn.Identity() for s, t in widths)


def project(projector: nn.Module, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the student's features in the teacher's channels, in float32."""
    student = student.float()
    if isinstance(projector, Projector):
        projector.fit(student, teacher.float())
    return projector(student)
