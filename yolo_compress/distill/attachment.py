# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Distillation as a part of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from yolo_compress.distill.answer import Answer, Pair, Scene, Side, Taps, head_channels
from yolo_compress.distill.loss import DistillLoss
from yolo_compress.distill.registry import LOSSES
from yolo_compress.distill.schedule import falling, rising, turn
from yolo_compress.distill.teacher import Teacher, fit, shares
from yolo_compress.errors import UsageError
from yolo_compress.host.attachment import Narrowing
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.host.ultralytics import unwrap_model
from yolo_compress.recipe.distill import DistillSection, LossOptions

# what has to be off for an image to look the same in every epoch
AUGMENTATIONS = ("mosaic", "mixup", "cutmix", "copy_paste", "degrees", "translate", "scale", "shear", "perspective")
AUGMENTATIONS += ("flipud", "fliplr", "bgr", "hsv_h", "hsv_s", "hsv_v", "multi_scale")


class Distillation:
    """Teachers and their losses; projectors live here, never in the student.

    A batch goes through it in two steps: `before_batch` opens the taps on the student, and the call, which comes with
    the student's outputs, closes them, asks the teachers and compares.
    """

    names: tuple[str, ...] = ()

    def __init__(self, section: DistillSection) -> None:
        if not section.teacher:
            raise UsageError("distillation needs a teacher; give teacher=FILE.pt")
        self.section = section
        self.labels = section.labels
        self.projectors = nn.ModuleList()
        self.teachers: list[Teacher] = []
        self._losses: list[dict[str, DistillLoss]] = []  # by teacher
        self._taps = Taps(())
        self._trainer: CompressTrainer | None = None
        self._student: Side | None = None
        self._batches = 0  # of this epoch
        self._epoch = -1
        # by what is compared: how many channels the student had of it when the run began, and which of them are left
        self._widths: dict[str, int] = {}
        self._kept: dict[str, torch.Tensor] = {}

    @property
    def wanted(self) -> dict[str, LossOptions]:
        """The losses with a weight above zero."""
        return {name: options for name, options in self.section.losses.items() if options.weight > 0}

    def attach(self, trainer: CompressTrainer) -> Distillation | None:
        """Check that the teachers fit the student and build the losses; without a weight above zero do nothing.

        Raises:
            UsageError: A teacher does not fit, or a loss cannot be had from these two models.
        """
        if not self.wanted:
            return None
        self._check_settings(trainer)
        self._trainer = trainer
        saved = trainer.saved_state(self)  # a run that was pruned on the way began with wider features
        self._widths = dict(saved["widths"]) if saved else {}
        channels = [self._widths.get(level_name(k), c) for k, c in enumerate(head_channels(trainer.model))]
        self._student = Side(trainer.model, tuple(channels), "student", self._widths)
        self.teachers = [Teacher(options) for options in self.section.teacher]
        names = tuple(trainer.data["names"].values())
        for teacher in self.teachers:
            teacher.check_levels(self._student)
            classes = teacher.class_index(names)
            built = {
                name: LOSSES[name].build(Pair(self._student, teacher.side, name, options, classes))
                for name, options in self.wanted.items()
            }
            taps = [tap for loss in built.values() for tap in loss.teacher_taps]
            teacher.prepare(classes, taps, device=trainer.device, cache=self.section.cache)
            self._losses.append(built)
        self.names = tuple(self.wanted)
        self.projectors = nn.ModuleList(
            nn.ModuleDict({name: loss.modules() for name, loss in built.items()}) for built in self._losses
        ).to(trainer.device)
        self._taps = Taps([tap for built in self._losses for loss in built.values() for tap in loss.student_taps])
        return self

    def before_batch(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Listen to the student's next forward pass."""
        trainer = self._trainer
        if trainer is None:
            return
        if trainer.epoch != self._epoch:
            self._epoch, self._batches = trainer.epoch, 0
        self._batches += 1
        self._taps.open(unwrap_model(trainer.model))

    def __call__(self, outputs: Mapping[str, Any], batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the weighted losses of a batch, zero in the closing epochs."""
        trainer, taps = self._trainer, self._taps.close()
        if trainer is None or self._student is None:
            raise RuntimeError("a distillation has to be attached to a run before it is called")
        progress = self._progress()
        weights = {name: self._weight(options, progress) for name, options in self.wanted.items()}
        if not any(weights.values()):
            return [batch["img"].new_zeros(()) for _ in self.names]
        student = self._at_full_width(Answer.read(outputs, taps))
        scene = self._scene(batch)
        total = dict.fromkeys(self.names, batch["img"].new_zeros(()))
        for index, answer, share in self._asked(batch["img"], scene, progress):
            with torch.autocast(batch["img"].device.type, enabled=False):
                for name, loss in self._losses[index].items():
                    if weights[name]:
                        total[name] = total[name] + weights[name] * shared(loss(student, answer, scene), share)
        return list(total.values())

    def parameters(self) -> list[nn.Parameter]:
        """Return the projectors' parameters."""
        return list(self.projectors.parameters())

    def state(self) -> dict[str, Any]:
        """Return the projectors' tensors, and which channels of the student are left."""
        projectors = {name: value.cpu() for name, value in self.projectors.state_dict().items()}
        return {"projectors": projectors, "kept": dict(self._kept), "widths": dict(self._widths)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up the projectors of the run that is resumed."""
        self.projectors.load_state_dict(dict(state["projectors"]))
        self._kept = {name: kept.cpu() for name, kept in state["kept"].items()}
        self._widths = dict(state["widths"])

    def stepped(self, model: nn.Module) -> None:
        """Do nothing: distillation follows the loss."""

    def aside(self, model: nn.Module) -> AbstractContextManager[None]:
        """Do nothing: the model holds nothing of this."""
        return nullcontext()

    def narrowed(self, narrow: Narrowing, shapes: Mapping[str, torch.Size]) -> None:
        """Remember which channels are left of what is compared: the inputs of the head, and of its towers."""
        if self._trainer is None or not narrow:
            return
        head = unwrap_model(self._trainer.model).model[-1]
        for level in range(len(head.cv2)):
            self._narrow(level_name(level), f"model.{head.i}.cv2.{level}.0.conv.weight", 1, narrow, shapes)
        for tap in self._taps.names:
            last = [name for name in shapes if name.startswith(f"{tap}.") and name.endswith("conv.weight")][-1]
            self._narrow(tap, last, 0, narrow, shapes)

    def _narrow(self, what: str, parameter: str, dim: int, narrow: Narrowing, shapes: Mapping[str, torch.Size]) -> None:
        """Follow the channels of one tensor by sending their places through the change of a weight."""
        shape = shapes[parameter]
        places = torch.arange(shape[dim]).view([-1 if axis == dim else 1 for axis in range(4)]).expand(shape)
        left = narrow[parameter](places).movedim(dim, 0)[:, 0, 0, 0]
        self._widths.setdefault(what, shape[dim])
        self._kept[what] = self._kept[what][left] if what in self._kept else left

    def _at_full_width(self, answer: Answer) -> Answer:
        """Put the student's features where they stood when the run began, and zeros where channels are gone.

        Projectors and losses keep their shapes that way, and a channel that is gone has no gradient.
        """

        def wide(feature: torch.Tensor, what: str) -> torch.Tensor:
            if what not in self._kept:
                return feature
            full = feature.new_zeros(feature.shape[0], self._widths[what], *feature.shape[2:])
            return full.index_copy(1, self._kept[what].to(feature.device), feature)

        features = tuple(wide(feature, level_name(level)) for level, feature in enumerate(answer.features))
        taps = {name: wide(tap, name) for name, tap in answer.taps.items()}
        return Answer(answer.dense, answer.sparse, features, taps)

    def _asked(self, images: torch.Tensor, scene: Scene, progress: float) -> list[tuple[int, Answer, torch.Tensor]]:
        """Ask the teachers whose turn it is; return the index of each, its answer, and its (levels, images) shares."""
        if self.section.order == "chain":
            index = turn(len(self.teachers), progress)
            teacher = self.teachers[index]
            share = teacher.level_weights().to(images.device)[:, None] / teacher.options.weight
            return [(index, teacher(images), share)]
        answers = [teacher(images) for teacher in self.teachers]
        weights = torch.stack([teacher.level_weights() for teacher in self.teachers]).to(images.device)[:, :, None]
        if self.section.trust == "fit":
            fits = [fit(a, scene, t.side.strides) for a, t in zip(answers, self.teachers, strict=True)]
            weights = weights * shares(torch.stack(fits))[:, None, :]
        weights = weights / weights.sum(0).clamp(min=1e-9)  # a level has the weight of one teacher, however many it has
        return [(index, answer, weights[index]) for index, answer in enumerate(answers)]

    def _progress(self) -> float:
        """Return how much of the run is done, in 0 to 1."""
        trainer = self._trainer
        assert trainer is not None
        return (trainer.epoch + (self._batches - 1) / max(1, len(trainer.train_loader))) / trainer.epochs

    def _weight(self, options: LossOptions, progress: float) -> float:
        trainer = self._trainer
        assert trainer is not None
        close = self.section.close_epochs
        closing = int(trainer.args.close_mosaic) if close == "mosaic" else close
        if trainer.epoch >= trainer.epochs - closing:
            return 0.0
        left = falling(options.schedule or self.section.schedule, progress)
        return options.weight * left * rising(self.section.warmup, progress)

    def _scene(self, batch: Mapping[str, torch.Tensor]) -> Scene:
        images, trainer = batch["img"], self._trainer
        assert trainer is not None
        kind = images.device.type
        dtype = torch.bfloat16 if kind == "cpu" or trainer.args.amp == "bf16" else torch.float16
        precision = (kind, dtype) if trainer.amp else None
        size = (images.shape[-2], images.shape[-1])
        if not self.labels:
            return Scene(size, len(images), precision=precision)
        boxes, owner, classes = (batch[key].to(images.device) for key in ("bboxes", "batch_idx", "cls"))
        return Scene(size, len(images), boxes, owner, classes.flatten(), precision)

    def _check_settings(self, trainer: CompressTrainer) -> None:
        """Refuse settings that would make a cache useless."""
        on = [name for name in AUGMENTATIONS if float(getattr(trainer.args, name) or 0)]
        if self.section.cache and on:
            raise UsageError(
                f"the teacher's answers are kept by image, and {', '.join(on)} make every image look different each "
                f"time; give {' '.join(f'{name}=0' for name in on)}, or leave distill_cache out"
            )


def shared(parts: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Sum the (levels, images) parts of a loss by a teacher's share of each; where parts has size 1, shares average.

    Args:
        parts: (levels or 1, images or 1).
        share: (levels, images or 1), of which parts may also have another number of levels, then the mean counts.
    """
    if share.shape[0] != parts.shape[0]:
        share = share.mean(0, keepdim=True)
    if share.shape[1] != parts.shape[1]:
        share = share.mean(1, keepdim=True)
    return (parts * share).sum()


def level_name(level: int) -> str:
    """Return the key of what enters the head at a level."""
    return f"level {level}"
