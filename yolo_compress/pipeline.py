# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Run a recipe stage by stage, record each one in run.json, and go on where a run was cut off."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from yolo_compress import recipe as recipes
from yolo_compress.artifacts import sha256_path
from yolo_compress.bench.machine import describe_machine, package_versions
from yolo_compress.calibrate import read_manifest
from yolo_compress.context import Context, StageResult, context_for
from yolo_compress.errors import CompressError, DataError, GateNotMet, OutputError, ResumeMismatch, UsageError
from yolo_compress.host.folds import write_folds
from yolo_compress.recipe import Recipe
from yolo_compress.recipe.distill import SELF
from yolo_compress.report import write_report
from yolo_compress.run_record import (
    FOLDS,
    RECORD,
    SCHEMA_VERSION,
    bench_of,
    files_of,
    float_accuracies,
    read_folds,
    read_record,
    save_record,
)
from yolo_compress.stages import planned

MEASURING = ("native", "bench")  # the stages whose results depend on what else the machine does
Progress = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    run_dir: Path
    report_html: Path | None
    status: str
    record: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the lines that a user wants to see last."""
        lines = [f"run: {self.run_dir}"]
        for stage in self.record["stages"]:
            value = stage["metrics"].get("map50_95")
            accuracy = f", mAP50-95 {100 * value:.2f}" if value is not None else ""
            lines.append(f"  {stage['name']}: {stage['seconds']:.0f} s{accuracy}")
        lines += [f"  note: {note}" for stage in self.record["stages"] for note in stage["notes"]]
        lines += [f"  fold {fold['number']}: {fold['state']}" for fold in self.record.get("folds", ())]
        return "\n".join([*lines, f"report: {self.report_html}"])


def run(
    recipe: Recipe,
    *,
    model: str | Path,
    data: str | Path,
    imgsz: int = 640,
    project: str | Path = "runs/compress",
    name: str | None = None,
    device: str = "cpu",
    bench: bool = True,
    folds: int = 0,
    progress: Progress = print,
) -> RunResult:
    """Run a whole recipe.

    Args:
        recipe: What to do.
        model: Trained checkpoint.
        data: Data YAML; training images train, calibrate and score, validation images only measure.
        imgsz: Side of the square input in pixels.
        project: Folder that holds runs.
        name: Folder of this run, numbered when it exists; the recipe's name when not given.
        device: Where training and engines run.
        bench: Whether the native exports and the benchmark of the recipe are part of the run; a sweep measures the
            results of many runs together, when none of them works any more.
        folds: Run the recipe again for each of so many folds of all images, measured on that fold and made on the
            others, for cross-validated figures in the report; none when 0. Gates hold the run alone.
        progress: Takes a line now and then.

    Raises:
        UsageError: A value cannot be used.
        DataError: Weights or data are missing or damaged, or a fold would have no object.
        OutputError: The run folder cannot be written.
        GateNotMet: A stage cost more accuracy than the recipe allows.
    """
    path = Path(model).resolve()
    context = context_for(path, data, imgsz=imgsz, device=device, recipe=recipe, run_dir=Path(), progress=progress)
    inputs = inputs_of(context, recipe)
    if folds:
        _check_folds(recipe, folds, context)
    run_dir = new_folder(Path(project), name or recipe.name)
    record = {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "recipe": recipe.model_dump(mode="json"),
        "settings": {"imgsz": imgsz, "device": device, "bench": bench, "folds": folds},
        "inputs": inputs,
        "stages": [],
        "versions": package_versions(),
        "device": describe_machine(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    save_record(run_dir, record)
    progress(f"run: {run_dir}")
    return _go_on(run_dir, record, progress)


def resume(run_dir: str | Path, *, progress: Progress = print) -> RunResult:
    """Go on with a run that was cut off; finished stages are not done again.

    Raises:
        DataError: There is no run in that folder.
        ResumeMismatch: An input, or a file that a finished stage made, is not what it was.
    """
    folder = Path(run_dir).resolve()
    record = read_record(folder)
    context = _context(folder, record, progress)
    changed = [
        f"{name} '{kept['path']}'"
        for name, kept in record["inputs"].items()
        if inputs_of(context, context.recipe)[name]["sha256"] != kept["sha256"]
    ]
    for stage in record["stages"]:
        for name, kept in stage["outputs"].items():
            file = folder / kept["path"]
            if not file.exists() or sha256_path(file) != kept["sha256"]:
                changed.append(f"{name} '{kept['path']}' of stage {stage['name']}")
    if changed:
        raise ResumeMismatch(
            f"'{folder}' cannot be resumed, because this is no longer what it was: {'; '.join(changed)}; put it back, "
            "or start a new run"
        )
    done = [stage["name"] for stage in record["stages"]]
    progress(f"resume: {folder}, done: {', '.join(done) or 'nothing yet'}")
    return _go_on(folder, record, progress)


def _go_on(run_dir: Path, record: dict[str, Any], progress: Progress) -> RunResult:
    context = _context(run_dir, record, progress)
    stages = planned(context.recipe)
    if not record["settings"].get("bench", True):  # runs of before there was a choice have no entry
        stages = {name: stage for name, stage in stages.items() if name not in MEASURING}
    for number, (name, stage) in enumerate(stages.items(), start=1):
        if name in {entry["name"] for entry in record["stages"]}:
            continue
        folder = run_dir / f"{number}-{name}"
        if name != "train":  # training looks at what is there and goes on; everything else begins afresh
            shutil.rmtree(folder, ignore_errors=True)
        progress(f"stage {number}/{len(stages)}: {name}")
        began = time.perf_counter()
        try:
            result = stage(replace(context, measured=float_accuracies(record)), files_of(run_dir, record), folder)
        except KeyboardInterrupt as error:
            hint = f"interrupted in stage {name}; go on with: yolo-compress run resume={run_dir}"
            raise KeyboardInterrupt(hint) from error
        entry = _entry(run_dir, name, result, seconds=time.perf_counter() - began)
        verdict = _gate(context.recipe, record, entry)
        record["stages"].append(entry)
        if verdict == "stop":
            record["status"] = "gate not met"
            save_record(run_dir, record)
            raise GateNotMet(f"{entry['notes'][-1]}; the run so far is in '{run_dir}'")
        save_record(run_dir, record)
    if record["settings"].get("folds", 0):
        _report(run_dir, record)  # what the folds take hours to add to is there already
        _run_folds(run_dir, record, context)
    record["status"] = "done"
    save_record(run_dir, record)
    return RunResult(run_dir, _report(run_dir, record), "done", record)


def _report(run_dir: Path, record: dict[str, Any]) -> Path | None:
    bench = bench_of(run_dir, record)
    if bench is None:
        return None
    pictures = files_of(run_dir, record)["bench"].parent
    return write_report(bench, record, run_dir, pictures=pictures, folds=read_folds(run_dir, record)).html


def _check_folds(recipe: Recipe, folds: int, context: Context) -> None:
    """Refuse before hours of work what the folds would be refused for after them."""
    if recipe.bench is None:
        raise UsageError("folds= measures, and the recipe has no bench section; add one, such as bench_rounds=130")
    if recipe.quantize is not None and recipe.quantize.calibration is not None:
        raise UsageError(
            "folds= chooses calibration images anew in each fold, and the recipe names a manifest, whose images are "
            "measured on in some fold; leave out quantize_calibration"
        )
    with tempfile.TemporaryDirectory() as place:
        write_folds(context.data, folds, Path(place))


def _run_folds(run_dir: Path, record: dict[str, Any], context: Context) -> None:
    """Run the recipe for each fold that has not ended; one that fails is recorded, and the others go on.

    Gates compare with the given model, which may know the images of the fold, so they do not hold there.
    """
    count, ended, place = record["settings"]["folds"], record.setdefault("folds", []), run_dir / FOLDS
    recipe = context.recipe.model_copy(update={"gates": type(context.recipe.gates)()})
    if not ended and not (place / str(count)).is_dir():
        write_folds(context.data, count, place)
    for number in range(len(ended) + 1, count + 1):
        context.progress(f"fold {number}/{count}")
        folder, entry = place / str(number), {"number": number, "state": "done", "error": ""}
        try:
            if (folder / "run" / RECORD).is_file():
                resume(folder / "run", progress=context.progress)
            else:
                shutil.rmtree(folder / "run", ignore_errors=True)
                run(
                    recipe,
                    model=context.model,
                    data=folder / "data.yaml",
                    imgsz=context.imgsz,
                    project=folder,
                    name="run",
                    device=context.device,
                    progress=context.progress,
                )
        except (OutputError, ResumeMismatch):
            raise  # of all folds, and for the user to put right
        except CompressError as error:
            entry |= {"state": "failed", "error": str(error)}
        except KeyboardInterrupt as error:
            hint = f"interrupted in fold {number}; go on with: yolo-compress run resume={run_dir}"
            raise KeyboardInterrupt(hint) from error
        ended.append(entry)
        save_record(run_dir, record)


def _gate(recipe: Recipe, record: dict[str, Any], entry: dict[str, Any]) -> str:
    """Hold a stage to its gate; a stage that steps back gives up its outputs, so that later ones use earlier files."""
    limit = getattr(recipe.gates, entry["name"], None)
    value = entry["metrics"].get("map50_95")
    if limit is None or value is None:
        return "passed"
    drop = 100 * (record["stages"][0]["metrics"]["map50_95"] - value)
    entry["metrics"]["drop"] = drop
    if drop <= limit:
        return "passed"
    text = f"stage {entry['name']} is {drop:.2f} mAP points below the given model, and the gate allows {limit:g}"
    if recipe.gates.on_fail == "stop":
        entry["notes"].append(text)
        return "stop"
    entry["notes"].append(f"{text}; the run went on from what was there before")
    entry["outputs"] = {}
    if entry["name"] == "train":  # a pruned model that did not recover is no artifact to build from
        for earlier in record["stages"][1:]:
            earlier["outputs"].pop("checkpoint", None)
    return "stepped back"


def inputs_of(context: Context, recipe: Recipe) -> dict[str, dict[str, str]]:
    """Return path and hash of what a run rests on; the list of images stands for them, as they are too many to hash.

    Raises:
        DataError: A teacher or a calibration manifest is missing or damaged.
    """
    listing = "\n".join(str(image) for image in (*context.data.train, *context.data.val))
    found = {
        "model": {"path": str(context.model), "sha256": sha256_path(context.model)},
        "data": {"path": str(context.data.path), "sha256": sha256_path(context.data.path)},
        "image list": {"path": str(context.data.path.parent), "sha256": hashlib.sha256(listing.encode()).hexdigest()},
    }
    teachers = [t.path for t in recipe.distill.teacher if t.path != SELF] if recipe.distill else []
    for index, teacher in enumerate(teachers):
        file = Path(teacher)
        if not file.is_file():
            raise DataError(f"teacher '{teacher}' does not exist; give the path of a checkpoint, or teacher=self")
        name = "teacher" if len(teachers) == 1 else f"teacher {index + 1}"
        found[name] = {"path": str(file.resolve()), "sha256": sha256_path(file)}
    if recipe.quantize is not None and recipe.quantize.calibration is not None:
        manifest = Path(recipe.quantize.calibration)
        read_manifest(manifest, context.data)  # refused here, and not after hours of training
        found["calibration manifest"] = {"path": str(manifest.resolve()), "sha256": sha256_path(manifest)}
    return found


def _context(run_dir: Path, record: Mapping[str, Any], progress: Progress) -> Context:
    settings, inputs = record["settings"], record["inputs"]
    recipe = recipes.validate(record["recipe"], source=f"'{run_dir / RECORD}'")
    for name in ("model", "data"):
        if not Path(inputs[name]["path"]).is_file():
            raise ResumeMismatch(
                f"the {name} of this run, '{inputs[name]['path']}', is gone; put it back, or start a new run"
            )
    return context_for(
        inputs["model"]["path"],
        inputs["data"]["path"],
        imgsz=settings["imgsz"],
        device=settings["device"],
        run_dir=run_dir,
        recipe=recipe,
        progress=progress,
    )


def _entry(run_dir: Path, name: str, result: StageResult, *, seconds: float) -> dict[str, Any]:
    outputs = {}
    for key, path in result.outputs.items():
        place = path.resolve()
        inside = place.is_relative_to(run_dir)
        outputs[key] = {
            "path": str(place.relative_to(run_dir) if inside else place),
            "sha256": sha256_path(place),
        }
    return {
        "name": name,
        "status": "done",
        "seconds": round(seconds, 3),
        "outputs": outputs,
        "metrics": dict(result.metrics),
        "notes": list(result.notes),
        "tables": dict(result.tables),
    }


def new_folder(project: Path, name: str) -> Path:
    """Make a folder for a run or a sweep, numbered where there is one of that name.

    Raises:
        UsageError: The name is not that of a folder.
        OutputError: It cannot be made.
    """
    if not name or Path(name).name != name:
        raise UsageError(f"name={name!r} is not a folder name; give one without slashes and project=DIR for its place")
    for number in range(1, 10_000):
        folder = project / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if project.exists() and not project.is_dir():
                raise OutputError(f"cannot write to '{project}': it is a file; give another project=DIR") from None
            continue
        except OSError as error:
            raise OutputError(f"cannot write to '{project}': {error.strerror}; give another project=DIR") from error
        return folder.resolve()
    raise OutputError(f"'{project}' holds 10,000 runs called '{name}'; give another name=NAME")
