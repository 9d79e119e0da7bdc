# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The report as one HTML file that needs nothing beside it: no network, no script, no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from yolo_compress.errors import require
from yolo_compress.report import content, evidence, trials
from yolo_compress.report.folds import fold_notes, folds_method, folds_table
from yolo_compress.report.limits import Limits
from yolo_compress.report.pareto import in_words
from yolo_compress.report.pictures import LINES, Pair
from yolo_compress.report.recommendation import recommend, verdicts_table
from yolo_compress.report.roof import peaks_in_words, roofline_in_words, roofline_table, rooflines
from yolo_compress.report.service import service_method, service_table
from yolo_compress.report.techniques import techniques_table

TEMPLATE = "page.html.j2"


def page(
    bench: Mapping[str, Any],
    run: Mapping[str, Any] | None,
    charts: Mapping[str, bytes],
    *,
    limits: Limits | None = None,
    pairs: Sequence[Pair] = (),
    sweep: Mapping[str, Any] | None = None,
    folds: Mapping[str, Any] | None = None,
) -> str:
    """Return the page, with every picture inside.

    Args:
        bench: The content of a `bench.json`.
        run: The content of a `run.json`, or None.
        charts: PNGs by the name of what accuracy is drawn against, and of rooflines by the label of the candidate.
        limits: What a recommended candidate keeps to.
        pairs: Pictures before and after.
        sweep: The content of a `sweep.json`, or None.
        folds: What `run_record.read_folds` returns, or None.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="report", purpose="HTML reports")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("yolo_compress.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    recipe = (run or {}).get("recipe") or {}
    return environment.from_string(source).render(
        title=f"Compression report: {recipe['name']}" if recipe.get("name") else "Compression report",
        description=recipe.get("description") or "",
        date=bench.get("date", content.ABSENT),
        summary=content.summary(bench),
        trials=trials.trials_table(sweep, bench) if sweep else None,
        candidates=content.candidates_table(bench),
        folds=folds_table(folds) if folds else None,
        undecided=evidence.undecided(bench),
        recommendations=[(one, verdicts_table(one)) for one in recommend(bench, limits)],
        refused=[row.get("status") == "refused" for row in bench["rows"]],
        charts=[
            (axis.title, base64.b64encode(charts[axis.name]).decode("ascii"), in_words(bench, axis))
            for axis in trials.axes_of(bench, sweep)
            if axis.name in charts
        ],
        pairs=[
            (pair, *(base64.b64encode(path.read_bytes()).decode("ascii") for path in (pair.before, pair.after)))
            for pair in pairs
        ],
        lines=LINES,
        first=str(bench["rows"][0].get("label", content.ABSENT)),
        roofs=[
            (
                label,
                base64.b64encode(charts[label]).decode("ascii"),
                roofline_in_words(label, one),
                peaks_in_words(one),
                roofline_table(one),
            )
            for label, one in rooflines(bench)
            if label in charts
        ],
        techniques=techniques_table(bench, run),
        notes=[
            *(trials.trial_notes(sweep) if sweep else ()),
            *(fold_notes(folds) if folds else ()),
            *content.notes(bench, run),
        ],
        stages=content.stages_table(run),
        run_status=(run or {}).get("status"),
        layers=content.layer_tables(run),
        classes=content.classes_table(bench),
        gpu=content.gpu_table(bench),
        confidence=content.confidence_table(bench),
        sizes=evidence.sizes_table(bench),
        errors=evidence.errors_table(bench),
        robustness=evidence.robustness_table(bench),
        method=[
            *(trials.trials_method(sweep) if sweep else ()),
            *(folds_method(folds) if folds else ()),
            *content.method(bench),
            *service_method(bench),
            *evidence.how(bench),
        ],
        service=service_table(bench, run),
        energy=content.energy_table(bench),
        environment=content.environment(bench, run),
    )
