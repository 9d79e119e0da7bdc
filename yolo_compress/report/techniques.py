# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What each technique of a run did to parameters, size on disk and accuracy, against the step before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_compress.artifacts import MEGABYTE
from yolo_compress.report.content import ABSENT, Table, number

HEADER = ("Step", "Params (M)", "Change (%)", "Size (MB)", "Change (%)")
HEADER += ("mAP50-95", "Change (points)", "To given (points)")


def techniques_table(bench: Mapping[str, Any], run: Mapping[str, Any] | None) -> Table | None:
    """Return a line per technique and per engine, or None for a run that compresses nothing.

    A change is against the last step before that was kept and measured. A step that a gate gave up stands in the table
    and nothing is compared with it. An engine's accuracy is that of the benchmark.
    """
    stages = [stage for stage in (run or {}).get("stages") or () if isinstance(stage.get("metrics"), Mapping)]
    recipe = (run or {}).get("recipe") or {}
    steps = [
        (_name(stage, recipe), stage["metrics"], stage.get("outputs") != {})
        for stage in stages
        if stage.get("name") in ("baseline", "prune", "train", "quantize")
    ]
    if len(steps) < 2:
        return None
    steps += _engines(bench, stages)
    rows, given = [], steps[0][1]
    last: dict[str, float] = {}
    for name, metrics, kept in steps:
        params, size, accuracy = (metrics.get(key) for key in ("params", "size_bytes", "map50_95"))
        rows.append(
            (
                name if kept else f"{name} (given up)",
                number(params, 3, scale=1e-6),
                _share(params, last.get("params")),
                number(size, 2, scale=1 / MEGABYTE),
                _share(size, last.get("size_bytes")),
                number(accuracy, 2, scale=100),
                _points(accuracy, last.get("map50_95")),
                ABSENT if metrics is given else _points(accuracy, given.get("map50_95")),
            )
        )
        if kept and not name.startswith("Engine"):  # engines are made beside each other, all from the last step
            last |= {key: metrics[key] for key in ("params", "size_bytes", "map50_95") if metrics.get(key) is not None}
    return Table(HEADER, tuple(rows))


def _name(stage: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    if stage["name"] != "train":
        return {"baseline": "Given model", "prune": "Pruning", "quantize": "Quantization"}[stage["name"]]
    training = "Distillation" if recipe.get("distill") else "Training"
    if (recipe.get("prune") or {}).get("schedule", "one_shot") != "one_shot":
        training = f"Scheduled pruning, {training.lower()}"
    return f"{training}, quantization-aware" if recipe.get("qat") else training


def _engines(bench: Mapping[str, Any], stages: list[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], bool]]:
    measured = {row.get("label"): row for row in bench["rows"]}
    found: list[tuple[str, Mapping[str, Any], bool]] = []
    for key, size in ((key, size) for stage in stages for key, size in stage["metrics"].items()):
        if not key.endswith(" size_bytes"):
            continue
        engine = key.removesuffix(" size_bytes")
        row = measured.get(f"ours:{engine}") or {}
        found.append((f"Engine {engine}", {"size_bytes": size, "map50_95": row.get("map50_95")}, True))
    return found


def _share(value: float | None, before: float | None) -> str:
    return ABSENT if value is None or not before else f"{100 * (value / before - 1):+.1f}"


def _points(value: float | None, before: float | None) -> str:
    return ABSENT if value is None or before is None else f"{100 * (value - before):+.2f}"
