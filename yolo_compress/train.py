# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Compose what a recipe asks for into one training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress import recipe as recipes
from yolo_compress.distill import Distillation
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host import enable as host_enable
from yolo_compress.host.attachment import Attachment
from yolo_compress.host.cli import check_keys, native_keys
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.host.ultralytics import YOLO
from yolo_compress.prune.attachment import Pruning
from yolo_compress.prune.growing import Growing
from yolo_compress.quantize.attachment import QuantizationAware
from yolo_compress.recipe import Recipe
from yolo_compress.timing import timing_for

RECIPE_FACT = "recipe"


@dataclass(frozen=True)
class TrainPlan:
    """What a recipe changes about a training run; plain data, so that it reaches DDP workers and checkpoints."""

    recipe: Recipe

    @property
    def fast_cpu(self) -> bool:
        """Whether the CPU path is wanted."""
        return bool(self.recipe.train and self.recipe.train.fast_cpu)

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint of this run says about it, enough to resume it."""
        return {RECIPE_FACT: self.recipe.model_dump(mode="json")}

    def attachments(self) -> list[Attachment]:
        """Build the attachments; pruning first, because the others measure the widths that it leaves."""
        found: list[Attachment] = []
        if self.recipe.prune is not None:
            found.append(Pruning(self.recipe.prune, timing_for))
        if self.recipe.grow is not None:
            found.append(Growing(self.recipe.grow))
        if self.recipe.qat is not None and self.recipe.quantize is not None:
            found.append(QuantizationAware(self.recipe.qat, self.recipe.quantize))
        if self.recipe.distill is not None:
            found.append(Distillation(self.recipe.distill))
        return found


def train(model: str | Path, *, recipe: Recipe | str | None = None, **settings: Any) -> Any:
    """Train as `yolo train` does, with the pruning and distillation of a recipe or of flags.

    Args:
        model: Checkpoint to start from, or with resume=True the last.pt of the run to go on with.
        recipe: A recipe, the name of a shipped one, or a file.
        settings: Flags such as prune=0.3 and teacher="yolov8s.pt", and any setting of `yolo train`.

    Returns:
        The metrics that `YOLO.train` returns.

    Raises:
        UsageError: A key is unknown or a value cannot be used.
        DataError: Weights or data are missing or damaged.
    """
    plan, native = plan_for({**settings, "model": str(model), **({"recipe": recipe} if recipe else {})})
    check_keys({**native_keys(), **dict.fromkeys(recipes.flags()), "recipe": None}, native)
    path = Path(native.pop("model"))
    checkpoint.load_model(path)  # refuses what cannot work with our own message, before a run folder exists
    if native.get("resume"):
        native["resume"] = True
    trainer = CompressTrainer if plan is None else CompressTrainer.bound(plan)
    return YOLO(str(path)).train(trainer=trainer, **native)


def enable() -> None:
    """Make our flags legal in `YOLO(...).train(...)` in this process; without any of them nothing changes."""
    host_enable.enable(plan_for)


def disable() -> None:
    """Undo `enable`."""
    host_enable.disable()


def plan_for(overrides: Mapping[str, Any]) -> tuple[TrainPlan | None, dict[str, Any]]:
    """Split the overrides of a run into a plan, or None when none of our keys is there, and native settings.

    A resumed run takes its plan from the checkpoint, so that `resume=True` is all a user types.

    Raises:
        UsageError: A value cannot be used, or a flag is changed in the middle of a run.
    """
    known = recipes.flags()
    ours = {key: value for key, value in overrides.items() if key in known and value is not None}
    native = {key: value for key, value in overrides.items() if key not in known and key != "recipe"}
    named = overrides.get("recipe")
    if native.get("resume"):
        return _resumed_plan(native, ours, named), native
    if not ours and named is None:
        return None, native
    base = named if isinstance(named, Recipe) or named is None else recipes.load(named)
    recipe = recipes.from_flags(ours, base).taught_by(str(native["model"]))
    defaults = dict(recipe.train.settings) if recipe.train else {}
    return TrainPlan(recipe), {**defaults, **native}


def with_options(base: Recipe, options: Mapping[str, Any]) -> Recipe:
    """Return a recipe with flags laid over it, and settings of `yolo train` over those of its training.

    Raises:
        UsageError: A key is unknown, a value cannot be used, or settings are given to a recipe that does not train.
    """
    known = recipes.flags()
    recipe = recipes.from_flags({key: value for key, value in options.items() if key in known}, base)
    settings = {key: value for key, value in options.items() if key not in known}
    if not settings:
        return recipe
    check_keys({**native_keys(), **dict.fromkeys(known)}, settings)
    if recipe.train is None:
        raise UsageError(
            f"recipe '{recipe.name}' does not train, so {', '.join(settings)} would have no effect; leave them out"
        )
    training = recipe.train.model_copy(update={"settings": {**recipe.train.settings, **settings}})
    return recipe.model_copy(update={"train": training})


def _resumed_plan(native: Mapping[str, Any], ours: Mapping[str, Any], named: Any) -> TrainPlan | None:
    source = native["resume"] if isinstance(native["resume"], str | Path) else native.get("model")
    if source is None or not Path(str(source)).is_file():
        raise DataError(
            f"cannot resume from '{source}'; give the last.pt of the run, such as model=runs/train/weights/last.pt"
        )
    saved = checkpoint.facts(checkpoint.load_model(str(source))).get(RECIPE_FACT)
    if ours or named is not None:
        given = ", ".join([*ours, *(["recipe"] if named is not None else [])])
        raise UsageError(
            f"a resumed run keeps its recipe, and {given} was given as well; leave it out, or start a new run"
        )
    return TrainPlan(recipes.validate(saved, source=f"the recipe in '{source}'")) if saved else None
