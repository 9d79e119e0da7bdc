# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a report says of the trials of a sweep: a line for each file that one made, and which no other beats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from yolo_compress.artifacts import MEGABYTE
from yolo_compress.report.content import ABSENT, Table, number
from yolo_compress.report.pareto import LATENCY, RATIO, SIZE, Axis, drawn, unbeaten

MEASURED = ("map50_95", "map50", "latency_ms_p50", "latency_ratio_p50", "size_bytes", "peak_memory_mb")
COUNTED = ("params", "gflops")


def speed_axis(bench: Mapping[str, Any]) -> Axis:
    """Return what speed is compared by: ratios, which hold across groups that were timed apart, or else times."""
    timed = [row for row in bench["rows"] if row.get("latency_ms_p50") is not None]
    return RATIO if timed and all(row.get("latency_ratio_p50") is not None for row in timed) else LATENCY


def axes_of(bench: Mapping[str, Any], sweep: Mapping[str, Any] | None) -> tuple[Axis, ...]:
    """Return what a report draws accuracy against: that of a sweep compares speed as its table of trials does."""
    return drawn(bench, speed_axis(bench) if sweep else LATENCY)


def best_in(bench: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return for each candidate in which of speed and size no other one, native ones included, beats it."""
    found: dict[str, tuple[str, ...]] = {str(row["label"]): () for row in bench["rows"]}
    for word, axis in (("speed", speed_axis(bench)), ("size", SIZE)):
        for label in unbeaten(bench, axis):
            found[label] = (*found[label], word)
    return found


def trials_table(sweep: Mapping[str, Any], bench: Mapping[str, Any]) -> Table:
    """Return a line for each file that a trial made, and one for each trial that made none."""
    flags, best = _flags(sweep), best_in(bench)
    lines = []
    for row, label, found in _lines(sweep, bench):
        lines.append(
            (
                label or f"trial {row['number']}",
                *(_shown(row["values"].get(flag)) for flag in flags),
                str(row["state"]),
                number(found.get("map50_95"), 2, scale=100),
                number(found.get("latency_ratio_p50"), 3),
                number(found.get("latency_ms_p50"), 2),
                number(found.get("size_bytes"), 2, scale=1 / MEGABYTE),
                number(row["figures"].get("params"), 3, scale=1e-6),
                number(row["seconds"]),
                str(row["attempts"]),
                " and ".join(best.get(label, ())) or ABSENT,
            )
        )
    head = ("Trial", *flags, "State", "mAP50-95", "Ratio to first", "Latency p50 (ms)", "Size (MB)", "Params (M)")
    head += ("Seconds", "Begun", "Not beaten in")
    return Table(head, tuple(lines), frozenset({*range(len(flags) + 2), len(head) - 1}))


def trial_cells(sweep: Mapping[str, Any], bench: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the same lines with whole numbers and the errors, for CSV; accuracies are shares of 1."""
    flags, best = _flags(sweep), best_in(bench)
    return [
        {"trial": row["number"], "file": row["artifacts"].get(label)}
        | {flag: _shown(row["values"].get(flag)) for flag in flags}
        | {"state": row["state"]}
        | {key: found.get(key) for key in MEASURED}
        | {key: row["figures"].get(key) for key in COUNTED}
        | {"seconds": row["seconds"], "attempts": row["attempts"]}
        | {f"unbeaten_in_{word}": int(word in best.get(label, ())) for word in ("speed", "size")}
        | {"error": row["error"]}
        for row, label, found in _lines(sweep, bench)
    ]


def trial_notes(sweep: Mapping[str, Any]) -> list[str]:
    """Return why trials ended early, and what those that did not have to say."""
    found = []
    for row in sweep["rows"]:
        if row["error"]:
            found.append(f"trial {row['number']}: {row['state']}: {row['error']}")
        found += [f"trial {row['number']}: {note}" for note in row["notes"]]
    return list(dict.fromkeys(found))


def trials_method(sweep: Mapping[str, Any]) -> list[str]:
    """Return how the trials came about."""
    search = sweep.get("search")
    fixed = ", ".join(f"{flag} {_shown(value)}" for flag, value in sweep["space"]["fixed"].items()) or "nothing"
    how = "the whole grid, in the order of the table; the flag that was given last changes fastest"
    if search:
        how = f"{search['trials']} suggestions of Optuna, for accuracy and {search['objective']}, seed {search['seed']}"
    return [
        f"Trials: {how}. Beside the recipe, all share: {fixed}.",
        "Trials were trained first; what they made was timed afterwards, while none of them ran on that host.",
        "Not beaten: no other candidate, native ones included, is at least as good in accuracy and in speed (or size) "
        "and better in one. Accuracies that the images cannot tell apart count as different here.",
    ]


def _flags(sweep: Mapping[str, Any]) -> list[str]:
    return [*sweep["space"]["choices"], *sweep["space"]["spans"]]


def _lines(
    sweep: Mapping[str, Any], bench: Mapping[str, Any]
) -> list[tuple[Mapping[str, Any], str, Mapping[str, Any]]]:
    measured = {str(row["label"]): row for row in bench["rows"]}
    return [
        (row, label, measured.get(label, {})) for row in sweep["rows"] for label in (list(row["artifacts"]) or [""])
    ]


def _shown(value: Any) -> str:
    """Show a value as it is typed."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value)
