# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""One function per mode, as the command line has them; what each returns prints as the lines that a user wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from yolo_compress import pipeline, run_record
from yolo_compress import recipe as recipes
from yolo_compress.bench import BenchResult, Candidate
from yolo_compress.building import PROJECT, build, read_section
from yolo_compress.calibrating import calib
from yolo_compress.classes import classes
from yolo_compress.context import context_for
from yolo_compress.engines.tensorrt.cache import known_algorithm, version_number
from yolo_compress.errors import DataError, UsageError, entry_of
from yolo_compress.host.checkpoint import describe
from yolo_compress.measuring import make_cascade, measured, native_export
from yolo_compress.pipeline import RunResult
from yolo_compress.quantize import strip_quantizers
from yolo_compress.quantizing import quantize_checkpoint, quantize_from_cache_file
from yolo_compress.recipe import BenchSection, PruneSection, QuantizeSection, Recipe
from yolo_compress.report import Limits, ReportFiles, write_report
from yolo_compress.report.drawing import Witness, draw
from yolo_compress.sensitivity import sensitivity
from yolo_compress.stages import prune_checkpoint
from yolo_compress.sweep import SEARCHES, SearchOptions, SweepResult, read_space
from yolo_compress.sweep import resume as resume_sweep
from yolo_compress.sweep import start as start_sweep
from yolo_compress.train import disable, enable, train, with_options

__all__ = (
    "bench",
    "build",
    "cache",
    "calib",
    "classes",
    "disable",
    "enable",
    "prune",
    "quantize",
    "report",
    "run",
    "sensitivity",
    "sweep",
    "train",
)


@dataclass(frozen=True)
class Made:
    """What a single stage wrote."""

    path: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tables: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the file, its figures and its footnotes."""
        figures = [f"  {name}: {value:,.4g}" for name, value in self.metrics.items() if isinstance(value, int | float)]
        return "\n".join([f"wrote {self.path}", *figures, *(f"  note: {note}" for note in self.notes)])


def prune(
    model: str | Path,
    *,
    data: str | Path,
    imgsz: int = 640,
    section: PruneSection | None = None,
    project: str | Path = PROJECT,
    name: str | None = None,
    progress: Callable[[str], None] = print,
    **options: Any,
) -> Made:
    """Prune a checkpoint at once and write a stock checkpoint.

    Args:
        model: Trained checkpoint.
        data: Data YAML; training images score channels and re-estimate BatchNorm.
        imgsz: Side of the square input in pixels that operations are counted at.
        section: The options as one object.
        project: Folder that the result goes into.
        name: File name without suffix; the model's with `_pruned` when not given.
        progress: Takes a line now and then.
        options: The options one by one, such as ratio=0.3; see `PruneSection`.

    Raises:
        UsageError: An option is out of range, or the target cannot be met.
        DataError: Weights or data are missing or damaged.
    """
    chosen = read_section(PruneSection, "prune", section, options)
    if chosen.scheduled:
        raise UsageError(
            f"schedule={chosen.schedule} prunes while a model trains, and this command does not train; leave it out, "
            f"or give prune_schedule={chosen.schedule} to: yolo-compress train"
        )
    context = context_for(model, data, imgsz=imgsz, device="cpu", run_dir=Path(project), progress=progress)
    out = Path(project) / f"{name or context.model.stem + '_pruned'}.pt"
    made = prune_checkpoint(context.model, out, context, chosen)
    metrics = {**made.metrics, **_counts(out, imgsz)}
    return Made(out, metrics, made.notes, dict(made.tables))


def quantize(
    model: str | Path,
    *,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    imgsz: int = 640,
    section: QuantizeSection | None = None,
    project: str | Path = PROJECT,
    name: str | None = None,
    progress: Callable[[str], None] = print,
    **options: Any,
) -> Made:
    """Quantize a checkpoint or a float ONNX without training and write one ONNX, to INT8 where nothing else is said.

    Args:
        model: Trained checkpoint, or a float ONNX that Ultralytics exported.
        data: Data YAML; training images choose the ranges.
        cache: A calibration cache of TensorRT whose scales are taken instead; the target is tensorrt then.
        imgsz: Side of the square input in pixels.
        section: The options as one object.
        project: Folder that holds results.
        name: Folder name of this one; the model's name with `_int8` when not given.
        progress: Takes a line now and then.
        options: The options one by one, such as range="mse"; see `QuantizeSection`.

    Raises:
        UsageError: An option is out of range or settled by the cache, the model is quantized already, the cache belongs
            to another one, or `latency` is asked for on a runtime that is absent.
        DataError: Weights, data or cache are missing or damaged, or the cache lacks tensors.
        GateNotMet: More accuracy is lost than `max_drop` with every layer in float that may be, or no choice of layers
            meets `latency`, or both.
    """
    chosen = read_section(QuantizeSection, "quantize", section, options)
    if (data is None) == (cache is None):
        raise UsageError(
            "ranges come from images or from a calibration cache of TensorRT; give one of data=FILE.yaml and cache=FILE"
        )
    if cache is not None:
        source = Path(model)
        folder = Path(project) / (name or f"{source.stem}_int8")
        made = quantize_from_cache_file(source, folder, Path(cache), chosen, imgsz=imgsz)
        return Made(made.outputs["qdq"], dict(made.metrics), made.notes, dict(made.tables))
    context = context_for(model, data, imgsz=imgsz, device="cpu", run_dir=Path(project), progress=progress)
    folder = Path(project) / (name or f"{context.model.stem}_int8")
    made = quantize_checkpoint(context.model, folder, context, chosen)
    return Made(made.outputs["qdq"], dict(made.metrics), made.notes, dict(made.tables))


def cache(
    model: str | Path,
    *,
    trt_version: str | int,
    algorithm: str = "EntropyCalibration2",
    project: str | Path = PROJECT,
    name: str | None = None,
) -> Made:
    """Turn a Q/DQ ONNX into a float ONNX, a calibration cache and the list of layers that stay in float.

    TensorRT up to 10.16 builds an engine from the three where it cannot from quantizers, as for DLA up to 10.7.

    Args:
        model: ONNX with symmetric int8 quantizers, made by `quantize` with target=tensorrt or by something else.
        trt_version: Of the TensorRT that is to read the cache, such as 10.3.0 or 100300; others ignore it.
        algorithm: Of the calibrator that is to read it, EntropyCalibration2 or MinMaxCalibration.
        project: Folder that holds results.
        name: Folder name of this one; the model's name with `_cache` when not given.

    Raises:
        UsageError: No such version or algorithm, or quantizers that a cache cannot say.
        DataError: The model is missing or damaged.
        UnsupportedModel: Something else than a DequantizeLinear reads codes.
    """
    source = Path(model)
    version, calibrator = version_number(trt_version), known_algorithm(algorithm)
    stripped = strip_quantizers(source, version=version, algorithm=calibrator)
    files = stripped.write(Path(project) / (name or f"{source.stem}_cache"))
    metrics = {"tensors with a scale": len(stripped.cache.scales), "layers to keep in float": len(stripped.pins)}
    return Made(files[0], metrics, (*(f"wrote {file}" for file in files[1:]), *stripped.notes()))


def bench(
    models: Sequence[str | Path] | str | Path = (),
    *,
    data: str | Path,
    imgsz: int = 640,
    device: str = "cpu",
    section: BenchSection | None = None,
    cascade: Sequence[str | Path] | str = (),
    cascade_share: float = 0.25,
    native: Sequence[str] = (),
    project: str | Path = PROJECT,
    name: str = "bench",
    progress: Callable[[str], None] = print,
    **options: Any,
) -> BenchReport:
    """Measure accuracy and latency of any mix of checkpoints and engines in one run, and write the report.

    Args:
        models: Files or folders to measure; latency ratios refer to the first.
        data: Data YAML; validation images measure.
        imgsz: Side of the square input in pixels.
        device: Where the engines run.
        section: The options as one object.
        cascade: A cheap and a precise engine to measure as one as well: images that the cheap one is unsure about go to
            the precise one. When that is, is fitted on training images; the cascade is written into the folder.
        cascade_share: Share of such images that is to go on.
        native: Native exports of the first checkpoint to measure as well, such as native:int8.
        project: Folder that holds results.
        name: Folder name of this one.
        progress: Takes a line now and then.
        options: The options one by one, such as rounds=200; see `BenchSection`.

    Raises:
        UsageError: Nothing to measure, an unknown kind of file, or candidates whose classes differ.
        DataError: A file or an image is missing or damaged.
    """
    paths, pair = _paths(models), _paths(cascade)
    if pair and len(pair) != 2:
        raise UsageError(f"a cascade has two engines and {len(pair)} were given; give cascade=int8.onnx,fp32.onnx")
    paths += [path for path in pair if path not in paths]
    if not paths:
        raise UsageError("nothing to measure; give model=best.pt,best.onnx")
    chosen = read_section(BenchSection, "bench", section, {"candidates": tuple(native), **options})
    for path in paths:
        if not path.exists():
            raise DataError(f"'{path}' does not exist; give checkpoints or engines, such as best.pt,best.onnx")
    folder = Path(project) / name
    context = context_for(paths[0], data, imgsz=imgsz, device=device, run_dir=folder, progress=progress)
    if pair:
        paths.append(make_cascade(context, pair[0], pair[1], share=cascade_share, threads=chosen.threads))
    candidates = [Candidate(label, path) for label, path in zip(_labels(paths), paths, strict=True)]
    if chosen.candidates and (checkpoint := next((p for p in paths if p.suffix == ".pt"), None)) is None:
        raise UsageError("native exports are made from a checkpoint, and none was given; add a .pt file to model=")
    for label in dict.fromkeys(chosen.candidates):
        made = native_export(replace(context, model=checkpoint), label, folder)
        candidates.append(Candidate(label, made, "native"))
    witness = Witness(chosen.pictures)
    result = measured(candidates, context, chosen, witness=witness)
    result.save(folder / "bench.json")
    draw(result, witness, folder)
    return BenchReport(result, write_report(result.to_dict(), None, folder, pictures=folder))


@dataclass(frozen=True)
class BenchReport:
    """What a benchmark measured and where it is told."""

    result: BenchResult
    files: ReportFiles

    def __str__(self) -> str:
        """Return the table and the place of the report."""
        return f"{self.files.markdown.read_text(encoding='utf-8')}\nreport: {self.files.html}"


def run(
    recipe: Recipe | str | Path | None = None,
    *,
    model: str | Path | None = None,
    data: str | Path | None = None,
    imgsz: int = 640,
    device: str = "cpu",
    project: str | Path = PROJECT,
    name: str | None = None,
    folds: int = 0,
    resume: str | Path | None = None,
    progress: Callable[[str], None] = print,
    **options: Any,
) -> RunResult:
    """Run a whole recipe, or go on with a run that was cut off.

    Args:
        recipe: A recipe, the name of a shipped one, or a file.
        model: Trained checkpoint.
        data: Data YAML.
        imgsz: Side of the square input in pixels.
        device: Where training and engines run.
        project: Folder that holds runs.
        name: Folder of this run.
        folds: Run the recipe again on so many folds of the data, for cross-validated figures; see `pipeline.run`.
        resume: Folder of a run to go on with; nothing else is given then.
        progress: Takes a line now and then.
        options: Flags over the recipe, such as prune=0.4, and settings of `yolo train`, such as epochs=3.

    Raises:
        UsageError: Something is missing, unknown or out of range.
        ResumeMismatch: An input of the run to be resumed has changed.
        GateNotMet: A stage cost more accuracy than the recipe allows.
    """
    if resume is not None:
        given = {"recipe": recipe, "model": model, "data": data, "folds": folds, **options}
        if extra := [key for key, value in given.items() if value]:
            raise UsageError(f"a resumed run keeps what it was started with; leave out {', '.join(extra)}")
        return pipeline.resume(resume, progress=progress)
    _need("run", recipe=recipe, model=model, data=data)
    base = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)  # type: ignore[arg-type]
    full = with_options(base, options)
    place = {"project": project, "name": name, "device": device, "folds": folds, "progress": progress}
    return pipeline.run(full, model=model, data=data, imgsz=imgsz, **place)  # type: ignore[arg-type]


def sweep(
    recipe: Recipe | str | Path | None = None,
    *,
    model: str | Path | None = None,
    data: str | Path | None = None,
    imgsz: int = 640,
    device: str = "cpu",
    search: str | None = None,
    trials: int = 20,
    objective: str = "latency",
    search_seed: int = 0,
    ray: str | None = None,
    workers: int = 1,
    resume: str | Path | None = None,
    retry_failed: bool = False,
    project: str | Path = PROJECT,
    name: str = "sweep",
    progress: Callable[[str], None] = print,
    **options: Any,
) -> SweepResult:
    """Run a recipe with other values each time, measure what comes of them together, and write one report.

    Args:
        recipe: A recipe, the name of a shipped one, or a file.
        model: Trained checkpoint.
        data: Data YAML.
        imgsz: Side of the square input in pixels.
        device: Where training and engines run.
        search: optuna, to search; every combination when not given.
        trials: Suggestions of a search.
        objective: What a search wants beside accuracy: latency or size.
        search_seed: Of the search.
        ray: Cluster that trials run on: auto, local or an address; this machine without Ray when not given.
        workers: Trials at once, on Ray.
        resume: Folder of a sweep to go on with; ray, workers and retry_failed may be given with it.
        retry_failed: Run the failed trials of a resumed sweep again.
        project: Folder that holds sweeps.
        name: Folder of this one, numbered when it exists.
        progress: Takes a line now and then.
        options: Flags over the recipe and settings of `yolo train`, each with one value or several, such as
            prune=(0.2, 0.4) or the text that the command line takes; see `sweep.space`.

    Raises:
        UsageError: Something is missing, unknown or out of range, or nothing varies.
        MissingDependency: ray or optuna is asked for and not installed.
        ResumeMismatch: A file that trials of the sweep to be resumed rest on has changed.
        CompressError: No trial reached its end.
    """
    place = {"ray": ray, "workers": workers, "progress": progress}
    if resume is not None:
        given = {"recipe": recipe, "model": model, "data": data, "search": search, **options}
        if extra := [key for key, value in given.items() if value is not None]:
            raise UsageError(f"a resumed sweep keeps what it was started with; leave out {', '.join(extra)}")
        return resume_sweep(resume, retry_failed=retry_failed, **place)
    _need("sweep", recipe=recipe, model=model, data=data)
    if retry_failed:
        raise UsageError("retry_failed is for a sweep that has failures already; add resume=SWEEP_DIR, or leave it out")
    if search is not None:
        entry_of(SEARCHES, "search", search)
    chosen = None if search is None else SearchOptions(trials, objective, search_seed)
    base = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)  # type: ignore[arg-type]
    inputs = {"model": model, "data": data, "imgsz": imgsz, "device": device, "project": project, "name": name}
    return start_sweep(base, read_space(options), search=chosen, **inputs, **place)  # type: ignore[arg-type]


def report(
    *,
    run: str | Path | None = None,
    bench: str | Path | None = None,
    latency: float | None = None,
    size: float | None = None,
    max_drop: float | None = None,
) -> ReportFiles:
    """Write table, plot and page anew from a run folder or a bench.json.

    Args:
        run: Folder of a run.
        bench: A bench.json; either this or `run`.
        latency: Most milliseconds of one image, over the limit that the benchmark was given.
        size: Most MB on disk, likewise.
        max_drop: Most mAP50-95 points below the first candidate, likewise.

    Raises:
        UsageError: Neither or both are given, or a limit is not above 0.
        DataError: The file is missing or damaged, or the run has measured nothing yet.
    """
    if (run is None) == (bench is None):
        raise UsageError("a report needs run=RUN_DIR or bench=bench.json, and only one of them")
    limits = Limits(latency, size, max_drop)
    if bench is not None:
        file = Path(bench)
        return write_report(BenchResult.read(file).to_dict(), None, file.parent, limits=limits, pictures=file.parent)
    folder = Path(str(run)).resolve()
    record = run_record.read_record(folder)
    measured = run_record.bench_of(folder, record)
    if measured is None:
        raise DataError(
            f"the run in '{folder}' has measured nothing yet; go on with: yolo-compress run resume={folder}"
        )
    pictures, folds = run_record.files_of(folder, record)["bench"].parent, run_record.read_folds(folder, record)
    return write_report(measured, record, folder, limits=limits, pictures=pictures, folds=folds)


def _need(mode: str, **inputs: Any) -> None:
    examples = {"recipe": "edge-cpu", "model": "best.pt", "data": "data.yaml"}
    for key, value in inputs.items():
        if value is None:
            raise UsageError(f"a {mode} needs {key}=; give for example {key}={examples[key]}")


def _paths(given: Sequence[str | Path] | str | Path) -> list[Path]:
    """Read one path, several with commas between, or a list of such."""
    listed = [given] if isinstance(given, str | Path) else list(given)
    return [Path(part) for item in listed for part in str(item).split(",") if part]


def _labels(paths: Sequence[Path]) -> list[str]:
    """Name candidates by their file, and by their folder as well where two files share a name."""
    names = [path.name for path in paths]
    return [n if names.count(n) == 1 else f"{p.resolve().parent.name}/{n}" for n, p in zip(names, paths, strict=True)]


def _counts(path: Path, imgsz: int) -> dict[str, Any]:
    described = describe(path, imgsz)
    return {"params": described.params, "gflops": described.gflops}
