# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The report as Markdown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from yolo_compress.report import content, evidence, trials
from yolo_compress.report.content import Table
from yolo_compress.report.files import file_name
from yolo_compress.report.folds import fold_notes, folds_method, folds_table
from yolo_compress.report.limits import Limits
from yolo_compress.report.pareto import in_words
from yolo_compress.report.pictures import LINES, Pair
from yolo_compress.report.recommendation import recommend, verdicts_table
from yolo_compress.report.roof import peaks_in_words, roofline_in_words, roofline_table, rooflines
from yolo_compress.report.service import service_method, service_table
from yolo_compress.report.techniques import techniques_table


def document(
    bench: Mapping[str, Any],
    run: Mapping[str, Any] | None = None,
    *,
    limits: Limits | None = None,
    pairs: Sequence[Pair] = (),
    folder: Path = Path(),
    sweep: Mapping[str, Any] | None = None,
    folds: Mapping[str, Any] | None = None,
) -> str:
    """Return the whole report; it refers to the pictures beside it."""
    parts = ["# Compression report", content.summary(bench)]
    if sweep:
        parts += ["## Trials", table(trials.trials_table(sweep, bench)), "## Candidates"]
    parts.append(table(content.candidates_table(bench)))
    undecided = evidence.undecided(bench)
    if undecided:
        parts.append(_items(undecided))
    if folds:
        parts += ["## Cross-validated", table(folds_table(folds))]
    parts.append("## Recommendation")
    for one in recommend(bench, limits):
        parts += [f"**{_escape(one.deployment)}: {_escape(one.chosen or 'none')}.** {_escape(one.sentence)}"]
        parts += [table(verdicts_table(one))]
    parts += [f"![{_escape(in_words(bench, axis))}]({axis.file})" for axis in trials.axes_of(bench, sweep)]
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
    service = service_table(bench, run)
    if service:
        parts += ["## In service", table(service)]
    energy = content.energy_table(bench)
    if energy:
        parts += ["## Energy", table(energy)]
    notes = [*(trials.trial_notes(sweep) if sweep else ()), *(fold_notes(folds) if folds else ())]
    notes += content.notes(bench, run)
    if notes:
        parts += ["## Notes", _items(notes)]
    for label, roofline in rooflines(bench):
        words = f"{roofline_in_words(label, roofline)}. {peaks_in_words(roofline)}"
        parts += [f"## Roofline of {_escape(label)}", f"![roofline](roofline-{file_name(label)}.png)", _escape(words)]
        parts += [table(roofline_table(roofline))]
    if pairs:
        parts += ["## Before and after", LINES]
    for pair in pairs:
        parts.append(_pair(pair, str(bench["rows"][0].get("label", content.ABSENT)), folder))
    techniques = techniques_table(bench, run)
    if techniques:
        parts += ["## What each technique did", table(techniques)]
    stages = content.stages_table(run)
    if stages:
        parts += ["## Stages", table(stages)]
    for stage, layers in content.layer_tables(run):
        parts += [f"## Layers: {_escape(stage)}", table(layers)]
    how = [*(trials.trials_method(sweep) if sweep else ()), *(folds_method(folds) if folds else ())]
    parts += [
        "## How it was measured",
        _items([*how, *content.method(bench), *service_method(bench), *evidence.how(bench)]),
    ]
    parts += ["## Machine and versions", table(content.environment(bench, run))]
    return "\n\n".join(parts) + "\n"


def table(given: Table) -> str:
    """Return a table, numbers aligned to the right."""
    rule = ["---" if index in given.words else "---:" for index in range(len(given.header))]
    return "\n".join("| " + " | ".join(map(_escape, row)) + " |" for row in (given.header, rule, *given.rows))


def _pair(pair: Pair, first: str, folder: Path) -> str:
    """Return both pictures, referred to from the folder of the report."""
    shown = ((pair.before, first, pair.only_before, "dashed"), (pair.after, pair.candidate, pair.only_after, "dotted"))
    pictures = [
        f"![{_escape(pair.image)}: {_escape(label)}, {pair.same} boxes as in the other, {alone} {line}]"
        f"({quote(os.path.relpath(path, folder).replace(os.sep, '/'))})"
        for path, label, alone, line in shown
    ]
    return f"{_escape(pair.image)}: {_escape(first)} and {_escape(pair.candidate)}\n\n" + " ".join(pictures)


def _items(sentences: list[str]) -> str:
    return "\n".join(f"* {_escape(sentence)}" for sentence in sentences)


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
