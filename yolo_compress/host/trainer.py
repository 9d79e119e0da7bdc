# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The trainer: Ultralytics' own, with four seams for what is attached to a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from yolo_compress.artifacts import atomic_path
from yolo_compress.host.checkpoint import facts, restructured, set_classes, set_facts
from yolo_compress.host.cpu import require_bf16, use_all_cores
from yolo_compress.host.criterion import CompressCriterion, LossTerms
from yolo_compress.host.ultralytics import LOGGER, RANK, DetectionTrainer, get_cfg, unwrap_model

STATE_FILE = "compress_state.pt"  # beside last.pt while a run is unfinished; tensors and built-in types only
DEFAULT_WORKERS = get_cfg().workers


class Attachment(Protocol):
    """Something that takes part in a training run; it lives in the trainer, never in the model that is saved."""

    def attach(self, trainer: CompressTrainer) -> LossTerms | None:
        """Change `trainer.model` in place or replace it, before optimizer, EMA and DDP exist, and return loss terms."""
        ...

    def parameters(self) -> list[nn.Parameter]:
        """Return parameters to train beside the model's."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as tensors and built-in types."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up the state of the run that is resumed."""
        ...


class Plan(Protocol):
    """What a bound trainer does; it travels to DDP workers by pickle."""

    fast_cpu: bool
    facts: Mapping[str, Any]

    def attachments(self) -> Sequence[Attachment]:
        """Build the attachments of one run."""
        ...


class CompressTrainer(DetectionTrainer):
    """Ultralytics' detection trainer with attachments, kept structures and a faster path for CPUs.

    Without a plan it trains exactly as its parent does, but for a model whose structure differs from its YAML: that one
    is kept as it is where the parent would rebuild it.
    """

    plan: Plan | None = None

    @classmethod
    def bound(cls, plan: Plan) -> type[CompressTrainer]:
        """Return a trainer class that follows `plan`; the class itself is what reaches DDP workers."""
        return type("BoundCompressTrainer", (cls,), {"plan": plan, "__module__": cls.__module__})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Initialize as the parent does, then undo its single-process loading on CPUs if the plan says so.

        Raises:
            UsageError: bfloat16 is asked for on a CPU that has no units for it.
        """
        super().__init__(*args, **kwargs)
        self._attachments = list(self.plan.attachments()) if self.plan else []
        self._terms: list[LossTerms] = []
        self._fast_cpu = bool(self.plan and self.plan.fast_cpu and self.device.type == "cpu")
        self._cpu_bf16 = self._fast_cpu and self.args.amp == "bf16"
        if self._fast_cpu:
            use_all_cores()
            asked = (kwargs.get("overrides") or {}).get("workers", DEFAULT_WORKERS)
            self.args.workers = int(asked)
        if self._cpu_bf16:
            require_bf16()
            self.args.amp = False  # the parent refuses bf16 on CPUs; _build_train_pipeline turns autocast on instead

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        """Return the model to train; one that its YAML no longer describes is kept instead of rebuilt from it."""
        if weights is None or not restructured(weights):
            return super().get_model(cfg=cfg, weights=weights, verbose=verbose)
        model = deepcopy(weights).float()
        set_classes(model, self.data["names"])
        model.load(weights, verbose=False)  # classes that moved within the list are matched by name, as in the parent
        for key, parameter in model.named_parameters():
            parameter.requires_grad = ".dfl." not in key
        if verbose and RANK in {-1, 0}:
            LOGGER.info(f"Keeping the compressed structure: {sum(p.numel() for p in model.parameters()):,} parameters")
        return model

    def set_model_attributes(self) -> None:
        """Attach everything, while optimizer, EMA and DDP do not exist yet."""
        super().set_model_attributes()
        attached = [attachment.attach(self) for attachment in self._attachments]
        self._terms = [terms for terms in attached if terms is not None]
        if self.plan and self.plan.facts:
            set_facts(self.model, {**facts(self.model), **self.plan.facts})
        if self._fast_cpu:
            self.model = self.model.to(memory_format=torch.channels_last)
        self._install_criterion()

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Prepare a batch as the parent does, in the memory layout of the model."""
        batch = super().preprocess_batch(batch)
        if self._fast_cpu:
            batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the parent's optimizer and add the attachments' parameters to it, without weight decay."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        if extra := self._extra_parameters():
            settings = {"lr": optimizer.param_groups[0]["lr"], "weight_decay": 0.0, "param_group": "projector"}
            if "use_muon" in optimizer.param_groups[-1]:
                settings["use_muon"] = False
            optimizer.add_param_group({"params": extra, **settings})
        return optimizer

    def _build_train_pipeline(self) -> None:
        super()._build_train_pipeline()
        if self._cpu_bf16:
            self.amp = (
                True  # the loop's autocast on a CPU is bfloat16; set after the parent's check, which knows only CUDA
            )

    def optimizer_step(self) -> None:
        """Average the attachments' gradients over DDP workers, which wrap the model alone, then step."""
        if self.world_size > 1:
            for parameter in self._extra_parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world_size
        super().optimizer_step()

    def resume_training(self, ckpt: Any) -> None:
        """Resume the parent's state, then the attachments'."""
        super().resume_training(ckpt)
        if ckpt is None or not self.resume:
            return
        self._install_criterion()  # the parent puts a fresh criterion in place for end-to-end heads
        file = self.wdir / STATE_FILE
        if self._attachments and file.is_file():
            state = torch.load(file, map_location=self.device, weights_only=True)
            for attachment, values in zip(self._attachments, state["attachments"], strict=True):
                attachment.load_state(values)

    def save_model(self) -> bool:
        """Save the parent's checkpoint, and beside it what the attachments need to resume."""
        saved = super().save_model()
        if self._attachments:
            with atomic_path(self.wdir / STATE_FILE) as temporary:
                torch.save({"epoch": self.epoch, "attachments": [a.state() for a in self._attachments]}, temporary)
        return saved

    def final_eval(self) -> None:
        """Finish as the parent does and remove what only a resume would need."""
        super().final_eval()
        if RANK in {-1, 0}:
            (self.wdir / STATE_FILE).unlink(missing_ok=True)

    def _extra_parameters(self) -> list[nn.Parameter]:
        return [parameter for attachment in self._attachments for parameter in attachment.parameters()]

    def _install_criterion(self) -> None:
        if self._terms:
            model = unwrap_model(self.model)
            model.criterion = CompressCriterion(model, self._terms, base=getattr(model, "criterion", None))
