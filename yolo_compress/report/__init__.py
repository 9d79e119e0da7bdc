# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables, Pareto pictures, a recommendation and one self-contained page from what a benchmark and a run wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import atomic_write
from yolo_compress.errors import DataError
from yolo_compress.report.files import file_name
from yolo_compress.report.folds import fold_cells
from yolo_compress.report.html import page
from yolo_compress.report.limits import Limits
from yolo_compress.report.markdown import document
from yolo_compress.report.pareto import picture
from yolo_compress.report.pictures import read_pairs
from yolo_compress.report.recommendation import recommend
from yolo_compress.report.roof import roofline_picture, rooflines
from yolo_compress.report.spreadsheet import csv_text, spreadsheets
from yolo_compress.report.trials import axes_of, trial_cells

__all__ = ("Limits", "ReportFiles", "write_report")


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report."""

    markdown: Path
    html: Path
    pareto_png: Path
    pictures: tuple[Path, ...] = ()
    csv: tuple[Path, ...] = ()


def write_report(
    bench: dict[str, Any],
    run: dict[str, Any] | None,
    out_dir: Path,
    *,
    limits: Limits | None = None,
    pictures: Path | None = None,
    sweep: dict[str, Any] | None = None,
    folds: dict[str, Any] | None = None,
) -> ReportFiles:
    """Write `report.md`, `report.html`, the pictures and the CSV files.

    Args:
        bench: The content of a `bench.json`.
        run: The content of a `run.json`, for the tables of stages and layers; the report goes without when not given.
        out_dir: Created when missing.
        limits: What a recommended candidate keeps to, over the limits that the benchmark was given.
        pictures: Folder of the benchmark, whose pictures before and after are shown where it has some.
        sweep: The content of a `sweep.json`, for the table of trials.
        folds: What `run_record.read_folds` returns, for cross-validated figures.

    Raises:
        DataError: `bench` has no rows, or its pictures are damaged.
        MissingDependency: matplotlib or jinja2 is not installed.
        OutputError: `out_dir` cannot be written to.
        UsageError: The benchmark was given a limit that allows nothing.
    """
    if not bench.get("rows"):
        raise DataError("the benchmark has no rows, so there is nothing to report; run the benchmark again")
    out_dir = Path(out_dir)
    pairs = read_pairs(pictures, bench)
    axes = axes_of(bench, sweep)
    charts = {axis.name: picture(bench, axis) for axis in axes}  # all made before any is written
    contents: dict[str, bytes | str] = {axis.file: charts[axis.name] for axis in axes}
    roofs = {label: roofline_picture(roofline) for label, roofline in rooflines(bench)}
    contents |= {f"roofline-{file_name(label)}.png": png for label, png in roofs.items()}
    tables = spreadsheets(bench, run, recommend(bench, limits))
    if sweep:
        tables["trials.csv"] = csv_text(trial_cells(sweep, bench))
    if folds:
        tables["folds.csv"] = csv_text(fold_cells(folds))
    contents |= tables
    contents["report.md"] = document(bench, run, limits=limits, pairs=pairs, folder=out_dir, sweep=sweep, folds=folds)
    contents["report.html"] = page(bench, run, charts | roofs, limits=limits, pairs=pairs, sweep=sweep, folds=folds)
    for name, content in contents.items():
        atomic_write(out_dir / name, content)
    drawn_files = (*(axis.file for axis in axes), *(f"roofline-{file_name(label)}.png" for label in roofs))
    return ReportFiles(
        out_dir / "report.md",
        out_dir / "report.html",
        out_dir / axes[0].file,
        tuple(out_dir / name for name in drawn_files),
        tuple(out_dir / name for name in tables),
    )
