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
    labels: bool  # whether the model's own loss, which needs labels, counts beside them

    def __call__(self, outputs: dict[str, Any], batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return one weighted scalar per name, each a mean over images.

        The autocast of the training loop is on where the run uses one.

        Args:
            outputs: What the student's head returns in training mode.
            batch: The training batch; `img` is (N, 3, H, W) in 0 to 1.
        """
        ...


class CompressCriterion:
    """The model's own criterion followed by extra terms.

    It is held by the model as a plain attribute, so its tensors are in neither the model's state dict nor its EMA. A
    copy (the EMA takes one) keeps the columns and drops the terms: in validation they read zero. Where terms go without
    labels, the model's own loss is left out of training; validation still shows it.
    """

    def __init__(self, model: DetectionModel, terms: Sequence[LossTerms], *, base: Any = None) -> None:
        self.model, self.terms, self.base = model, tuple(terms), base
        self.columns = tuple(f"{name}_loss" for term in self.terms for name in term.names)
        self._blank: tuple[torch.Tensor, Items] | None = None  # the own loss's shape, where it does not count

    def __call__(self, preds: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Items]:
        """Return the loss vector, native entries first, and its detached items by column."""
        if self.base is None:  # built at the first batch, when class weights are known
            self.base = self.model.init_criterion()
        training = bool(self.terms) and self.model.training
        loss, items = self.base(preds, batch) if not training or self._labels() else self._no_loss(preds, batch)
        values = [loss.new_zeros(()) for _ in self.columns]
        if training:
            outputs = preds[1] if isinstance(preds, tuple) else preds
            values = [value for term in self.terms for value in term(outputs, batch)]
        if not self.columns:
            return loss, items
        # Native losses are sums over the batch, so that the learning rate means the same with and without our terms.
        extra = torch.stack([value * batch["img"].shape[0] for value in values]).to(loss.dtype)
        return torch.cat([loss, extra]), {**items, **dict(zip(self.columns, (v.detach() for v in values), strict=True))}

    def update(self) -> None:
        """Advance the schedule of the model's own criterion by an epoch, where it has one."""
        if hasattr(self.base, "update"):
            self.base.update()

    def _labels(self) -> bool:
        return all(term.labels for term in self.terms)

    def _no_loss(self, preds: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Items]:
        """Return zeros in the shape of the model's own loss, which is found out once."""
        if self._blank is None:
            with torch.no_grad():
                loss, items = self.base(preds, batch)
            self._blank = torch.zeros_like(loss), {name: torch.zeros_like(item) for name, item in items.items()}
        return self._blank[0].clone(), dict(self._blank[1])

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressCriterion:
        """Copy for an evaluation twin of the model, which memo already holds."""
        twin = memo.get(id(self.model))
        if not isinstance(twin, nn.Module):
            raise RuntimeError("a criterion can only be copied together with its model")
        copy = CompressCriterion(twin, ())
        copy.columns = self.columns
        return copy
