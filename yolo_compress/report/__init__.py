# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables, a Pareto picture and one self-contained page from what a benchmark and a run wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import atomic_write
from yolo_compress.errors import DataError
from yolo_compress.report.html import page
from yolo_compress.report.limits import Limits
from yolo_compress.report.markdown import document
from yolo_compress.report.pareto import picture

__all__ = ("Limits", "ReportFiles", "write_report")


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report."""

    markdown: Path
    html: Path
    pareto_png: Path


def write_report(
    bench: dict[str, Any], run: dict[str, Any] | None, out_dir: Path, *, limits: Limits | None = None
) -> ReportFiles:
    """Write `report.md`, `report.html` and `pareto.png`.

    Args:
        bench: The content of a `bench.json`.
        run: The content of a `run.json`, for the tables of stages and layers; the report goes without when not given.
        out_dir: Created when missing.
        limits: What a recommended candidate keeps to, over the limits that the benchmark was given.

    Raises:
        DataError: `bench` has no rows.
        MissingDependency: matplotlib or jinja2 is not installed.
        OutputError: `out_dir` cannot be written to.
    """
    if not bench.get("rows"):
        raise DataError("the benchmark has no rows, so there is nothing to report; run the benchmark again")
    out_dir = Path(out_dir)
    files = ReportFiles(out_dir / "report.md", out_dir / "report.html", out_dir / "pareto.png")
    png = picture(bench)
    text, web = (
        document(bench, run, limits=limits),
        page(bench, run, png, limits=limits),
    )  # all made before any is written
    atomic_write(files.pareto_png, png)
    atomic_write(files.markdown, text)
    atomic_write(files.html, web)
    return files
