# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Make our flags legal in `YOLO(...).train` within this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yolo_compress.host.attachment import Plan
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.host.ultralytics import YOLO

_STOCK_TASK_MAP = YOLO.task_map


def enable(plan_for: Callable[[dict[str, Any]], tuple[Plan | None, dict[str, Any]]]) -> None:
    """Let detect training in this process go through a plan.

    The documented `task_map` of `YOLO` is replaced by one whose detect trainer looks at the overrides first. Without
    any flag of ours a run is what it was, except that a pruned model keeps its structure.

    Args:
        plan_for: Splits the overrides of a run into a plan, or None, and the settings that Ultralytics knows.
    """

    def trainer(overrides: dict[str, Any], _callbacks: Any = None) -> Any:
        plan, native = plan_for(dict(overrides))
        cls = CompressTrainer if plan is None else CompressTrainer.bound(plan)
        return cls(overrides=native, _callbacks=_callbacks)

    def task_map(self: YOLO) -> dict[str, dict[str, Any]]:
        stock = _STOCK_TASK_MAP.fget(self)
        return {**stock, "detect": {**stock["detect"], "trainer": trainer}}

    YOLO.task_map = property(task_map, doc=_STOCK_TASK_MAP.__doc__)


def disable() -> None:
    """Give `YOLO` its stock task map back."""
    YOLO.task_map = _STOCK_TASK_MAP
