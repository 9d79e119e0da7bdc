# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The trainer: Ultralytics' own, with four seams for what is attached to a run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from yolo_compress.artifacts import atomic_path, atomic_write
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host.attachment import Attachment, Narrowing, Plan
from yolo_compress.host.checkpoint import facts, restructured, set_classes, set_facts
from yolo_compress.host.cpu import require_bf16, use_all_cores
from yolo_compress.host.criterion import CompressCriterion, LossTerms
from yolo_compress.host.ultralytics import LOGGER, RANK, DetectionTrainer, ModelEMA, get_cfg, unwrap_model

STATE_FILE = "compress_state.pt"  # beside last.pt while a run is unfinished; tensors and built-in types only
DEFAULT_WORKERS = get_cfg().workers
FAST_CPU = "fast_cpu"  # among the facts of a model


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
        self._last_saved: list[dict[str, Any]] = []
        self._resumed_epoch: int | None = None
        self._fast_cpu = bool(self.plan and self.plan.fast_cpu and self.device.type == "cpu")
        self._cpu_bf16 = False
        self._workers_given = (kwargs.get("overrides") or {}).get("workers")
        if self._fast_cpu:
            use_all_cores()
            self._speed_up(self.args.amp, self._workers_given)

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

    def setup_model(self) -> Any:
        """Set the model up as the parent does, and remember which epoch a checkpoint to resume was written after."""
        ckpt = super().setup_model()
        self._resumed_epoch = None if ckpt is None else int(ckpt["epoch"])
        saved = facts(ckpt.get("ema") or ckpt["model"]).get(FAST_CPU) if self._fast_cpu and ckpt is not None else None
        if self.resume and saved:
            self._speed_up(saved["amp"], saved["workers"] if self._workers_given is None else self._workers_given)
        return ckpt

    def _speed_up(self, amp: bool | str, workers: int | None) -> None:
        """Take the precision and the number of loader processes that were asked for.

        The settings in a checkpoint cannot hold them: the parent refuses the one on CPUs and sets the other to none.
        """
        self.args.workers = DEFAULT_WORKERS if workers is None else int(workers)
        self._cpu_bf16 = amp == "bf16"
        if self._cpu_bf16:
            require_bf16()
            self.args.amp = False  # _build_train_pipeline turns autocast on, after the parent's check

    def set_model_attributes(self) -> None:
        """Attach everything, while optimizer, EMA and DDP do not exist yet."""
        super().set_model_attributes()
        attached = [attachment.attach(self) for attachment in self._attachments]
        self._terms = [terms for terms in attached if terms is not None]
        if self.plan and self.plan.facts:
            set_facts(self.model, {**facts(self.model), **self.plan.facts})
        if self._fast_cpu:
            asked = {"amp": "bf16" if self._cpu_bf16 else bool(self.args.amp), "workers": int(self.args.workers)}
            set_facts(self.model, {**facts(self.model), FAST_CPU: asked})
            self.model = self.model.to(memory_format=torch.channels_last)
        self._install_criterion()

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Prepare a batch as the parent does, in the memory layout of the model."""
        batch = super().preprocess_batch(batch)
        if self._fast_cpu:
            batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        for attachment in self._attachments:
            attachment.before_batch(batch)
        return batch

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the parent's optimizer and add the attachments' parameters to it, without weight decay."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        if extra := self._extra_parameters():
            for group in optimizer.param_groups:  # those that the model holds came with the weights
                group["params"] = [p for p in group["params"] if not any(p is ours for ours in extra)]
            settings = {"lr": optimizer.param_groups[0]["lr"], "weight_decay": 0.0, "param_group": "attached"}
            if "use_muon" in optimizer.param_groups[-1]:
                settings["use_muon"] = False
            optimizer.add_param_group({"params": extra, **settings})
        if self._attachments:
            optimizer.register_step_post_hook(self._stepped)
        return optimizer

    def _build_train_pipeline(self) -> None:
        super()._build_train_pipeline()
        if self._fast_cpu:
            use_all_cores()  # once more: the parent chose a device meanwhile, and with it fewer
        if self._cpu_bf16:
            # the loop's autocast on a CPU is bfloat16; set after the parent's check, which knows only CUDA
            self.amp = True

    def optimizer_step(self) -> None:
        """Average the attachments' gradients over DDP workers, which wrap the model alone, then step."""
        if self.world_size > 1:
            wrapped = {id(parameter) for parameter in self.model.parameters()}
            for parameter in self._extra_parameters():
                if parameter.grad is not None and id(parameter) not in wrapped:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world_size
        super().optimizer_step()

    def restructure(self, change: Callable[[nn.Module, nn.Module], Narrowing]) -> None:
        """Carry optimizer, EMA and schedule over a change of the model's shapes in the middle of a run.

        Args:
            change: Changes the model and its EMA in place, both as a checkpoint holds them, and returns, by parameter
                name, what makes the new shape of a tensor that has the parameter's old one.

        Raises:
            UsageError: Several processes train, whose gradients are tied to the old parameters.
        """
        if self.world_size > 1:
            raise UsageError(
                f"a model cannot change its shape while {self.world_size} GPUs train it; give prune_schedule=one_shot, "
                "or device=0"
            )
        model, averaged = unwrap_model(self.model), self.ema.ema
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        with self.plain(model), self.plain(averaged):
            narrow = change(model, averaged)
        for attachment in self._attachments:
            attachment.narrowed(narrow, shapes)
        if self._fast_cpu:
            use_all_cores()  # whatever an attachment needed for it
            model.to(memory_format=torch.channels_last)
        fresh, state = dict(model.named_parameters()), self.optimizer.state
        for group in self.optimizer.param_groups:
            for index, old in enumerate(group["params"]):
                name = names.get(id(old))
                if name is None or fresh.get(name) is old:
                    continue
                kept = state.pop(old, {})
                group["params"][index] = fresh[name]
                if kept and name in narrow:
                    same = {key: torch.is_tensor(value) and value.shape == old.shape for key, value in kept.items()}
                    state[fresh[name]] = {k: narrow[name](v) if same[k] else v for k, v in kept.items()}
        self.ema = ModelEMA(model, updates=self.ema.updates)  # a new one, since it holds on to the old tensors
        self.ema.ema.load_state_dict(averaged.state_dict())
        self.forget_best()

    def require_epochs(self, what: str) -> None:
        """Refuse a run that ends by the clock, for something that is planned by epochs.

        Raises:
            UsageError: `time` is set.
        """
        if self.args.time:
            raise UsageError(
                f"{what} is planned by epochs, and time={self.args.time:g} ends the run by the clock; leave time out "
                "and give epochs"
            )

    def forget_best(self) -> None:
        """Let the next epoch be the best so far: what earlier ones reached, they reached with another model.

        Without this `best.pt` would stay a model that is not what the run is to end with, and early stopping would wait
        for an accuracy that the smaller model never has.
        """
        self.best_fitness = None
        self.stopper.best_fitness, self.stopper.best_epoch = 0.0, self.epoch

    @contextmanager
    def plain(self, model: nn.Module) -> Iterator[None]:
        """Leave of the model, or of its average, what stock Ultralytics knows, while the context lasts."""
        with ExitStack() as stack:
            for attachment in self._attachments:
                stack.enter_context(attachment.aside(model))
            yield

    def saved_state(self, attachment: Attachment) -> Mapping[str, Any] | None:
        """Return the state of an attachment that belongs to the checkpoint that is resumed, before it is taken up."""
        file = self.wdir / STATE_FILE
        if not self.resume or not file.is_file():
            return None
        shapes = {name: value.shape for name, value in unwrap_model(self.model).state_dict().items()}
        for state in torch.load(file, map_location="cpu", weights_only=True)["saved"]:
            held = {name: state["model"][name].shape for name in shapes if name in state["model"]}
            if state["saved"][0] == self._resumed_epoch and held == shapes:
                return state["attachments"][self._attachments.index(attachment)]
        return None  # `resume_training` says so

    def exact_state(self) -> dict[str, Any]:
        """Return everything that training goes on from, in full precision, as tensors and built-in types."""
        return {
            "saved": self._mark(self.epoch),
            "model": _on_cpu(unwrap_model(self.model).state_dict()),
            "ema": _on_cpu(self.ema.ema.state_dict()),
            "optimizer": _on_cpu(self.optimizer.state_dict()),
            "attachments": [attachment.state() for attachment in self._attachments],
        }

    def load_exact_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the model already has its shapes."""
        for attachment, values in zip(self._attachments, state["attachments"], strict=True):
            attachment.load_state(values)
        unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])

    def resume_training(self, ckpt: Any) -> None:
        """Resume the parent's state, then ours: the parent keeps the average alone, and that in half precision.

        Raises:
            DataError: What belongs to last.pt is not beside it.
        """
        super().resume_training(ckpt)
        if ckpt is None or not self.resume:
            return
        self._install_criterion()  # the parent puts a fresh criterion in place for end-to-end heads
        if self._attachments:
            wanted = self._mark(int(ckpt["epoch"]))
            found = [state for state in self._saved_states() if state["saved"] == wanted]
            if not found:
                raise DataError(
                    f"'{self.wdir / STATE_FILE}' holds nothing that belongs to this last.pt, so the run cannot go on "
                    "as it was; copy both files from the same run, or begin a new run from last.pt without resume"
                )
            self.load_exact_state(found[0])
            self._last_saved = [_on_cpu(found[0])]
            self._drop_rows_behind()

    def save_model(self) -> bool:
        """Save the parent's checkpoint, and before it what the attachments need to resume.

        The state of the checkpoint before stays in the file as well: a run may be killed between the two.
        """
        if self._attachments:
            state = self.exact_state()
            with atomic_path(self.wdir / STATE_FILE) as temporary:
                torch.save({"saved": [state, *self._last_saved]}, temporary)
            self._last_saved = [state]
        with self.plain(self.ema.ema):
            return super().save_model()

    def restart_epoch(self) -> None:
        """Seed an epoch by its number, so that it goes the same way in a run that was resumed before it."""
        seed = int(self.args.seed) + 1 + self.epoch
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        self.train_loader.generator.manual_seed(seed)
        self.train_loader.reset()
        dataset = self.train_loader.dataset
        if dataset.cache != "ram":  # mosaics are drawn from the images that were loaded last
            for index in dataset.buffer:
                dataset.ims[index] = dataset.im_hw0[index] = dataset.im_hw[index] = None
        dataset.buffer.clear()

    def final_eval(self) -> None:
        """Finish as the parent does and remove what only a resume would need."""
        super().final_eval()
        if RANK in {-1, 0}:
            (self.wdir / STATE_FILE).unlink(missing_ok=True)

    def _drop_rows_behind(self) -> None:
        """Take out of results.csv what the resumed run trains again: a row is written before its checkpoint is."""
        if RANK in {-1, 0} and self.csv.is_file():
            header, *rows = self.csv.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if int(row.partition(",")[0]) <= self.start_epoch]
            if len(kept) < len(rows):
                atomic_write(self.csv, "".join([header, *kept]))

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Go back to last.pt as the parent does, and with what the attachments were then."""
        recovered = super()._handle_nan_recovery(epoch)
        if recovered and self._attachments:  # from the file, which every process of a run finds
            self.load_exact_state(self._saved_states()[0])
        return recovered

    def _saved_states(self) -> list[dict[str, Any]]:
        """Return what is saved beside last.pt, the newest first; nothing where there is no such file."""
        file = self.wdir / STATE_FILE
        return torch.load(file, map_location=self.device, weights_only=True)["saved"] if file.is_file() else []

    def _mark(self, epoch: int) -> list[int]:
        """Return what tells a saved state from the others of a run: the model may change shape between two epochs."""
        return [epoch, *(parameter.numel() for parameter in self.ema.ema.parameters())]

    def _stepped(self, *given: Any) -> None:
        model = unwrap_model(self.model)
        for attachment in self._attachments:
            attachment.stepped(model)

    def _extra_parameters(self) -> list[nn.Parameter]:
        return [parameter for attachment in self._attachments for parameter in attachment.parameters()]

    def _install_criterion(self) -> None:
        if self._terms:
            model = unwrap_model(self.model)
            base = getattr(model, "criterion", None)
            if isinstance(base, CompressCriterion):  # ours already: around it, every term would count twice
                base = base.base
            model.criterion = CompressCriterion(model, self._terms, base=base)


def _on_cpu(value: Any) -> Any:
    """Return a copy of nested tensors and built-in types in main memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    return [_on_cpu(entry) for entry in value] if isinstance(value, list | tuple) else value
