# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Options of distillation."""

from __future__ import annotations

import math
import typing
from typing import Any, Literal

from pydantic import field_validator, model_validator

from yolo_compress.errors import suggest
from yolo_compress.recipe.options import Names, Section, option, parts

Loss = Literal[
    "cwd", "mimic", "mgd", "fgd", "attention", "at", "psa", "relation", "response", "box", "ld", "iou", "crosskd"
]
Schedule = Literal["constant", "linear", "cosine"]
SELF = "self"  # as a teacher: the model as it was given


class LossOptions(Section):
    """One distillation loss; in a recipe a bare number is its weight."""

    weight: float = option(1.0, "Weight beside the training loss.", ge=0, allow_inf_nan=False)
    schedule: Schedule | None = option(None, "How the weight falls over the run; the section's when not given.")
    layers: Names = option(
        (), "Modules of the student whose outputs are compared, such as model.15; the inputs of the head if not given."
    )
    teacher_layers: Names = option((), "The teacher's modules, in the same order; those of the same name if not given.")
    temperature: float | None = option(None, "Softmax temperature, for a loss that has one.", gt=0)

    def __str__(self) -> str:
        """Return the weight, which is what the command line gives."""
        return str(self.weight)

    def inside(self, name: str) -> bool:
        """Tell whether the loss of this name reads more than the head and what enters it."""
        return bool(self.layers) or name == "psa"


class TeacherOptions(Section):
    """One of several teachers; in a recipe a bare path is enough."""

    path: str = option(..., "Teacher checkpoint; 'self' is the model before compression.")
    weight: float = option(1.0, "Weight among the teachers.", gt=0, allow_inf_nan=False)
    levels: tuple[int, ...] = option((), "Detection levels it teaches, such as 3 for P3; all when not given.")


class DistillSection(Section):
    """Knowledge distillation."""

    teacher: tuple[TeacherOptions, ...] = option(
        (),
        "Teacher checkpoint, or several with commas between; 'self' is the model before compression.",
        flag="teacher",
    )
    losses: dict[Loss, LossOptions] = option(
        {"cwd": LossOptions(), "response": LossOptions()},
        "Losses and their weights, such as cwd=1.0,response=0.5; without labels and when none is named, box as well.",
        flag="distill",
    )
    schedule: Schedule = option(
        "constant",
        "How the weights fall over the run: not at all, in a line, or as half a cosine.",
        flag="distill_schedule",
    )
    warmup: float = option(
        0.0, "Share of the run in which the weights rise from zero.", flag="distill_warmup", ge=0, lt=1
    )
    close_epochs: int | Literal["mosaic"] = option(
        0,
        "Last epochs that train without the distillation losses; 'mosaic' means those without mosaic.",
        flag="distill_close_epochs",
    )
    order: Literal["together", "chain"] = option(
        "together",
        "Several teachers at once, or one after the other in equal shares of the run.",
        flag="distill_order",
    )
    trust: Literal["weight", "fit"] = option(
        "weight",
        "How teachers share an image: by their weights alone, or also by how well each finds its labelled objects.",
        flag="distill_trust",
    )
    labels: bool = option(True, "Train on labels as well; without, images alone teach.", flag="labels")
    cache: bool = option(
        False,
        "Keep what the teachers say of every image in main memory; for training without augmentation.",
        flag="distill_cache",
    )

    @field_validator("teacher", mode="before")
    @classmethod
    def _teachers(cls, value: Any) -> Any:
        """Read one path, `a.pt,b.pt`, or a list of paths and mappings."""
        if value is None:
            return ()
        value = parts(value) if isinstance(value, str) else value
        value = [value] if isinstance(value, dict | TeacherOptions) else value
        return [{"path": entry} if isinstance(entry, str) else entry for entry in value]

    @field_validator("losses", mode="before")
    @classmethod
    def _losses(cls, value: Any) -> Any:
        """Read `cwd,response` and `cwd=1.0,response=0.5`, the way a shell gives them, and bare weights."""
        value = parts(value)
        if isinstance(value, list | tuple):
            pairs = (str(part).partition("=" if "=" in str(part) else ":") for part in value)
            value = {name.strip(): weight.strip() or 1.0 for name, _, weight in pairs}
        if not isinstance(value, dict):
            return value
        known = typing.get_args(Loss)
        if unknown := [name for name in value if name not in known]:
            raise ValueError(f"'{unknown[0]}' is not a loss; {suggest(str(unknown[0]), known)}")
        return {name: cls._loss(name, given) for name, given in value.items()}

    @staticmethod
    def _loss(name: str, given: Any) -> Any:
        if isinstance(given, dict | LossOptions):
            return given
        try:
            weight = float(given)
        except (TypeError, ValueError):
            weight = math.nan
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the weight of '{name}' is {given}; give a number of at least 0")
        return {"weight": weight}

    @field_validator("losses")
    @classmethod
    def _named(cls, value: dict[str, LossOptions]) -> dict[str, LossOptions]:
        if not value:
            raise ValueError("no loss is named; name at least one, such as distill=cwd,response")
        return value

    @field_validator("close_epochs")
    @classmethod
    def _not_negative(cls, value: Any) -> Any:
        if isinstance(value, int) and value < 0:
            raise ValueError(f"close_epochs={value} is negative; give a number of epochs, or mosaic")
        return value

    @model_validator(mode="after")
    def _several(self) -> DistillSection:
        if self.order == "chain" and len(self.teacher) < 2:
            raise ValueError("order=chain goes through several teachers; give them, such as teacher=small.pt,large.pt")
        if not self.labels and "losses" not in self.model_fields_set:  # nothing else would teach where boxes lie
            object.__setattr__(self, "losses", {**self.losses, "box": LossOptions()})
        if not self.labels and not any(loss.weight for loss in self.losses.values()):
            raise ValueError("labels=False and no loss with a weight above 0 leave nothing to train on; raise a weight")
        if self.trust == "fit" and not self.labels:
            raise ValueError("trust=fit looks at labelled objects and labels=False goes without; leave one of them out")
        return self

    def with_self(self, path: str) -> DistillSection:
        """Return the section with the model itself in the place of 'self'."""
        named = tuple(t.model_copy(update={"path": path}) if t.path == SELF else t for t in self.teacher)
        return self.model_copy(update={"teacher": named})
