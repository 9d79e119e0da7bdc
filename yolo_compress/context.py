# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What the steps of a run share: the inputs, checked; what each of them makes; and the accuracy of a file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.bench.run import evenly
from yolo_compress.engines import engine_for
from yolo_compress.errors import UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.data import DataSpec, read_data
from yolo_compress.quantize.precision import check_runtime
from yolo_compress.recipe import Recipe


@dataclass(frozen=True)
class Context:
    """What every stage of a run shares."""

    recipe: Recipe
    model: Path
    data: DataSpec
    imgsz: int
    device: str
    run_dir: Path
    progress: Callable[[str], None]
    measured: tuple[float, ...] = ()  # mAP50-95 of the float checkpoints of earlier stages, as shares


@dataclass(frozen=True)
class StageResult:
    """What a stage made: files by name, figures, footnotes, and tables for the report."""

    outputs: Mapping[str, Path] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tables: Mapping[str, Any] = field(default_factory=dict)


def context_for(
    model: str | Path,
    data: str | Path,
    *,
    imgsz: int,
    device: str,
    run_dir: Path,
    recipe: Recipe | None = None,
    progress: Callable[[str], None] = print,
) -> Context:
    """Check the inputs of a run or of a single stage before anything is written.

    Raises:
        DataError: Weights or data are missing or damaged.
        UsageError: The model's classes are not those of the data, or a time is asked for on a runtime that is absent.
    """
    if recipe is not None and recipe.quantize is not None:
        check_runtime(recipe.quantize)
    path = Path(model)
    spec = read_data(data)
    if path.suffix == ".pt":
        names = checkpoint.names(checkpoint.load_model(path))
        if len(names) != len(spec.names):
            advice = "train it on this data first: yolo-compress train"
            if set(spec.names) <= set(names):
                given = f"model={shlex.quote(str(path))} keep={shlex.quote(','.join(spec.names))}"
                advice = f"leave out the others: yolo-compress classes {given}"
            raise UsageError(
                f"'{path}' knows {len(names)} classes and '{spec.path}' has {len(spec.names)}; give the data that it "
                f"was trained on, or {advice}"
            )
    return Context(recipe or Recipe(), path, spec, imgsz, device, run_dir, progress)


def accuracy_of(context: Context, path: Path) -> float:
    """Return mAP50-95 of any artifact, as a share, on the images that the bench uses."""
    limit = context.recipe.bench.images if context.recipe.bench else None
    session = engine_for(path).load(path, device=context.device)
    try:
        images = evenly(context.data.val, limit)
        truth, found = detect([session], images, imgsz=context.imgsz, progress=context.progress)
    finally:
        session.close()
    value = evaluate(truth, found[0], classes=len(context.data.names)).map50_95
    context.progress(f"accuracy: {path.name}: mAP50-95 {100 * value:.2f}")
    return value
