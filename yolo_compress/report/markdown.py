# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_compress.report import content, evidence, trials
from yolo_compress.report.content import Table


def document(
    bench: Mapping[str, Any], run: Mapping[str, Any] | None = None, sweep: Mapping[str, Any] | None = None
) -> str:
    """Return the whole report, which refers to `pareto.png` beside it; that of a sweep to `pareto-size.png` as well."""
    parts = ["# Compression report", content.summary(bench)]
    if sweep:
        parts += ["## Trials", table(trials.trials_table(sweep, bench)), "## Candidates"]
    parts.append(table(content.candidates_table(bench)))
    undecided = evidence.undecided(bench)
    if undecided:
        parts.append(_items(undecided))
    parts.append("![mAP50-95 against latency](pareto.png)")
    if sweep:
        parts.append("![mAP50-95 against size](pareto-size.png)")
    gpu = content.gpu_table(bench)
    if gpu:
        parts += ["## GPU", table(gpu)]
    confidence = content.confidence_table(bench)
    if confidence:
        parts += ["## Scores", table(confidence)]
    for title, shown in (
        ("Sizes", evidence.sizes_table(bench)),
        ("Errors", evidence.errors_table(bench)),
        ("Robustness", evidence.robustness_table(bench)),
    ):
        if shown:
            parts += [f"## {title}", table(shown)]
    energy = content.energy_table(bench)
    if energy:
        parts += ["## Energy", table(energy)]
    notes = [*(trials.trial_notes(sweep) if sweep else ()), *content.notes(bench, run)]
    if notes:
        parts += ["## Notes", _items(notes)]
    stages = content.stages_table(run)
    if stages:
        parts += ["## Stages", table(stages)]
    for stage, layers in content.layer_tables(run):
        parts += [f"## Layers: {_escape(stage)}", table(layers)]
    how = trials.trials_method(sweep) if sweep else ()
    parts += ["## How it was measured", _items([*how, *content.method(bench), *evidence.how(bench)])]
    parts += ["## Machine and versions", table(content.environment(bench, run))]
    return "\n\n".join(parts) + "\n"


def table(given: Table) -> str:
    """Return a table, numbers aligned to the right."""
    rule = ["---" if index in given.words else "---:" for index in range(len(given.header))]
    return "\n".join("| " + " | ".join(map(_escape, row)) + " |" for row in (given.header, rule, *given.rows))


def _items(sentences: list[str]) -> str:
    return "\n".join(f"* {_escape(sentence)}" for sentence in sentences)


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
