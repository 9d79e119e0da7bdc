# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run has written down of itself: run.json, the files that it names, and the same of its folds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import atomic_write
from yolo_compress.bench.result import BenchResult
from yolo_compress.errors import DataError

SCHEMA_VERSION = 1
RECORD = "run.json"
FOLDS = "folds"  # the folder of their data sets and runs, and what the record says of them


def read_record(run_dir: Path) -> dict[str, Any]:
    """Read run.json.

    Raises:
        DataError: It is missing, damaged, or from a newer version.
    """
    file = run_dir / RECORD
    if not file.is_file():
        raise DataError(
            f"'{run_dir}' holds no {RECORD}; give the folder of a run, such as resume=runs/compress/edge-cpu"
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"'{file}' is damaged ({error}); start a new run") from error
    if record.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"'{file}' has schema_version {record.get('schema_version')} and this yolo_compress reads "
            f"{SCHEMA_VERSION}; use the version that wrote it, or start a new run"
        )
    return record


def files_of(run_dir: Path, record: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files that the stages of a run have made and kept, by name."""
    found: dict[str, Path] = {}
    for stage in record["stages"]:
        found |= {name: run_dir / kept["path"] for name, kept in stage["outputs"].items()}
    return found


def float_accuracies(record: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the accuracies of the checkpoints that stages made and kept, in order."""
    made = [stage["metrics"] for stage in record["stages"] if "checkpoint" in stage["outputs"]]
    return tuple(metrics["map50_95"] for metrics in made if metrics.get("map50_95") is not None)


def bench_of(run_dir: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the content of the `bench.json` of a run, or None where nothing has been measured yet.

    Raises:
        DataError: The file is missing or damaged.
    """
    file = files_of(run_dir, record).get("bench")
    return None if file is None else BenchResult.read(file).to_dict()


def read_folds(run_dir: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a report says of folds, which is how many there are and what each one measured; None without.

    Raises:
        DataError: The record or the benchmark of a fold is damaged.
    """
    if not record.get("folds"):
        return None
    runs = []
    for entry in record["folds"]:
        folder = run_dir / FOLDS / str(entry["number"]) / "run"
        fold = read_record(folder) if (folder / RECORD).is_file() else {"stages": []}  # it failed before it had one
        notes = [f"stage {stage['name']}: {note}" for stage in fold["stages"] for note in stage["notes"]]
        runs.append({**entry, "bench": bench_of(folder, fold), "notes": notes})
    count = record["settings"]["folds"]
    lists = [run_dir / FOLDS / str(number) / "val.txt" for number in range(1, count + 1)]
    images = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in lists)
    return {"folds": count, "images": images, "runs": runs}


def save_record(run_dir: Path, record: Mapping[str, Any]) -> None:
    """Write run.json, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    atomic_write(run_dir / RECORD, json.dumps(record, indent=1, default=str) + "\n")
