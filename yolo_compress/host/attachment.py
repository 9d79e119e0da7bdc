# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What takes part in a training run, and when the trainer calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from yolo_compress.host.criterion import LossTerms

if TYPE_CHECKING:
    from yolo_compress.host.trainer import CompressTrainer

Narrowing = Mapping[str, Callable[[torch.Tensor], torch.Tensor]]  # by parameter, what stays of a tensor of its shape


class Attachment(Protocol):
    """Something that takes part in a training run; it lives in the trainer, never in the model that is saved."""

    def attach(self, trainer: CompressTrainer) -> LossTerms | None:
        """Change `trainer.model` in place or replace it, before optimizer, EMA and DDP exist, and return loss terms."""
        ...

    def before_batch(self, batch: Mapping[str, Any]) -> None:
        """Get ready for the forward pass of a training batch."""
        ...

    def parameters(self) -> list[nn.Parameter]:
        """Return parameters to train without weight decay, of the model or beside it."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors and built-in types."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up the state of the run that is resumed."""
        ...

    def stepped(self, model: nn.Module) -> None:
        """Follow a step of the optimizer, before the average takes the model in."""
        ...

    def aside(self, model: nn.Module) -> AbstractContextManager[None]:
        """Take out of a model, while the context lasts, what its checkpoint must not hold."""
        ...

    def narrowed(self, narrow: Narrowing, shapes: Mapping[str, torch.Size]) -> None:
        """Follow a change of the model's shapes in the middle of the run.

        Args:
            narrow: By parameter, what makes the new shape of a tensor that has the old one; empty where the model got
                back shapes that `load_state` restores.
            shapes: The old shapes.
        """
        ...


class Plan(Protocol):
    """What a bound trainer does; it travels to DDP workers by pickle."""

    fast_cpu: bool
    facts: Mapping[str, Any]

    def attachments(self) -> Sequence[Attachment]:
        """Build the attachments of one run."""
        ...
