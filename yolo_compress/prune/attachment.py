# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Pruning as a part of a training run: once before it begins, or in steps while it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from yolo_compress.bench.response import OutputWeights
from yolo_compress.errors import UsageError
from yolo_compress.host.attachment import Narrowing
from yolo_compress.host.checkpoint import count, facts, load_model, set_facts, write_model
from yolo_compress.host.data import image_batches, labelled_batches, read_data, sample
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.host.ultralytics import LOGGER, RANK, unwrap_model
from yolo_compress.prune import (
    Inputs,
    Masks,
    PruneResult,
    Timing,
    apply_masks_,
    build_graph,
    mask_weights_,
    prune,
    repair_,
    set_masks_,
    zero_share,
)
from yolo_compress.prune.schedule import Progress, Schedule
from yolo_compress.prune.sparsity import PENALTIES, Penalty
from yolo_compress.prune.surgery import apply_, cuts
from yolo_compress.recipe import PruneSection

TimingFor = Callable[..., AbstractContextManager[Timing | None]]  # `timing.timing_for`, which stands above this package
BEFORE_STEP = "before_step.pt"  # beside last.pt while a schedule may still step back
EARLY = "early_{}.pt"  # beside last.pt while a schedule may still rewind
MAP_KEY = "metrics/mAP50-95(B)"


class Pruning:
    """Prunes the model of a run, at its beginning or by a schedule; a resumed run goes on from where it was."""

    names: tuple[str, ...] = ("sparsity",)
    labels = True

    def __init__(self, section: PruneSection, timing: TimingFor) -> None:
        """Take the section, and what makes a timing of a model for it."""
        self.section, self.timing = section, timing
        self.progress = Progress()
        self.schedule: Schedule | None = None
        self.origin: dict[str, float] = {}  # what the model cost before the first step
        self.undo: dict[str, Any] | None = None  # exact state before the last step, while it may be taken back
        self.masks: Masks = {}  # single weights that stay, by parameter
        self._trainer: CompressTrainer | None = None
        self._penalty: Penalty | None = None

    def attach(self, trainer: CompressTrainer) -> Pruning | None:
        """Prune `trainer.model` on images of the run's training set, or arrange for it to happen.

        Raises:
            UsageError: The target cannot be met, a layer to keep does not exist, or the epochs do not suffice.
        """
        section = self.section
        self._trainer = trainer
        if section.scheduled:
            trainer.require_epochs(f"prune_schedule={section.schedule}")
            self.schedule = Schedule(
                section.schedule,
                steps=section.steps,
                epochs=trainer.epochs,
                start=section.start,
                window=section.window,
                tolerance=section.tolerance,
            )
            if trainer.world_size > 1:
                raise UsageError(
                    f"prune_schedule={section.schedule} changes the model while it trains, which {trainer.world_size} "
                    "GPUs cannot follow; give prune_schedule=one_shot, or device=0"
                )
            if not trainer.resume:  # what an earlier pruning did is not what this one counts from
                told = facts(trainer.model)
                set_facts(trainer.model, {name: value for name, value in told.items() if name != "prune"})
            trainer.add_callback("on_train_epoch_start", self._before_epoch)
            trainer.add_callback("on_fit_epoch_end", self._note)
            trainer.add_callback("on_train_end", _clean)
            if section.rewind and not trainer.resume:
                write_model(trainer.model, self._early_file(trainer, trainer.model))
            if section.sparsity != "nothing":
                return self
        elif not trainer.resume:
            model = trainer.model
            result = self._prune(trainer, model, section)
            set_facts(result.model, {**facts(model), "prune": result.facts()})
            trainer.model = result.model.to(trainer.device)
            self.masks = result.masks
        return None

    def __call__(self, outputs: dict[str, Any], batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the sparsity penalty of the model, zero once the schedule has ended."""
        trainer = self._trainer
        assert trainer is not None
        if self.progress.done >= 1:
            return [batch["img"].new_zeros(())]
        model = unwrap_model(trainer.model)
        if self._penalty is None:
            with trainer.plain(model):
                self._penalty = PENALTIES[self.section.sparsity](build_graph(model, imgsz=_imgsz(trainer)))
        return [self.section.sparsity_weight * self._penalty(model)]

    def before_batch(self, batch: Mapping[str, Any]) -> None:
        """Do nothing: pruning follows steps and epochs."""

    def parameters(self) -> list[nn.Parameter]:
        """Return nothing: pruning trains no parameter."""
        return []

    def state(self) -> dict[str, Any]:
        """Return where the schedule stands; a checkpoint is written before the epoch has ended."""
        if self.schedule is not None and self._trainer is not None:
            self._note(self._trainer)
        return {"progress": asdict(self.progress), "origin": dict(self.origin), "undo": self.undo, "masks": self.masks}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up where the schedule stood."""
        if state:
            known = dict(state["progress"])
            self.progress = Progress(**{**known, "accuracy": tuple(known["accuracy"])})
            self.origin, self.undo = dict(state["origin"]), state["undo"]
            self.masks = dict(state["masks"])

    def stepped(self, model: nn.Module) -> None:
        """Set masked weights to zero again; momentum and weight decay may have moved them."""
        apply_masks_(model, self.masks)

    def aside(self, model: nn.Module) -> AbstractContextManager[None]:
        """Do nothing: the model holds nothing of this."""
        return nullcontext()

    def narrowed(self, narrow: Narrowing, shapes: Mapping[str, torch.Size]) -> None:
        """Forget what was derived from the shapes before; a step has chosen masks of the new ones already."""
        self._penalty = None

    def _before_epoch(self, trainer: CompressTrainer) -> None:
        trainer.restart_epoch()
        if self.schedule is None:
            return
        action, level = self.schedule.decide(trainer.epoch, self.progress)
        if action == "step":
            self._step(trainer, level)
        elif action == "back":
            self._step_back(trainer)
        if action != "wait":
            if trainer.epoch > 0:  # last.pt gets the shapes that training goes on with
                epoch, trainer.epoch = trainer.epoch, trainer.epoch - 1
                trainer.save_model()
                trainer.epoch = epoch
            trainer.restart_epoch()
        if self.progress.done < 1:  # so that no early stop leaves the target unmet
            trainer.forget_best()

    def _note(self, trainer: CompressTrainer) -> None:
        """Take down the accuracy of the epoch that was validated last, once."""
        if trainer.epoch > self.progress.noted and MAP_KEY in trainer.metrics:
            self.progress = self.progress.seen(trainer.epoch, 100 * float(trainer.metrics[MAP_KEY]))

    def _step(self, trainer: CompressTrainer, level: float) -> None:
        """Narrow model, average and optimizer alike; scores and repair look at the average."""
        assert self.schedule is not None
        imgsz = _imgsz(trainer)
        section = self.section
        adaptive = self.schedule.kind == "gradual" and level < 1
        epoch, trainer.epoch = trainer.epoch, trainer.epoch - 1
        self.undo = None
        self.undo = trainer.exact_state() if adaptive else None
        trainer.epoch = epoch
        results: list[PruneResult] = []
        notes: list[str] = []

        def narrow(model: nn.Module, averaged: nn.Module) -> Narrowing:
            if not self.origin:
                params, ops = count(averaged, imgsz)
                self.origin = {"params": float(params), "ops": ops, "latency": 1.0}
            if adaptive:
                write_model(averaged, trainer.wdir / BEFORE_STEP)
            early = load_model(self._early_file(trainer, averaged)) if section.rewind else None
            wanted = self._relative(section, level, averaged, imgsz)
            result = self._prune(trainer, deepcopy(averaged).requires_grad_(True), wanted)
            results.append(result)
            apply_(averaged, result.plan)
            averaged.load_state_dict(result.model.state_dict())  # repaired already
            full, training = deepcopy(model), model.training
            apply_(model, result.plan)
            repair_(model, full, result.plan, self._images(trainer, imgsz)(), kind=wanted.repair)
            model.train(training)
            notes.extend(self._mask(trainer, model, averaged, level))
            if early is not None:
                self._rewind(trainer, early, result, (model, averaged) if level >= 1 else ())
            return cuts(result.plan)

        trainer.restructure(narrow)
        (result,) = results
        if section.rewind and level >= 1:
            trainer.optimizer.state.clear()  # moments of weights that are gone
        if section.latency is not None and result.latency is not None:
            self.origin["latency"] *= result.latency
        self.progress = self.schedule.taken(trainer.epoch, self.progress, level)
        self._tell(trainer, result, imgsz, notes)

    def _mask(self, trainer: CompressTrainer, model: nn.Module, averaged: nn.Module, level: float) -> list[str]:
        """Choose masks on the average and set them in both models, each repaired on its own."""
        if self.section.mask == "nothing":
            return []
        imgsz = _imgsz(trainer)
        images = self._images(trainer, imgsz)
        inputs = Inputs(images=images, weights=OutputWeights(**self.section.output_weights))
        self.masks, notes = mask_weights_(averaged, self.section, inputs, imgsz=imgsz, level=level)
        training = model.training
        set_masks_(model, self.masks, kind=self.section.repair, images=images, imgsz=imgsz)
        model.train(training)
        return notes

    @staticmethod
    def _early_file(trainer: CompressTrainer, model: nn.Module) -> Path:
        """Return where the weights that the run began with are kept, in the shapes of a model."""
        return trainer.wdir / EARLY.format(sum(p.numel() for p in model.parameters()))

    def _rewind(
        self, trainer: CompressTrainer, early: nn.Module, result: PruneResult, models: Sequence[nn.Module]
    ) -> None:
        """Narrow and repair the early model in step with the others, and give its weights to `models`."""
        full = deepcopy(early)
        apply_(early, result.plan)
        repair_(early, full, result.plan, self._images(trainer, _imgsz(trainer))(), kind=self.section.repair)
        write_model(early, self._early_file(trainer, early))
        for model in models:
            model.load_state_dict(early.state_dict())
            apply_masks_(model, self.masks)

    def _step_back(self, trainer: CompressTrainer) -> None:
        """Return to the shapes and weights from before the last step."""
        assert self.schedule is not None
        assert self.undo is not None
        undo, wide = self.undo, load_model(trainer.wdir / BEFORE_STEP)

        def widen(model: nn.Module, averaged: nn.Module) -> Narrowing:
            for changed in (model, averaged):
                trained = {name: value.requires_grad for name, value in changed.named_parameters()}
                changed.model = deepcopy(wide.model).to(next(changed.parameters()).device)
                for name, value in changed.named_parameters():
                    value.requires_grad_(trained[name])
                set_facts(changed, facts(wide))
            return {}

        progress = self.schedule.undone(trainer.epoch, self.progress)
        trainer.restructure(widen)
        now = [{key: group[key] for key in group if key != "params"} for group in trainer.optimizer.param_groups]
        trainer.load_exact_state(undo)
        for group, settings in zip(trainer.optimizer.param_groups, now, strict=True):
            group.update(settings)  # rate and momentum are those of this epoch, not of the one before the step
        self.progress, self.undo = progress, None
        if RANK in {-1, 0}:
            LOGGER.info(
                f"Step back before epoch {trainer.epoch + 1}: accuracy did not come back; "
                f"half of the step is tried next ({100 * progress.done:.0f} % of the pruning is done)"
            )

    def _relative(self, section: PruneSection, level: float, model: nn.Module, imgsz: int) -> PruneSection:
        """Return the target that takes the model from what it is to `level` of the way to the whole target.

        Single weights are masked afterwards; with no other target nothing is narrowed, and nothing needs repair.
        """
        section = section.model_copy(update={"mask": "nothing"})
        if section.ratio is section.flops is section.latency is None:
            return section.model_copy(update={"repair": "nothing"})
        params, ops = count(model, imgsz)
        if section.latency is not None:
            time = 1 - level * (1 - section.latency)
            return section.model_copy(update={"latency": time / self.origin["latency"]})
        name, now = ("ratio", float(params)) if section.ratio is not None else ("flops", ops)
        origin = self.origin["params" if name == "ratio" else "ops"]
        remaining = origin * (1 - level * float(getattr(section, name)))
        return section.model_copy(update={name: 1 - remaining / now})

    def _prune(self, trainer: CompressTrainer, model: nn.Module, section: PruneSection) -> PruneResult:
        imgsz = _imgsz(trainer)
        data = read_data(trainer.args.data)
        chosen = sample(data.train, section.images, seed=0)

        def labelled() -> Iterator[dict[str, torch.Tensor]]:
            for batch in labelled_batches(data, imgsz, limit=section.images):
                yield {key: value.to(trainer.device) for key, value in batch.items()}

        with self.timing(section, model, imgsz=imgsz, images=chosen) as timing:
            sources = {"loss_batches": labelled, "image_batches": self._images(trainer, imgsz), "timing": timing}
            result = prune(model, config=section, imgsz=imgsz, **sources)
        if RANK in {-1, 0}:
            LOGGER.info(
                f"Pruned {result.params_before:,} to {result.params_after:,} parameters, "
                f"{result.gflops_before:.2f} to {result.gflops_after:.2f} GFLOPs"
            )
        return result

    def _images(self, trainer: CompressTrainer, imgsz: int) -> Callable[[], Iterator[np.ndarray]]:
        chosen = sample(read_data(trainer.args.data).train, self.section.images, seed=0)
        return lambda: image_batches(chosen, imgsz)

    def _tell(self, trainer: CompressTrainer, result: PruneResult, imgsz: int, notes: list[str]) -> None:
        """Leave in both models what was done so far, counted from the model that the run began with."""
        model = unwrap_model(trainer.model)
        earlier = facts(model).get("prune", {})
        told = result.facts()
        first = {row["name"]: row for row in earlier.get("layers", ())}
        for row in told["layers"]:
            if row["name"] in first:
                row.update({key: first[row["name"]][key] for key in ("width_before", "params_before")})
        told["zero_share"] = zero_share(self.masks)
        told["notes"] += notes
        told["settings"] = self.section.model_dump(mode="json")
        told["params_before"] = earlier.get("params_before", told["params_before"])
        told["gflops_before"] = earlier.get("gflops_before", told["gflops_before"])
        told["steps"] = [
            *earlier.get("steps", ()),
            {"epoch": trainer.epoch, "done": self.progress.done, "gflops": told["gflops_after"]},
        ]
        for changed in (model, trainer.ema.ema):
            set_facts(changed, {**facts(changed), "prune": told})
        if RANK in {-1, 0}:
            LOGGER.info(
                f"Pruning before epoch {trainer.epoch + 1}: {100 * self.progress.done:.0f} % of it is done, "
                f"{told['gflops_after']:.2f} of {told['gflops_before']:.2f} GFLOPs at {imgsz} px are left"
            )


def _imgsz(trainer: CompressTrainer) -> int:
    stride = max(int(unwrap_model(trainer.model).stride.max()), 32)
    return math.ceil(trainer.args.imgsz / stride) * stride  # the trainer rounds it the same way, but later


def _clean(trainer: CompressTrainer) -> None:
    """Remove what only an unfinished run needs."""
    for file in (trainer.wdir / BEFORE_STEP, *trainer.wdir.glob(EARLY.format("*"))):
        file.unlink(missing_ok=True)
