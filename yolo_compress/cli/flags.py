# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The modes in which flags of the recipe stand among settings of `yolo train`: train, run and sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yolo_compress import recipe as recipes
from yolo_compress.errors import UsageError

# what one training run can do; the other sections need `run`
TRAIN_SECTIONS = ("prune", "distill", "grow", "qat", "train")
FORM_SECTION = "quantize"  # says what a quantized model is like, and so belongs to training with qat
NOT_SETTINGS = {"task", "mode", "resume", "cfg", "exist_ok", "save_dir"}  # of `yolo`, without meaning inside a run


def our_keys() -> dict[str, Any]:
    """Return the keys that train and run know beside those of `yolo`, with their defaults."""
    return {"recipe": None, **{name: flag.default for name, flag in recipes.flags().items()}}


def is_training(args: Sequence[str]) -> bool:
    """Tell whether the command line is one of `yolo train`, in whichever place the word stands."""
    return "train" in args or "mode=train" in args


def names_our_keys(args: Sequence[str]) -> bool:
    """Tell whether an argument names a key that `yolo` does not have; without one, its command line is left alone."""
    return not our_keys().keys().isdisjoint(_names(args))


def train_keys() -> dict[str, Any]:
    """Return every key of train."""
    from yolo_compress.host.cli import native_keys

    return {**native_keys(), **our_keys()}


def run_keys() -> dict[str, Any]:
    """Return every key of run but the ones that are its own: settings of its training stage, and flags."""
    return {name: default for name, default in train_keys().items() if name not in NOT_SETTINGS}


def train(*, model: str, **given: Any) -> None:
    """Train with pruning, distillation and quantizers; Ultralytics prints what comes of it.

    Raises:
        UsageError: A flag without meaning in training, or a task other than detection.
    """
    if given.pop("task", "detect") != "detect" or given.pop("mode", "train") != "train":
        raise UsageError("compression trains detectors only; remove task= and mode=, or train with: yolo train")
    recipe = recipes.load(given.pop("recipe")) if "recipe" in given else None
    quantized = "qat" in given or (recipe is not None and recipe.qat is not None)
    for name, flag in recipes.flags().items():
        if name in given and flag.section == FORM_SECTION and not quantized:
            raise UsageError(
                f"'{name}' says how a model is quantized, and this training does not; add qat=int8, or quantize "
                "afterwards with: yolo-compress quantize"
            )
        if name in given and flag.section not in (*TRAIN_SECTIONS, FORM_SECTION):
            raise UsageError(
                f"'{name}' is for a stage that training does not have ({flag.section}); "
                "give it to `yolo-compress run`, which does all stages"
            )
    if recipe is not None and not any(getattr(recipe, section) for section in TRAIN_SECTIONS):
        raise UsageError(
            f"recipe '{recipe.name}' has no prune, distill, grow, qat or train section, so training has no use for it; "
            "do all of it with: yolo-compress run"
        )
    from yolo_compress import api  # imports torch

    api.train(model, recipe=recipe, **given)


def run(**given: Any) -> Any:
    """Do a whole recipe, or continue one.

    Raises:
        UsageError: Keys beside `resume`.
    """
    if "resume" in given and (extra := sorted(set(given) - {"resume"})):
        raise UsageError(f"resume= takes everything from the run that it continues; remove {', '.join(extra)}")
    from yolo_compress import api  # imports torch

    return api.run(**given)


def sweep(**given: Any) -> Any:
    """Run a recipe with several values of its flags, or continue a sweep; what stands in brackets is one value."""
    own = {"recipe", "resume", "ray"}
    given = {name: [value] if isinstance(value, list) and name not in own else value for name, value in given.items()}
    beside = {"resume", "ray", "workers", "retry_failed"}
    if "resume" in given and (extra := sorted(set(given) - beside)):
        raise UsageError(f"resume= takes everything from the sweep that it continues; remove {', '.join(extra)}")
    from yolo_compress import api  # imports torch

    return api.sweep(**given)


def _names(args: Sequence[str]) -> set[str]:
    return {arg.removeprefix("--").partition("=")[0].strip() for arg in args}
