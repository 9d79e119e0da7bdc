# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Distillation as a part of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from yolo_compress.distill.losses import LOSSES, DistillLoss, Outputs, Shapes
from yolo_compress.distill.teacher import Teacher, head_channels
from yolo_compress.errors import UsageError
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.recipe import DistillSection


class Distillation:
    """A teacher and its losses; projectors live here, never in the student."""

    names: tuple[str, ...] = ()

    def __init__(self, section: DistillSection) -> None:
        if section.teacher is None:
            raise UsageError("distillation needs a teacher; give teacher=FILE.pt")
        self.section = section
        self.teacher = Teacher(section.teacher)
        self.projectors = nn.ModuleDict()
        self._losses: dict[str, DistillLoss] = {}
        self._trainer: CompressTrainer | None = None

    def attach(self, trainer: CompressTrainer) -> Distillation:
        """Check that the teacher fits the student and build the losses.

        Raises:
            UsageError: The teacher does not know the student's classes or has other detection levels.
        """
        self.teacher.check_levels(trainer.model)
        shapes = Shapes(
            student_channels=head_channels(trainer.model),
            teacher_channels=head_channels(self.teacher.model),
            class_index=self.teacher.class_index(tuple(trainer.data["names"].values())),
            temperature=self.section.temperature,
        )
        self.teacher.to(trainer.device)
        self._trainer = trainer
        self._losses = {name: LOSSES[name].build(shapes) for name, weight in self.section.losses.items() if weight > 0}
        self.names = tuple(self._losses)
        self.projectors = nn.ModuleDict({name: loss.modules() for name, loss in self._losses.items()})
        self.projectors.to(trainer.device)
        return self

    def __call__(self, outputs: Outputs, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the weighted losses of a batch, zero in the closing epochs."""
        trainer = self._trainer
        if trainer is None:
            raise RuntimeError("a distillation has to be attached to a run before it is called")
        if trainer.epoch >= trainer.epochs - self.section.close_epochs:
            return [batch["img"].new_zeros(()) for _ in self.names]
        taught = self.teacher(batch["img"])
        return [self.section.losses[name] * loss(outputs, taught) for name, loss in self._losses.items()]

    def parameters(self) -> list[nn.Parameter]:
        """Return the projectors' parameters."""
        return list(self.projectors.parameters())

    def state(self) -> dict[str, Any]:
        """Return the projectors' tensors."""
        return {name: value.cpu() for name, value in self.projectors.state_dict().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up the projectors of the run that is resumed."""
        self.projectors.load_state_dict(dict(state))
