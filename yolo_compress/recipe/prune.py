# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Options of pruning."""

from __future__ import annotations

import math
import typing
from typing import Any, Literal

from pydantic import field_validator, model_validator

from yolo_compress.errors import suggest
from yolo_compress.recipe.options import ENGINE_PRECISIONS, PROFILED, Names, Section, option, parts

OutputTerm = Literal["confidence", "localisation", "discrimination"]
ImportanceName = Literal[
    "obs", "output", "taylor", "fisher", "hessian", "l1", "l2", "bn_scale", "lamp", "fpgm", "random"
]
PRUNE_TARGETS = ("ratio", "flops", "latency")


class PruneSection(Section):
    """Channel pruning."""

    ratio: float | None = option(None, "Share of the parameters to remove, in (0, 1).", flag="prune", gt=0, lt=1)
    flops: float | None = option(None, "Share of the operations to remove, in (0, 1).", flag="prune_flops", gt=0, lt=1)
    latency: float | None = option(
        None,
        "Time that the model may still take, as a share of today's on `target`, in (0, 1).",
        flag="prune_latency",
        gt=0,
        lt=1,
    )
    target: str | None = option(
        None, "Runtime and precision that `latency` refers to, such as openvino:int8.", flag="prune_target"
    )
    importance: ImportanceName = option(
        "obs", "Score that ranks channels; `yolo-compress list importances` says what each is.", flag="prune_importance"
    )
    scope: Literal["budget", "savings", "local", "global"] = option(
        "budget",
        "Where channels go: where the model changes least per saving (budget), where each saves most (savings), the "
        "same share everywhere (local), or the lowest scores anywhere (global).",
        flag="prune_scope",
    )
    round_to: int | None = option(
        None,
        "Widths become multiples of this, to the nearest one; when not given 8, or with `latency` what the runtime "
        "rewards.",
        flag="prune_round_to",
        ge=1,
    )
    max_share: float = option(
        0.7, "Most of a layer's channels that may go, in (0, 1).", flag="prune_max_share", gt=0, lt=1
    )
    blocks: int = option(
        0,
        "Residual blocks to take out whole, those that change the detections least for what they save; channels make "
        "up the rest of the target, if there is one.",
        flag="prune_blocks",
        ge=0,
    )
    # not "none", which a command line reads as "not given"
    mask: Literal["nothing", "unstructured", "2:4"] = option(
        "nothing",
        "Single weights set to zero after channels went: the lowest scores anywhere, or two of every four in a row.",
        flag="prune_mask",
    )
    mask_share: float = option(
        0.5,
        "Share of the weights that an unstructured mask sets to zero, in (0, 1).",
        flag="prune_mask_share",
        gt=0,
        lt=1,
    )
    mask_importance: Literal["magnitude", "gradient"] = option(
        "magnitude",
        "What a single weight is worth: its size within its layer, or how much the detections change without it.",
        flag="prune_mask_importance",
    )
    keep: Names = option(
        (), "Layers left whole, by module name or prefix, such as model.0 or model.22.", flag="prune_keep"
    )
    images: int = option(256, "Training images for the score and for repair.", flag="prune_images", ge=1)
    # not "none", for the same reason
    repair: Literal["reconstruct", "batchnorm", "nothing"] = option(
        "reconstruct",
        "What is done after surgery, without training: least squares towards the full model's layer outputs "
        "(reconstruct), BatchNorm statistics anew (batchnorm), or nothing.",
        flag="prune_repair",
    )
    schedule: Literal["one_shot", "iterative", "gradual"] = option(
        "one_shot",
        "When a training run prunes: before it begins, in equal steps at equal distances, or in steps that shrink and "
        "wait for accuracy to come back.",
        flag="prune_schedule",
    )
    steps: int = option(4, "Steps of an iterative or gradual schedule.", flag="prune_steps", ge=1)
    start: float = option(
        0.0, "Share of the epochs that train before the first step of a schedule.", flag="prune_start", ge=0, lt=1
    )
    window: float = option(
        0.6, "Share of the epochs after which a schedule has met the target.", flag="prune_window", gt=0, le=1
    )
    tolerance: float = option(
        1.0,
        "mAP50-95 points below the accuracy before a step at which a gradual schedule goes on.",
        flag="prune_tolerance",
        ge=0,
    )
    # not "none", for the same reason
    sparsity: Literal["nothing", "bn_l1", "group_lasso"] = option(
        "nothing",
        "Penalty that draws channels towards zero until a schedule has ended: on BatchNorm scales or on all weights of "
        "a channel.",
        flag="prune_sparsity",
    )
    sparsity_weight: float = option(0.1, "Weight of that penalty.", flag="prune_sparsity_weight", gt=0)
    rewind: bool = option(
        False,
        "After the last step of a schedule, go back to the weights that the run began with, in the structure found.",
        flag="prune_rewind",
    )
    output_weights: dict[OutputTerm, float] = option(
        {"confidence": 1.0, "localisation": 1.0, "discrimination": 1.0},
        "What counts as a change of the detections in `obs` and `output`, such as localisation=2.",
        flag="prune_output_weights",
    )

    @property
    def scheduled(self) -> bool:
        """Tell whether it happens while a model trains."""
        return self.schedule != "one_shot"

    @field_validator("output_weights", mode="before")
    @classmethod
    def _output_weights(cls, value: Any) -> Any:
        """Read `localisation=2,confidence=1`; terms that are not named keep a weight of 1."""
        if isinstance(value, str):
            pairs = (str(part).partition("=" if "=" in str(part) else ":") for part in parts(value))
            value = {name.strip(): weight.strip() or 1.0 for name, _, weight in pairs}
        if not isinstance(value, dict):
            return value
        terms = typing.get_args(OutputTerm)
        if unknown := [name for name in value if name not in terms]:
            raise ValueError(f"'{unknown[0]}' is not a term; {suggest(str(unknown[0]), terms)}")
        return dict.fromkeys(terms, 1.0) | value

    @field_validator("output_weights")
    @classmethod
    def _finite_weights(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(math.isfinite(weight) and weight >= 0 for weight in value.values()) or not any(value.values()):
            raise ValueError("weights are numbers of at least 0, and one of them is above 0")
        return value

    @field_validator("target")
    @classmethod
    def _known_target(cls, value: str | None) -> str | None:
        known = [f"{engine}:{precision}" for engine in PROFILED for precision in ENGINE_PRECISIONS[engine]]
        if value is not None and value not in known:
            raise ValueError(f"'{value}' is not an engine and precision; {suggest(value, known)}")
        return value

    @model_validator(mode="after")
    def _one_target(self) -> PruneSection:
        given = [name for name in PRUNE_TARGETS if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.blocks or self.mask != "nothing"):
            said = " and ".join(given) + " given" if given else "none of ratio, flops and latency given"
            raise ValueError(f"{said}; give exactly one, such as ratio=0.3 (as a flag: prune=0.3)")
        if self.start >= self.window:
            raise ValueError(
                f"start={self.start:g} is not before window={self.window:g}, where the schedule ends; raise window or "
                "lower start"
            )
        if self.blocks and self.scheduled:
            raise ValueError(
                f"blocks={self.blocks} takes whole layers out, which schedule={self.schedule} cannot do while a model "
                "trains; give schedule=one_shot, or leave blocks out"
            )
        scheduled = {"sparsity": self.sparsity != "nothing", "rewind": self.rewind}
        if not self.scheduled and any(scheduled.values()):
            named = next(name for name, given in scheduled.items() if given)
            raise ValueError(
                f"{named} acts while a schedule prunes, and schedule=one_shot prunes before training; give "
                "schedule=iterative (as a flag: prune_schedule=iterative)"
            )
        if self.mask == "2:4" and self.mask_share != 0.5:
            raise ValueError(f"mask_share={self.mask_share:g} with mask=2:4, which takes half; leave mask_share out")
        if (self.latency is None) != (self.target is None):
            missing = "target" if self.target is None else "latency"
            raise ValueError(
                f"latency and target belong together and {missing} is missing; give both, such as latency=0.6 "
                "target=openvino:int8 (as flags: prune_latency=0.6 prune_target=openvino:int8)"
            )
        return self
