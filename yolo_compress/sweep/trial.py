# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A trial: one run of a recipe in a folder of its own, which is never done again once it has ended."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from yolo_compress import pipeline, run_record
from yolo_compress import recipe as recipes
from yolo_compress.artifacts import atomic_write
from yolo_compress.errors import CompressError, DataError, GateNotMet, UsageError
from yolo_compress.recipe import Recipe
from yolo_compress.recipe.distill import SELF
from yolo_compress.sweep.space import show

ATTEMPTS = "attempts.jsonl"
OUTCOME = "outcome.json"
RUN = "run"
RETRIES = 2  # how often a trial is begun again whose process died
ENDED = ("done", "gate not met", "failed")
SECTION_OF = {  # flags that call for a section, which goes when all of them are none
    "prune": "prune",
    "prune_flops": "prune",
    "prune_latency": "prune",
    "teacher": "distill",
    "grow": "grow",
    "qat": "qat",
}
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What a process has to know to run a trial; paths are absolute, on a cluster on a disk that all hosts share."""

    folder: str
    recipe: Mapping[str, Any]
    model: str
    data: str
    imgsz: int
    device: str

    def to_json(self) -> str:
        """Return it as text that goes to another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what `to_json` returned."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    `artifacts` are the engines that it built, or its checkpoint, by name; `figures` are those of its stages, and
    `float_map50_95` among them is what its float model reaches. `seconds` is what all stages took together.
    """

    state: str
    seconds: float = 0.0
    error: str = ""
    attempts: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Pool(Protocol):
    """Where trials run."""

    workers: int

    def run(self, jobs: Sequence[Job], ended: Callable[[Job, Outcome], None]) -> None:
        """Run jobs, as many at once as there are workers, and tell of each as soon as it has ended."""
        ...

    def quiet(self) -> AbstractContextManager[None]:
        """Keep this host free of trials while something is timed on it."""
        ...


def recipe_of(base: Recipe, options: Mapping[str, Any], lay: Callable[[Recipe, Mapping[str, Any]], Recipe]) -> Recipe:
    """Return the recipe of a trial.

    Where a flag is none, its section goes, together with the other flags of that section; a flag that calls for no
    section is set to nothing.

    Args:
        base: Recipe of the sweep.
        options: Flags and settings of `yolo train`.
        lay: Lays options over a recipe.

    Raises:
        UsageError: A value cannot be used, or a flag cannot be none.
    """
    known = recipes.flags()
    absent = {name for name, value in options.items() if value is None}
    for name in absent - SECTION_OF.keys():
        if name not in known or known[name].default is not None:
            raise UsageError(f"{name}=none means nothing, since {name} always has a value; leave none out")
    wanted = {SECTION_OF[name] for name in options if name in SECTION_OF and name not in absent}
    gone = {SECTION_OF[name] for name in absent if name in SECTION_OF} - wanted
    kept = {
        name: value
        for name, value in options.items()
        if not (name in SECTION_OF and name in absent) and not (name in known and known[name].section in gone)
    }
    return lay(base.model_copy(update=dict.fromkeys(gone)), kept)


def key_of(recipe: Recipe, inputs: Mapping[str, Mapping[str, str]], *, imgsz: int, device: str) -> str:
    """Hash what a trial is: its recipe without name and words, its files by content, image size and device."""
    tree = recipe.model_dump(mode="json", exclude={"name", "description", "bench"})
    for teacher in (tree["distill"] or {}).get("teacher", ()):  # told apart by content, wherever the files lie
        teacher["path"] = teacher["path"] if teacher["path"] == SELF else ""
    if tree["quantize"] is not None and tree["quantize"]["calibration"] is not None:
        tree["quantize"]["calibration"] = ""
    hashes = {name: kept["sha256"] for name, kept in inputs.items()}
    known = {"recipe": tree, "inputs": hashes, "imgsz": imgsz, "device": device}
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def title(values: Mapping[str, Any]) -> str:
    """Return the values of a trial as they would be typed."""
    return " ".join(f"{flag}={show(value)}" for flag, value in values.items())


def run_trial(job: Job, *, progress: Progress = print) -> Outcome:
    """Run a trial, go on with one that was cut off, or return how it ended; an error is an outcome.

    Raises:
        OutputError: The folder cannot be written to.
    """
    folder = Path(job.folder)
    if (known := read_outcome(folder)) is not None:
        return known
    attempts = _note_attempt(folder)
    began = time.perf_counter()
    try:
        outcome = _run(job, folder, progress)
    except GateNotMet as error:
        outcome = Outcome("gate not met", error=str(error), **_found(folder))
    except CompressError as error:
        outcome = Outcome("failed", error=str(error), **_found(folder))
    except Exception as error:  # a stranger's: it costs this trial, and not the others
        outcome = Outcome("failed", error=f"{type(error).__name__}: {error}", **_found(folder))
    seconds = outcome.seconds or round(time.perf_counter() - began, 3)
    outcome = Outcome(**{**vars(outcome), "seconds": seconds, "attempts": attempts})
    write_outcome(folder, outcome)
    return outcome


def read_outcome(folder: Path) -> Outcome | None:
    """Return how the trial in a folder ended, or None where it has not."""
    try:
        return Outcome(**json.loads((folder / OUTCOME).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(
            f"'{folder / OUTCOME}' is damaged ({error}); remove that file, and the trial goes on"
        ) from error


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write how a trial ended.

    Raises:
        OutputError: The folder cannot be written to.
    """
    atomic_write(folder / OUTCOME, json.dumps(asdict(outcome), indent=1, default=str) + "\n")


def died(job: Job, how: str) -> Outcome:
    """Write and return the outcome of a trial whose process ended without one, as often as it was begun."""
    folder = Path(job.folder)
    error = f"{how}, {RETRIES + 1} times; was there enough memory? run it alone, or with fewer workers"
    outcome = Outcome("failed", error=error, attempts=_attempts(folder), **_found(folder))
    write_outcome(folder, outcome)
    return outcome


def _run(job: Job, folder: Path, progress: Progress) -> Outcome:
    place = folder / RUN
    if (place / run_record.RECORD).is_file():
        result = pipeline.resume(place, progress=progress)
    else:
        shutil.rmtree(place, ignore_errors=True)  # cut off before anything was recorded
        recipe = recipes.validate(job.recipe, source=f"the recipe of trial '{folder.name}'")
        result = pipeline.run(
            recipe,
            model=job.model,
            data=job.data,
            imgsz=job.imgsz,
            project=folder,
            name=RUN,
            device=job.device,
            bench=False,
            progress=progress,
        )
    files = run_record.files_of(Path(RUN), result.record)
    engines = {name: str(path) for name, path in files.items() if ":" in name}
    notes = tuple(note for stage in result.record["stages"] for note in stage["notes"])
    return Outcome("done", artifacts=engines or {"checkpoint": str(files["checkpoint"])}, notes=notes, **_found(folder))


def _found(folder: Path) -> dict[str, Any]:
    """Return what the stages of a run that may not have ended took and measured."""
    try:
        record = run_record.read_record(folder / RUN)
    except CompressError:
        return {}
    figures: dict[str, Any] = {}
    for stage in record["stages"]:
        if stage["outputs"]:  # a stage that a gate took back says nothing of what is left
            known = {name: stage["metrics"].get(name) for name in ("map50_95", "params", "gflops")}
            figures |= {name: value for name, value in known.items() if value is not None}
    floating = run_record.float_accuracies(record)
    figures |= {"float_map50_95": floating[-1]} if floating else {}
    return {"figures": figures, "seconds": round(sum(stage["seconds"] for stage in record["stages"]), 3)}


def _note_attempt(folder: Path) -> int:
    """Append to the list of attempts, which says when, where and after which finished stages each one began."""
    try:
        done = [stage["name"] for stage in run_record.read_record(folder / RUN)["stages"]]
    except CompressError:
        done = []
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    line = json.dumps({"began": now, "pid": os.getpid(), "host": platform.node(), "stages_done": done})
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ATTEMPTS).open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    return _attempts(folder)


def _attempts(folder: Path) -> int:
    try:
        return len((folder / ATTEMPTS).read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return 0
