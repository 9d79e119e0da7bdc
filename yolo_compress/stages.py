# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The stages of a run: each takes the files made so far and a folder of its own, and returns new files and figures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import EngineFile, size_bytes
from yolo_compress.bench import BenchResult, Candidate, run_bench
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.bench.cascade import fit_rule
from yolo_compress.bench.peaks import Peaks, measured_peaks
from yolo_compress.bench.robustness import Conditions
from yolo_compress.bench.run import evenly
from yolo_compress.calibrate import calibration_set, write_manifest
from yolo_compress.engines import engine_for, get_engine
from yolo_compress.engines.cascade import SUFFIX, write_cascade
from yolo_compress.engines.tensorrt.cache import CalibrationCache
from yolo_compress.engines.tensorrt.engine import TensorRt
from yolo_compress.engines.tensorrt.key import check_graph
from yolo_compress.errors import CompressError, UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.cpu import use_all_cores
from yolo_compress.host.data import DataSpec, image_batches, labelled_batches, read_data, sample
from yolo_compress.host.export import export_native, export_onnx
from yolo_compress.prune import prune
from yolo_compress.quantize import (
    Learned,
    QuantizeResult,
    onnx_sensitivity,
    quantize_from_cache,
    quantize_learned,
    quantize_onnx,
)
from yolo_compress.quantize.format import format_options
from yolo_compress.quantize.mixed import Mixed, fewest_in_float
from yolo_compress.quantize.precision import check_runtime, precision_map, wants_time
from yolo_compress.recipe import BenchSection, PruneSection, QuantizeSection, Recipe
from yolo_compress.report import Limits
from yolo_compress.report.drawing import Witness, draw
from yolo_compress.timing import cache_folder, timing_for
from yolo_compress.train import train

NATIVE_EXPORTS: dict[str, tuple[str, int | None, str]] = {
    "native:fp32": ("openvino", None, "native_fp32_openvino_model"),
    "native:int8": ("openvino", 8, "native_int8_openvino_model"),
    "native:onnx-fp32": ("onnx", None, "native_fp32.onnx"),
    "native:onnx-int8": ("onnx", 8, "native_int8.onnx"),
}
CASCADE_IMAGES = 256  # of the training set, that the rule of a cascade is fitted on
LAST = Path("train") / "weights" / "last.pt"
BEST = Path("train") / "weights" / "best.pt"


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


Files = Mapping[str, Path]
Stage = Callable[[Context, Files, Path], StageResult]


def planned(recipe: Recipe) -> dict[str, Stage]:
    """Return the stages that a recipe asks for, by name and in order."""
    wanted: dict[str, Stage] = {"baseline": baseline_stage}
    if recipe.prune is not None:
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
    """Train the checkpoint, with its teacher if the recipe names one; an interrupted training goes on."""
    notes: list[str] = []
    recipe = context.recipe.model_copy(update={"prune": None})
    if recipe.distill is not None:
        recipe = recipe.model_copy(update={"distill": recipe.distill.with_self(str(context.model))})
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
    return StageResult({"checkpoint": best}, checkpoint_metrics(context, best), tuple(notes))


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
        made = build_engine(context, source, target, runtime, precision)
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
    result = run_bench(
        [*natives, *ours] or [Candidate("checkpoint", files["checkpoint"], "yolo_compress", "compressed")],
        context.data,
        imgsz=context.imgsz,
        device=context.device,
        rounds=bench.rounds,
        warmup=bench.warmup,
        threads=bench.threads,
        images=bench.images,
        robustness=conditions(bench),
        power=bench.power,
        power_seconds=bench.power_seconds,
        witness=witness,
        peaks=peaks_for(bench),
        progress=context.progress,
    )
    with_limits(result, bench).save(folder / "bench.json")
    draw(result, witness, folder)
    return StageResult({"bench": folder / "bench.json"})


def with_limits(result: BenchResult, section: BenchSection) -> BenchResult:
    """Keep beside the measurement what a recommended candidate has to keep to."""
    limits = Limits(section.latency, section.size, section.max_drop)
    given = {key: value for key, value in asdict(limits).items() if value is not None}
    return replace(result, settings={**result.settings, "limits": given}) if given else result


def peaks_for(section: BenchSection) -> Peaks | None:
    """Return what this machine computes and copies at most, where a roofline is asked for."""
    if not section.roofline:
        return None
    return measured_peaks(threads=section.threads, folder=cache_folder().parent / "peaks")


def conditions(section: BenchSection) -> Conditions | None:
    """Return the corruptions that a benchmark measures accuracy under, or None."""
    if not section.corrupted:
        return None
    return Conditions(section.corrupted, section.severities, section.robustness_images)


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


def quantize_checkpoint(
    source: Path, folder: Path, context: Context, section: QuantizeSection, *, free_batch: bool = False
) -> StageResult:
    """Quantize a checkpoint, or a float ONNX, on the training images of a data set.

    Args:
        source: What is quantized.
        folder: Folder of the graphs.
        context: Data, image size and progress.
        section: How.
        free_batch: The graph of a checkpoint takes any number of images, else one at a time.
    """
    check_runtime(section)  # before anything slow is done
    floating = _floating(source, folder, context.imgsz, free_batch=free_batch)
    notes: tuple[str, ...] = ()
    if source.suffix == ".pt" and section.learned:
        model = checkpoint.load_model(source)
        learned = Learned.read(model)
        if learned is not None and learned.fits(model):
            learned.check(section)
            made = quantize_learned(floating, folder / "int8.onnx", learned, weight_storage=section.weight_storage)
            return _quantized(made, floating)
        if learned is not None:
            notes = ("weights have changed since quantization-aware training, so ranges were chosen anew",)
    images, manifest, told = _calibration(folder, context, section)
    notes = (*notes, *told)
    seen: dict[Any, Any] = {}  # so that images are run once, however often layers are chosen anew

    def quantized(extra: Sequence[str], *, repaired: bool = True) -> QuantizeResult:
        return quantize_onnx(
            floating,
            folder / "int8.onnx",
            images=images,
            imgsz=context.imgsz,
            range=section.range,
            keep=(*section.keep, *extra),
            **format_options(section),
            rounding=section.rounding if repaired else "nearest",
            bias_correction=section.bias_correction and repaired,
            seen=seen,
            progress=context.progress,
        )

    if wants_time(section):
        use_all_cores()
        made = precision_map(
            section,
            floating,
            quantized,
            accuracy=lambda path: accuracy_of(context, path),
            images=images,
            imgsz=context.imgsz,
            cache=cache_folder(),
            progress=context.progress,
        )
        found = _quantized(made.result, floating, manifest, (*notes, *made.notes))
        return replace(found, metrics={**found.metrics, **made.metrics})
    kept: tuple[str, ...] = ()
    if section.max_drop is not None:
        mixed = _mixed(floating, context, section, images, quantized)
        notes, kept = (*notes, mixed.note), mixed.keep
    return _quantized(quantized(kept), floating, manifest, notes)


def _calibration(
    folder: Path, context: Context, section: QuantizeSection
) -> tuple[Sequence[Path], Path | None, tuple[str, ...]]:
    """Choose calibration images and write down which, with what there is to say; none where they decide nothing."""
    repaired = section.rounding != "nearest" or section.bias_correction
    ranked = section.max_drop is not None or section.latency is not None
    if section.activations != "static" and not repaired and not ranked:
        told = f"no image is looked at with activations={section.activations}, so calibration= has no part in this"
        return (), None, (told,) if section.calibration is not None else ()
    chosen = calibration_set(context.data, section.images, section.calibration)
    write_manifest(chosen, folder / "calibration.json")
    return chosen.images, folder / "calibration.json", chosen.notes


def carries_scales(source: Path) -> bool:
    """Tell whether a checkpoint was trained quantized, so that its own scales are better than any calibration."""
    if source.suffix != ".pt":
        return False
    model = checkpoint.load_model(source)
    learned = Learned.read(model)
    return learned is not None and learned.fits(model)


def quantize_from_cache_file(
    source: Path, folder: Path, cache: Path, section: QuantizeSection, *, imgsz: int
) -> StageResult:
    """Quantize a checkpoint, or a float ONNX, at the scales of a calibration cache of TensorRT.

    Raises:
        UsageError: An option is given that the cache settles, or it belongs to another model.
        DataError: The cache is damaged, or lacks tensors.
    """
    settled = sorted(section.model_fields_set - {"target", "keep"})
    if "target" in section.model_fields_set and section.target != "tensorrt":
        raise UsageError(f"a calibration cache holds scales for target=tensorrt, and target={section.target} was given")
    if settled:
        raise UsageError(f"a calibration cache settles how ranges are chosen; leave out {', '.join(settled)}")
    scales = CalibrationCache.read(cache)
    floating = _floating(source, folder, imgsz)
    notes: tuple[str, ...] = ()
    if not check_graph(cache, floating):
        notes = (f"nothing says which weights '{cache.name}' was calibrated with; only its names were compared",)
    made = quantize_from_cache(floating, folder / "int8.onnx", scales, keep=section.keep)
    result = _quantized(made.result, floating, notes=notes)
    return replace(result, metrics={}, tables={**result.tables, "unused": list(made.unused)})


def _floating(source: Path, folder: Path, imgsz: int, *, free_batch: bool = False) -> Path:
    """Return the float ONNX to quantize, exported from a checkpoint where that is what was given."""
    folder.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".pt":
        return export_onnx(source, folder / "float.onnx", imgsz=imgsz, free_batch=free_batch)
    if source.suffix != ".onnx":
        raise UsageError(f"'{source}' cannot be quantized; give a checkpoint (.pt) or a float .onnx")
    return source


def _quantized(
    result: QuantizeResult,
    floating: Path,
    calibration: Path | None = None,
    notes: Sequence[str] = (),
) -> StageResult:
    tables = {"quantize": [asdict(row) for row in result.layers]}
    outputs = {"float_onnx": floating, "qdq": result.path}
    if calibration is not None:
        outputs["calibration"] = calibration
    metrics = {
        "calibration_images": result.images,
        "size_mb": result.size_bytes / 1e6,
        "float_size_mb": result.float_size_bytes / 1e6,
    }
    return StageResult(outputs, metrics, (*result.notes, *notes), tables)


def _mixed(
    floating: Path,
    context: Context,
    section: QuantizeSection,
    images: Sequence[Path],
    quantized: Callable[[Sequence[str]], QuantizeResult],
) -> Mixed:
    """Find the layers that have to stay in float for a section's drop to be met."""
    assert section.max_drop is not None
    full = accuracy_of(context, floating)

    def ranking() -> list[str]:
        rows = onnx_sensitivity(
            floating,
            images=images,
            imgsz=context.imgsz,
            range=section.range,
            progress=context.progress,
            **format_options(section),
        )
        return [r.layer for r in rows if not any(r.layer == k or r.layer.startswith(f"{k}.") for k in section.keep)]

    return fewest_in_float(
        lambda extra: 100 * (full - accuracy_of(context, quantized(extra).path)),
        ranking,
        max_drop=section.max_drop,
        progress=context.progress,
    )


def native_export(context: Context, name: str, folder: Path) -> Path:
    """Make one native candidate from the given model."""
    format, quantize, file = NATIVE_EXPORTS[name]
    context.progress(f"native: exporting {name}")
    options: dict[str, Any] = {"format": format, "quantize": quantize, "imgsz": context.imgsz}
    return export_native(context.model, folder / file, data=context.data.path, **options)


def make_cascade(context: Context, cheap: Path, precise: Path, *, share: float, threads: int | None = None) -> Path:
    """Fit, on training images, when the answer of a cheap engine is not enough, and write the cascade.

    Raises:
        UsageError: The share is out of range.
    """
    images = sample(context.data.train, CASCADE_IMAGES, seed=0)
    context.progress(f"cascade: fitting {cheap.name} and {precise.name} on {len(images)} images")
    with ExitStack() as stack:
        sessions = []
        for path in (cheap, precise):
            sessions.append(engine_for(path).load(path, device=context.device, threads=threads))
            stack.callback(sessions[-1].close)
        inputs = image_batches(images, context.imgsz, batch=1)
        rule = fit_rule(sessions[0].infer, sessions[1].infer, inputs, share=share)
    out = context.run_dir / f"{cheap.stem}-{precise.stem}{SUFFIX}"
    write_cascade(out, cheap, precise, rule, imgsz=context.imgsz)
    context.progress(
        f"cascade: {100 * rule.share:.0f} % of the images go on; doubt and differing boxes correlate by "
        f"{rule.correlation:.2f}"
    )
    return out


def checkpoint_metrics(context: Context, path: Path) -> dict[str, Any]:
    """Count and measure a checkpoint."""
    described = checkpoint.describe(path, context.imgsz)
    return {
        "map50_95": accuracy_of(context, path),
        "params": described.params,
        "gflops": described.gflops,
        "size_bytes": size_bytes(path),
    }


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
            raise UsageError(
                f"'{path}' knows {len(names)} classes and '{spec.path}' has {len(spec.names)}; give the data that it "
                "was trained on, or train it on this data first: yolo-compress train"
            )
    return Context(recipe or Recipe(), path, spec, imgsz, device, run_dir, progress)
