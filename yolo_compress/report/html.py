# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The report as one HTML file that needs nothing beside it: no network, no script, no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
from typing import Any

from yolo_compress.errors import require
from yolo_compress.report import content, evidence, trials

TEMPLATE = "page.html.j2"


def page(
    bench: Mapping[str, Any],
    run: Mapping[str, Any] | None,
    png: bytes,
    size_png: bytes | None = None,
    *,
    sweep: Mapping[str, Any] | None = None,
) -> str:
    """Return the page, with the picture inside, or both pictures of a sweep.

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
        candidates=content.candidates_table(bench),
        undecided=evidence.undecided(bench),
        refused=[row.get("status") == "refused" for row in bench["rows"]],
        picture=base64.b64encode(png).decode("ascii"),
        picture_text=_picture_text(bench),
        size_picture=base64.b64encode(size_png).decode("ascii") if size_png else None,
        size_picture_text=_size_text(bench),
        trials=trials.trials_table(sweep, bench) if sweep else None,
        notes=[*(trials.trial_notes(sweep) if sweep else ()), *content.notes(bench, run)],
        stages=content.stages_table(run),
        run_status=(run or {}).get("status"),
        layers=content.layer_tables(run),
        classes=content.classes_table(bench),
        gpu=content.gpu_table(bench),
        confidence=content.confidence_table(bench),
        sizes=evidence.sizes_table(bench),
        errors=evidence.errors_table(bench),
        robustness=evidence.robustness_table(bench),
        method=[*(trials.trials_method(sweep) if sweep else ()), *content.method(bench), *evidence.how(bench)],
        energy=content.energy_table(bench),
        environment=content.environment(bench, run),
    )


def _picture_text(bench: Mapping[str, Any]) -> str:
    shown = [
        f"{row['label']} {content.number(row['latency_ms_p50'], 2)} ms, "
        f"{content.number(row.get('map50_95'), 2, scale=100)}"
        for row in bench["rows"]
        if row.get("latency_ms_p50") is not None
    ]
    return "mAP50-95 against median latency: " + ("; ".join(shown) or "no candidate was timed")


def _size_text(bench: Mapping[str, Any]) -> str:
    shown = [
        f"{row['label']} {size:.2f} MB, {points:.2f}" for row, (size, points) in trials.points_of(bench, trials.SIZE)
    ]
    return "mAP50-95 against size: " + ("; ".join(shown) or "no candidate passed its check")
