# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantization-aware training as a part of a training run: ranges are searched first, then learned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from yolo_compress.calibrate import calibration_set
from yolo_compress.host.attachment import Narrowing
from yolo_compress.host.checkpoint import facts, set_facts
from yolo_compress.host.data import read_data
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.host.ultralytics import LOGGER, RANK, unwrap_model
from yolo_compress.quantize.emulation import CHILD, Quantizers, aside, current, hold_statistics, install, remove
from yolo_compress.quantize.format import format_of
from yolo_compress.quantize.learned import FACT, Learned
from yolo_compress.quantize.start import repairs, starting_point
from yolo_compress.recipe import QatSection, QuantizeSection

_Begun = tuple[Quantizers, tuple[tuple[str, ...], ...]]  # and the tensors of each group, by their names in the graph


class QuantizationAware:
    """Puts quantizers into the model of a run and lets training move weights and scales to where they cost least.

    The average of the model holds quantizers too, so that every validation of the run sees the quantized model;
    checkpoints hold float weights and, as plain data, what the scales have come to.
    """

    names: tuple[str, ...] = ()
    labels = True

    def __init__(self, section: QatSection, form: QuantizeSection) -> None:
        """Take how to train, and what form the quantized model has."""
        self.section, self.form = section, form
        self.start: Quantizers | None = None
        self._before: _Begun | None = None  # what there was before the last change of shapes
        self._groups: tuple[tuple[str, ...], ...] = ()  # tensors of each group, by their names in the graph
        self._trainer: CompressTrainer | None = None

    def attach(self, trainer: CompressTrainer) -> None:
        """Choose where quantizers go and what they begin with, on training images, and put them into the model.

        Raises:
            UsageError: A layer to keep does not exist, or an option is out of range.
            UnsupportedModel: The model has blocks that are not known.
        """
        self._trainer = trainer
        saved = trainer.saved_state(self)
        if saved is None:
            self.start, self._groups = self._begin(trainer, trainer.model)
        else:
            self.start, self._groups = _read(saved)
            self._before = _read(saved["before"]) if saved.get("before") else None
        install(trainer.model, self.start)
        trainer.add_callback("on_train_epoch_start", CompressTrainer.restart_epoch)  # so that it resumes exactly
        trainer.add_callback("on_train_end", self._tell)

    def before_batch(self, batch: Mapping[str, Any]) -> None:
        """Hold scales and the statistics of BatchNorm where they are in the last epochs."""
        trainer = self._trainer
        assert trainer is not None
        learning = trainer.epoch < self.section.freeze * trainer.epochs
        for parameter in self.parameters():
            parameter.requires_grad_(learning)
        if not learning or self.section.batchnorm == "frozen":
            hold_statistics(unwrap_model(trainer.model))

    def parameters(self) -> list[nn.Parameter]:
        """Return the scales."""
        assert self._trainer is not None
        return list(getattr(unwrap_model(self._trainer.model), CHILD).parameters())

    def state(self) -> dict[str, Any]:
        """Return what a resumed run builds the same quantizers from; their values are in the model's state."""
        assert self._trainer is not None
        assert self.start is not None
        now = current(unwrap_model(self._trainer.model), self.start)
        return {**_plain(now, self._groups), "before": _plain(*self._before) if self._before else None}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing: `attach` has built the quantizers, and the model's state holds their values."""

    def stepped(self, model: nn.Module) -> None:
        """Do nothing: scales are parameters."""

    def narrowed(self, narrow: Narrowing, shapes: Mapping[str, torch.Size]) -> None:
        """Choose ranges and scales anew: those that training has learned are of channels and weights that are gone.

        A model that got its former shapes back gets its former quantizers, whose values `load_exact_state` restores.
        """
        trainer = self._trainer
        assert trainer is not None
        assert self.start is not None
        models = unwrap_model(trainer.model), trainer.ema.ema
        for model in models:
            remove(model)
        if narrow:
            self._before = self.start, self._groups
            self.start, self._groups = self._begin(trainer, trainer.ema.ema)
        else:
            assert self._before is not None
            (self.start, self._groups), self._before = self._before, None
        for model in models:
            install(model, self.start)

    @contextmanager
    def aside(self, model: nn.Module) -> Iterator[None]:
        """Leave the float model, which says what its scales are, for as long as the context lasts."""
        assert self.start is not None
        now = current(model, self.start)
        with aside(model, self.start):
            learned = Learned.of(model, now, self._groups, self.form)
            set_facts(model, {**facts(model), FACT: learned.plain()})
            yield

    def _begin(self, trainer: CompressTrainer, model: nn.Module) -> _Begun:
        form = self.form
        stride = max(int(model.stride.max()), 32)
        imgsz = math.ceil(trainer.args.imgsz / stride) * stride  # the trainer rounds it the same way, but later
        calibration = None
        if format_of(form).static or repairs(form):  # weights alone, rounded to the nearest, look at no images
            calibration = calibration_set(read_data(trainer.args.data), form.images, form.calibration)
        images = calibration.images if calibration else ()
        progress = LOGGER.info if RANK in {-1, 0} else None
        start, groups, layers = starting_point(model, form, images, imgsz, progress=progress)
        if RANK in {-1, 0}:
            for note in calibration.notes if calibration else ():
                LOGGER.warning(note)
            LOGGER.info(
                f"Training quantized for {form.target}: {len(start.weights)} of {layers} convolutions, "
                f"{len(groups)} ranges chosen by {form.range} on {len(images)} images"
            )
        return start, groups

    def _tell(self, trainer: CompressTrainer) -> None:
        if RANK in {-1, 0}:
            LOGGER.info(
                f"Validated above is the float model of {trainer.best}; every epoch before was validated quantized. "
                f"Write the quantized one with: yolo-compress quantize model={trainer.best} data={trainer.args.data}"
            )


def _plain(start: Quantizers, groups: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    return {"start": start.plain(), "groups": [list(names) for names in groups]}


def _read(plain: Mapping[str, Any]) -> _Begun:
    return Quantizers.read(plain["start"]), tuple(tuple(names) for names in plain["groups"])
