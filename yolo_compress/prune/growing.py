# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A student that grows: it trains with part of its channels first, and the others join in steps.

A channel that sleeps is zero wherever it appears, as if it had been pruned, and no gradient reaches its weights until
it wakes; weight decay does. In a group of coupled channels those with the smallest filters sleep longest. It is
progressive shrinking (Cai et al. 2020, Once-for-All) the other way round: widths rise where they fall there, and the
norm of filters ranks channels in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from yolo_compress.errors import UsageError
from yolo_compress.host.attachment import Narrowing
from yolo_compress.host.criterion import LossTerms
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.host.ultralytics import LOGGER, RANK, unwrap_model
from yolo_compress.prune.graph import ChannelGraph, build_graph
from yolo_compress.prune.inputs import Inputs
from yolo_compress.prune.magnitude import l2
from yolo_compress.recipe import GrowSection


class Growing:
    """Lets channels of a run's model sleep, and wakes them by the epoch; the model ends as wide as it was given."""

    names: tuple[str, ...] = ()
    labels = True

    def __init__(self, section: GrowSection) -> None:
        """Take the section."""
        self.section = section
        self._scores: np.ndarray | None = None
        self._graph: ChannelGraph | None = None
        self._trainer: CompressTrainer | None = None

    def attach(self, trainer: CompressTrainer) -> LossTerms | None:
        """Rank the channels of `trainer.model`, and put those to sleep that wait for later.

        Raises:
            UsageError: The epochs do not suffice for the steps, or no channel may sleep.
            UnsupportedModel: The model has blocks that are not known.
        """
        self._trainer = trainer
        section, model = self.section, trainer.model
        trainer.require_epochs("grow")
        room = round(section.window * trainer.epochs)
        if room < section.steps:
            raise UsageError(
                f"grow takes grow_steps={section.steps} steps, and {trainer.epochs} epochs with "
                f"grow_window={section.window:g} leave room for {room}; give "
                f"epochs={math.ceil(section.steps / section.window)} or more, or fewer grow_steps"
            )
        stride = max(int(model.stride.max()), 32)
        self._graph = build_graph(model, imgsz=stride)
        saved = trainer.saved_state(self)  # the checkpoint of a run has zeros where channels slept
        self._scores = l2(model, self._graph, Inputs(), lambda _: None) if saved is None else saved["scores"].numpy()
        if not _sleeping(self._graph, self._scores, 0.0).any():
            raise UsageError("no channel of this model may sleep, since all are tied to others; leave grow out")
        for norm in self._graph.norms:
            module = model.get_submodule(norm.name)
            module.register_forward_hook(_Awake(torch.ones(len(norm.channels), dtype=torch.bool)))
        self._set(model, self.share_at(0, trainer.epochs))
        trainer.add_callback("on_train_epoch_start", self._before_epoch)
        return None

    def share_at(self, epoch: int, epochs: int) -> float:
        """Return the share of channels that are awake in an epoch (from 0)."""
        section = self.section
        done = min(section.steps, math.floor(epoch * section.steps / round(section.window * epochs)))
        return 1.0 if done == section.steps else section.start + (1 - section.start) * done / section.steps

    def before_batch(self, batch: Mapping[str, Any]) -> None:
        """Do nothing: channels wake between epochs."""

    def parameters(self) -> list[nn.Parameter]:
        """Return nothing: growing trains no parameter."""
        return []

    def state(self) -> dict[str, Any]:
        """Return what channels were ranked by."""
        assert self._scores is not None
        return {"scores": torch.from_numpy(self._scores)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing: `attach` has ranked the channels as the run did that is resumed."""

    def stepped(self, model: nn.Module) -> None:
        """Do nothing: weights of what sleeps get no gradient."""

    def narrowed(self, narrow: Narrowing, shapes: Mapping[str, torch.Size]) -> None:
        """Do nothing: a recipe that prunes while it trains is refused beside this."""

    @contextmanager
    def aside(self, model: nn.Module) -> Iterator[None]:
        """Leave a stock model that computes the same: BatchNorm gives zero for the channels that sleep."""
        held: list[tuple[nn.BatchNorm2d, Any, list[torch.Tensor]]] = []
        for norm, awake in _hooked(model):
            kept = [value.detach().clone() for value in (norm.weight, norm.bias)]
            held.append((norm, norm._forward_hooks, kept))
            norm._forward_hooks = type(norm._forward_hooks)()
            with torch.no_grad():
                for value in (norm.weight, norm.bias):
                    value *= awake.mask.to(value)
        try:
            yield
        finally:
            for norm, hooks, kept in held:
                norm._forward_hooks = hooks
                with torch.no_grad():
                    for value, before in zip((norm.weight, norm.bias), kept, strict=True):
                        value.copy_(before)

    def _before_epoch(self, trainer: CompressTrainer) -> None:
        trainer.restart_epoch()
        share, before = (self.share_at(epoch, trainer.epochs) for epoch in (trainer.epoch, max(trainer.epoch - 1, 0)))
        for model in (unwrap_model(trainer.model), trainer.ema.ema):
            self._set(model, share)
        if before < 1:
            trainer.forget_best()
        if share != before and RANK in {-1, 0}:
            LOGGER.info(f"From epoch {trainer.epoch + 1} on, {100 * share:.0f} % of the channels of each layer train")

    def _set(self, model: nn.Module, share: float) -> None:
        assert self._graph is not None
        assert self._scores is not None
        asleep = _sleeping(self._graph, self._scores, share)
        channels = {norm.name: norm.channels for norm in self._graph.norms}
        for name, module in model.named_modules():
            for hook in _hooks(module):
                hook.mask = torch.from_numpy(~asleep[channels[name]])


class _Awake:
    """Hook that lets the channels through that are awake; an object, so that a copy of the model gets its own."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def __call__(self, module: nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
        self.mask = self.mask.to(output.device)
        return output * self.mask[:, None, None]


def _hooks(module: nn.Module) -> list[_Awake]:
    return [hook for hook in module._forward_hooks.values() if isinstance(hook, _Awake)]


def _hooked(model: nn.Module) -> Iterator[tuple[nn.BatchNorm2d, _Awake]]:
    for module in model.modules():
        for hook in _hooks(module):
            yield module, hook


def _sleeping(graph: ChannelGraph, scores: np.ndarray, share: float) -> np.ndarray:
    """Return for each channel whether it sleeps where a share of each group is awake, at least one channel of it.

    Channels of attention heads are always awake: softmax would not make zeros of theirs into nothing.
    """
    asleep = np.zeros(graph.channels, bool)
    rows = {group for bundle in graph.bundles for group in (bundle.group, bundle.follower)}
    for group in {member for unit in graph.units for member in unit} - rows:
        members = graph.groups[group]
        awake = max(1, round(share * len(members)))
        asleep[members[np.argsort(-scores[members], kind="stable")[awake:]]] = True
    return asleep
