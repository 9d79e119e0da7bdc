# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The report as CSV: what was measured, with the names and units of `bench.json`, not rounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from yolo_compress.bench.result import ERROR_KINDS, STAT_NAMES
from yolo_compress.report.files import file_name
from yolo_compress.report.recommendation import Recommendation
from yolo_compress.report.roof import rooflines

LEFT_OUT = ("describe", "latency_ms_samples", "notes", "map50_95_intervals")
NAMED = {"stats": STAT_NAMES, "error_gains": ERROR_KINDS, "error_counts": ERROR_KINDS}
PAIRS = ("map50_95_difference_interval", "latency_ratio_spread", "latency_ratio_interval")


def spreadsheets(
    bench: Mapping[str, Any], run: Mapping[str, Any] | None, recommendations: Sequence[Recommendation]
) -> dict[str, str]:
    """Return the content of each CSV file by its name: candidates, recommendation, and the layers of each stage.

    The first line names the columns; a value that is absent is an empty cell. Accuracies are shares in 0 to 1.
    """
    found = {
        "candidates.csv": csv_text([_flat(row, bench.get("names") or ()) for row in bench["rows"]]),
        "recommendation.csv": csv_text(
            {"deployment": one.deployment, "limits": one.limits, "rule": one.rule}
            | {"candidate": verdict.label, "verdict": verdict.kind, "why": verdict.reason}
            for one in recommendations
            for verdict in one.verdicts
        ),
    }
    for label, roofline in rooflines(bench):
        found[f"roofline-{file_name(label)}.csv"] = csv_text([roofline["whole"], *roofline["layers"]])
    for stage in (run or {}).get("stages") or ():
        for name, layers in (stage.get("tables") or {}).items():
            rows = [layer for layer in layers or () if isinstance(layer, Mapping)]
            if rows:
                found[f"layers-{file_name(str(name))}.csv"] = csv_text(_plain_cells(layer) for layer in rows)
    return found


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV; the first line names the columns, and a value that is absent is an empty cell."""
    listed = list(rows)
    columns = list(dict.fromkeys(key for row in listed for key in row))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\r\n")  # RFC 4180
    writer.writeheader()
    writer.writerows(listed)
    return stream.getvalue()


def _flat(row: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Spread what a row holds in groups over columns of their own."""
    cells: dict[str, Any] = {}
    for key, value in row.items():
        if key == "streams" and isinstance(value, Mapping):
            cells |= {f"streams_{name}": one for name, one in value.items()}
            continue
        if key in LEFT_OUT or isinstance(value, Mapping):
            continue
        if key in NAMED:
            start = "" if key == "stats" else f"{key}_"
            for name, one in zip(NAMED[key], value or (), strict=False):
                cells.setdefault(f"{start}{name}", one)
        elif key == "class_map50_95":
            cells |= {f"map50_95 of {name}": one for name, one in zip(classes, value or (), strict=False)}
        elif key in PAIRS:
            low, high = value or (None, None)
            cells |= {f"{key}_low": low, f"{key}_high": high}
        elif key == "corruption_drops":
            cells |= {f"corruption_drop_{name}": one for name, one in value or ()}
        elif key == "corrupted_map50_95":
            cells |= {f"map50_95_{name}_{severity}": one for name, severity, one in value or ()}
        elif key != "energy":
            cells[key] = value
    energy = row.get("energy")
    for key, value in energy.items() if isinstance(energy, Mapping) else ():
        if key != "settings":
            cells[f"energy_{key}"] = "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return cells


def _plain_cells(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: " ".join(map(str, value)) if isinstance(value, list | tuple) else value for key, value in layer.items()
    }
