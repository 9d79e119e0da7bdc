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
from yolo_compress.host.trainer import CompressTrainer, Narrowing
from yolo_compress.host.ultralytics import unwrap_model
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
        self._widths: tuple[int, ...] = ()
        self._kept: list[torch.Tensor] = []  # per level, where the student's channels stood when the run began

    def attach(self, trainer: CompressTrainer) -> Distillation:
        """Check that the teacher fits the student and build the losses.

        Raises:
            UsageError: The teacher does not know the student's classes or has other detection levels.
        """
        self.teacher.check_levels(trainer.model)
        saved = trainer.saved_state(self)  # a run that was pruned on the way began with wider features
        shapes = Shapes(
            student_channels=tuple(saved["widths"]) if saved else head_channels(trainer.model),
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
        self._widths = shapes.student_channels
        self._kept = [torch.arange(width) for width in self._widths]
        return self

    def __call__(self, outputs: Outputs, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the weighted losses of a batch, zero in the closing epochs."""
        trainer = self._trainer
        if trainer is None:
            raise RuntimeError("a distillation has to be attached to a run before it is called")
        if trainer.epoch >= trainer.epochs - self.section.close_epochs:
            return [batch["img"].new_zeros(()) for _ in self.names]
        taught = self.teacher(batch["img"])
        outputs = self._at_full_width(outputs)
        return [self.section.losses[name] * loss(outputs, taught) for name, loss in self._losses.items()]

    def parameters(self) -> list[nn.Parameter]:
        """Return the projectors' parameters."""
        return list(self.projectors.parameters())

    def state(self) -> dict[str, Any]:
        """Return the projectors' tensors, and which channels of the student are left."""
        projectors = {name: value.cpu() for name, value in self.projectors.state_dict().items()}
        return {"projectors": projectors, "kept": list(self._kept), "widths": list(self._widths)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up the projectors of the run that is resumed."""
        self.projectors.load_state_dict(dict(state["projectors"]))
        self._kept = [kept.cpu() for kept in state["kept"]]

    def stepped(self, model: nn.Module) -> None:
        """Do nothing: distillation follows the loss."""

    def narrowed(self, narrow: Narrowing, shapes: Mapping[str, torch.Size]) -> None:
        """Remember which channels that enter the student's head are left."""
        trainer = self._trainer
        if trainer is None or not narrow:
            return
        head = unwrap_model(trainer.model).model[-1]
        for level in range(len(head.cv2)):
            name = f"model.{head.i}.cv2.{level}.0.conv.weight"
            places = torch.arange(shapes[name][1]).view(1, -1, 1, 1).expand(shapes[name])
            self._kept[level] = self._kept[level][narrow[name](places)[0, :, 0, 0]]

    def _at_full_width(self, outputs: Outputs) -> Outputs:
        """Put the student's features where they stood when the run began, and zeros where channels are gone.

        Projectors and losses keep their shapes that way, and a channel that is gone has no gradient.
        """
        if all(len(kept) == width for kept, width in zip(self._kept, self._widths, strict=True)):
            return outputs
        if "feats" not in outputs:
            return {name: self._at_full_width(branch) for name, branch in outputs.items()}
        feats = []
        for feature, kept, width in zip(outputs["feats"], self._kept, self._widths, strict=True):
            full = feature.new_zeros(feature.shape[0], width, *feature.shape[2:])
            feats.append(full.index_copy(1, kept.to(feature.device), feature))
        return {**outputs, "feats": feats}
