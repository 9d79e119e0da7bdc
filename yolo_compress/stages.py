# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The stages of a run: each takes the files made so far and a folder of its own, and returns new files and figures."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import EngineFile, size_bytes
from yolo_compress.bench import Candidate
from yolo_compress.context import Context, StageResult, accuracy_of
from yolo_compress.engines import get_engine
from yolo_compress.engines.tensorrt.engine import TensorRt
from yolo_compress.errors import CompressError
from yolo_compress.host import checkpoint
from yolo_compress.host.cpu import use_all_cores
from yolo_compress.host.data import image_batches, labelled_batches, sample
from yolo_compress.measuring import measured, native_export
from yolo_compress.prune import prune
from yolo_compress.quantizing import quantize_checkpoint
from yolo_compress.recipe import PruneSection, Recipe
from yolo_compress.report.drawing import Witness, draw
from yolo_compress.timing import timing_for
from yolo_compress.train import train

LAST = Path("train") / "weights" / "last.pt"
BEST = Path("train") / "weights" / "best.pt"


Files = Mapping[str, Path]
Stage = Callable[[Context, Files, Path], StageResult]


def planned(recipe: Recipe) -> dict[str, Stage]:
    """Return the stages that a recipe asks for, by name and in order."""
    wanted: dict[str, Stage] = {"baseline": baseline_stage}
    if recipe.prune is not None and not recipe.prune.scheduled:
        wanted["prune"] = prune_stage
    if recipe.train is not None:
        wanted["train"] = train_stage
    if recipe.quantize is not None:
        wanted["quantize"] = quantize_stage
    if recipe.build is not None:
        wanted["build"] = build_stage
    if recipe.bench is not None:
        wanted |= {"native": native_stage, "bench": bench_stage}
    return wanted


def baseline_stage(context: Context, files: Files, folder: Path) -> StageResult:
    """Measure the model as it was given: what every gate and every difference refers to."""
    return StageResult({"checkpoint": context.model}, checkpoint_metrics(context, context.model))


def prune_stage(context: Context, files: Files, folder: Path) -> StageResult:
    """Prune the checkpoint and write it as a stock checkpoint."""
    assert context.recipe.prune is not None
    made = prune_checkpoint(files["checkpoint"], folder / "pruned.pt", context, context.recipe.prune)
    metrics = checkpoint_metrics(context, made.outputs["checkpoint"])
    return StageResult(made.outputs, {**made.metrics, **metrics}, made.notes, made.tables)


def train_stage(context: Context, files: Files, folder: Path) -> StageResult:
    """Train the checkpoint, with its teacher if the recipe names one; an interrupted training goes on.

    What a schedule prunes on the way is told as a stage of its own would tell it.
    """
    recipe = context.recipe.taught_by(str(context.model))
    scheduled = recipe.prune is not None and recipe.prune.scheduled
    recipe = recipe if scheduled else recipe.model_copy(update={"prune": None})  # a stage before this one has done it
    state = training_state(folder)
    if state == "unfinished":
        context.progress(f"train: going on from {folder / LAST}")
        train(folder / LAST, resume=True)
    elif state == "none":
        shutil.rmtree(folder / "train", ignore_errors=True)
        assert recipe.train is not None
        given = {"imgsz": context.imgsz, "device": context.device, "data": str(context.data.path)}
        place = {"project": str(folder), "name": "train", "exist_ok": True}
        train(files["checkpoint"], recipe=recipe, **{**recipe.train.settings, **given, **place})
    best = folder / BEST
    if not best.is_file():
        raise CompressError(f"training ended without '{best}'; look at '{folder / 'train'}', then resume the run")
    metrics = checkpoint_metrics(context, best)
    if not scheduled:
        return StageResult({"checkpoint": best}, metrics)
    told = checkpoint.facts(checkpoint.load_model(best))["prune"]
    before = {name: told[name] for name in ("params_before", "gflops_before")}
    return StageResult({"checkpoint": best}, {**before, **metrics}, tuple(told["notes"]), {"prune": told["layers"]})


def quantize_stage(context: Context, files: Files, folder: Path) -> StageResult:
    """Export the checkpoint to float ONNX and quantize that to one Q/DQ graph."""
    assert context.recipe.quantize is not None
    made = quantize_checkpoint(files["checkpoint"], folder, context, context.recipe.quantize)
    figures = {"map50_95": accuracy_of(context, made.outputs["qdq"]), "size_bytes": size_bytes(made.outputs["qdq"])}
    return StageResult(made.outputs, {**made.metrics, **figures}, made.notes, made.tables)


def build_stage(context: Context, files: Files, folder: Path) -> StageResult:
    """Build every engine that the recipe names, INT8 ones from the Q/DQ graph."""
    assert context.recipe.build is not None
    outputs, notes, metrics = {}, [], {}
    for wanted in dict.fromkeys(context.recipe.build.engines):
        runtime, _, precision = wanted.partition(":")
        source = files.get("qdq") if precision == "int8" else files["checkpoint"]
        if source is None:
            source, precision = files["checkpoint"], "fp32"
            notes.append(f"{wanted} was built as {runtime}:fp32, because quantization did not pass its gate")
        context.progress(f"build: {runtime}:{precision}")
        target = folder / f"{runtime}_{precision}"
        begin = time.perf_counter()
        made = build_engine(context, source, target, runtime, precision)
        metrics[f"{runtime}:{precision} build_seconds"] = round(time.perf_counter() - begin, 3)
        outputs[f"{runtime}:{precision}"] = made.path
        metrics[f"{runtime}:{precision} size_bytes"] = made.size_bytes
        notes += made.notes
    return StageResult(outputs, metrics, tuple(notes))


def build_engine(context: Context, source: Path, folder: Path, runtime: str, precision: str) -> EngineFile:
    """Build one engine, with the options that a recipe has for its runtime."""
    engine, options = get_engine(runtime), context.recipe.tensorrt
    if isinstance(engine, TensorRt):
        return engine.build(source, folder, precision=precision, imgsz=context.imgsz, options=options)
    return engine.build(source, folder, precision=precision, imgsz=context.imgsz)


def native_stage(context: Context, files: Files, folder: Path) -> StageResult:
    """Export the given model the way `yolo export` does, to measure ours against."""
    assert context.recipe.bench is not None
    outputs = {name: native_export(context, name, folder) for name in dict.fromkeys(context.recipe.bench.candidates)}
    return StageResult(outputs)


def bench_stage(context: Context, files: Files, folder: Path) -> StageResult:
    """Measure the native candidates and the engines in one process; the first native one is what ratios refer to."""
    bench = context.recipe.bench
    assert bench is not None
    natives = [Candidate(name, files[name], "native", "given") for name in dict.fromkeys(bench.candidates)]
    engines = [name for name in files if name.partition(":")[0] != "native" and ":" in name]
    floating = context.measured[-1] if context.measured else None  # what a broken INT8 engine is told by
    ours = [
        Candidate(f"ours:{name}", files[name], "yolo_compress", "compressed", float_map50_95=floating)
        for name in engines
    ]
    witness = Witness(bench.pictures)
    candidates = [*natives, *ours] or [Candidate("checkpoint", files["checkpoint"], "yolo_compress", "compressed")]
    result = measured(candidates, context, bench, witness=witness)
    result.save(folder / "bench.json")
    draw(result, witness, folder)
    return StageResult({"bench": folder / "bench.json"})


def training_state(folder: Path) -> str:
    """Tell whether the training in a stage's folder is "finished", "unfinished" (can go on) or "none"."""
    if not (folder / LAST).is_file():
        return "none"
    epoch = checkpoint.saved_epoch(folder / LAST)
    if epoch is None:  # killed while the file was being written
        return "none"
    finished = epoch < 0 and (folder / BEST).is_file() and (checkpoint.saved_epoch(folder / BEST) or 0) < 0
    return "finished" if finished else "unfinished" if epoch >= 0 else "none"


def prune_checkpoint(source: Path, out: Path, context: Context, section: PruneSection) -> StageResult:
    """Prune a checkpoint on the training images of a data set.

    Raises:
        UsageError: The target cannot be met, or a layer to keep does not exist.
    """
    use_all_cores()
    model = checkpoint.load_model(source)
    images = sample(context.data.train, section.images, seed=0)
    with timing_for(section, model, imgsz=context.imgsz, images=images, progress=context.progress) as timing:
        result = prune(
            model,
            config=section,
            imgsz=context.imgsz,
            loss_batches=lambda: labelled_batches(context.data, context.imgsz, limit=section.images),
            image_batches=lambda: image_batches(images, context.imgsz),
            timing=timing,
            progress=context.progress,
        )
    checkpoint.save_model(result.model, out, facts={**checkpoint.facts(model), "prune": result.facts()})
    metrics = {
        "params_before": result.params_before,
        "gflops_before": result.gflops_before,
        "graph_seconds": result.graph_seconds,
    }
    return StageResult({"checkpoint": out}, metrics, tuple(result.notes), {"prune": [asdict(r) for r in result.layers]})


def checkpoint_metrics(context: Context, path: Path) -> dict[str, Any]:
    """Count and measure a checkpoint."""
    described = checkpoint.describe(path, context.imgsz)
    return {
        "map50_95": accuracy_of(context, path),
        "params": described.params,
        "gflops": described.gflops,
        "size_bytes": size_bytes(path),
    }
