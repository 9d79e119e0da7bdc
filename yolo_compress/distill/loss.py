# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What every distillation loss is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from yolo_compress.distill.answer import Answer, Pair, Scene
from yolo_compress.errors import UsageError


class DistillLoss(ABC):
    """A loss between what a student and a teacher say of a batch.

    As it stands here it listens to no module beside the heads and trains nothing of its own.

    Attributes:
        takes_layers: Whether a recipe may name the layers that are compared.
        default_temperature: Of its softmax; None where it has none.
        student_taps: Modules of the student whose outputs it reads.
        teacher_taps: Modules of the teacher whose outputs it reads.
    """

    takes_layers = False
    default_temperature: float | None = None
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()

    def __init__(self, pair: Pair) -> None:
        """Read the options.

        Raises:
            UsageError: One is given that this loss has not.
        """
        options = pair.options
        if (options.layers or options.teacher_layers) and not self.takes_layers:
            raise UsageError(f"{pair.loss} compares what heads take in or answer; leave its layers out")
        if options.temperature is not None and self.default_temperature is None:
            raise UsageError(f"{pair.loss} has no temperature for these two models; leave it out")
        self.temperature = options.temperature or self.default_temperature or 1.0

    @abstractmethod
    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Return (levels, images) parts that sum to the loss; a dimension has size 1 where it cannot be told apart."""

    def modules(self) -> nn.Module:
        """Return trainable parts, such as projectors."""
        return nn.ModuleList()


def averaged(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the parts (levels, images) of a mean over levels and images, from each level's (images,) values."""
    return torch.stack(tuple(parts)) / (len(parts) * len(parts[0]))
