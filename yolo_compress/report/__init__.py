# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables, a Pareto picture and one self-contained page from what a benchmark and a run wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import atomic_write
from yolo_compress.errors import DataError
from yolo_compress.report.html import page
from yolo_compress.report.markdown import document
from yolo_compress.report.pareto import LATENCY, SIZE, picture
from yolo_compress.report.trials import speed_axis, trials_csv

__all__ = ("ReportFiles", "write_report")


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report."""

    markdown: Path
    html: Path
    pareto_png: Path
    trials_csv: Path | None = None


def write_report(
    bench: dict[str, Any], run: dict[str, Any] | None, out_dir: Path, *, sweep: dict[str, Any] | None = None
) -> ReportFiles:
    """Write `report.md`, `report.html` and `pareto.png`, and `trials.csv` and `pareto-size.png` of a sweep.

    Args:
        bench: The content of a `bench.json`.
        run: The content of a `run.json`, for the tables of stages and layers; the report goes without when not given.
        out_dir: Created when missing.
        sweep: The content of a `sweep.json`, for the table of trials.

    Raises:
        DataError: `bench` has no rows.
        MissingDependency: matplotlib or jinja2 is not installed.
        OutputError: `out_dir` cannot be written to.
    """
    if not bench.get("rows"):
        raise DataError("the benchmark has no rows, so there is nothing to report; run the benchmark again")
    out_dir = Path(out_dir)
    drawn = {"pareto.png": picture(bench, speed_axis(bench) if sweep else LATENCY)}
    if sweep:
        drawn["pareto-size.png"] = picture(bench, SIZE)
    text, web = (
        document(bench, run, sweep),
        page(bench, run, *drawn.values(), sweep=sweep),
    )  # made before any is written
    lines = trials_csv(sweep, bench) if sweep else None
    for name, png in drawn.items():
        atomic_write(out_dir / name, png)
    if lines is not None:
        atomic_write(out_dir / "trials.csv", lines)
    files = ReportFiles(
        out_dir / "report.md",
        out_dir / "report.html",
        out_dir / "pareto.png",
        None if lines is None else out_dir / "trials.csv",
    )
    atomic_write(files.markdown, text)
    atomic_write(files.html, web)
    return files
