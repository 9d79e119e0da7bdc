# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Extra loss terms beside the model's own training loss, with a column each in results.csv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from yolo_compress.host.ultralytics import DetectionModel

Items = dict[str, torch.Tensor]


class LossTerms(Protocol):
    """Differentiable additions to the training loss."""

    names: tuple[str, ...]

    def __call__(self, outputs: dict[str, Any], batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return one weighted scalar per name, each a mean over images.

        Args:
            outputs: What the student's head returns in training mode.
            batch: The training batch; `img` is (N, 3, H, W) in 0 to 1.
        """
        ...


class CompressCriterion:
    """The model's own criterion followed by extra terms.

    It is held by the model as a plain attribute, so its tensors are in neither the model's state dict nor its EMA. A
    copy (the EMA takes one) keeps the columns and drops the terms: in validation they read zero.
    """

    def __init__(self, model: DetectionModel, terms: Sequence[LossTerms], *, base: Any = None) -> None:
        self.model, self.terms, self.base = model, tuple(terms), base
        self.columns = tuple(f"{name}_loss" for term in self.terms for name in term.names)

    def __call__(self, preds: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Items]:
        """Return the loss vector, native entries first, and its detached items by column."""
        if self.base is None:  # built at the first batch, when class weights are known
            self.base = self.model.init_criterion()
        loss, items = self.base(preds, batch)
        values = [loss.new_zeros(()) for _ in self.columns]
        if self.terms and self.model.training:
            outputs = preds[1] if isinstance(preds, tuple) else preds
            with torch.autocast(loss.device.type, enabled=False):
                values = [value for term in self.terms for value in term(outputs, batch)]
        # Native losses are sums over the batch, so that the learning rate means the same with and without our terms.
        extra = torch.stack([value * batch["img"].shape[0] for value in values]).to(loss.dtype)
        return torch.cat([loss, extra]), {**items, **dict(zip(self.columns, (v.detach() for v in values), strict=True))}

    def update(self) -> None:
        """Advance the schedule of the model's own criterion by an epoch, where it has one."""
        if hasattr(self.base, "update"):
            self.base.update()

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressCriterion:
        """Copy for an evaluation twin of the model, which memo already holds."""
        twin = memo.get(id(self.model))
        if not isinstance(twin, nn.Module):
            raise RuntimeError("a criterion can only be copied together with its model")
        copy = CompressCriterion(twin, ())
        copy.columns = self.columns
        return copy
