# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a report says of the folds of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from yolo_compress.bench.folds import FoldFigures, fold_figures
from yolo_compress.report.content import ABSENT, Table, number


def folds_table(folds: Mapping[str, Any]) -> Table:
    """Return a line for each candidate: means over folds, their spread, and the difference to the first one."""
    header = (
        "Candidate",
        "Folds",
        "mAP50-95",
        "Between folds (sd)",
        "mAP50-95 to first",
        "Ratio to first",
        "Ratio (sd)",
    )
    lines = tuple(
        (
            one.label,
            f"{one.folds} of {folds['folds']}",
            number(one.map50_95, 2, scale=100),
            number(one.map50_95_deviation, 2, scale=100),
            _difference(one),
            number(one.latency_ratio_p50, 3),
            number(one.latency_ratio_deviation, 3),
        )
        for one in _figures(folds)
    )
    return Table(header, lines)


def fold_cells(folds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the same for CSV, not rounded, with the accuracy of each fold; accuracies are shares of 1."""
    found = []
    for one in _figures(folds):
        cells = dataclasses.asdict(one)
        low, high = cells.pop("map50_95_difference_interval") or (None, None)
        measured = iter(cells.pop("map50_95_by_fold"))
        by_fold = {f"map50_95_fold_{run['number']}": next(measured) if run["bench"] else None for run in folds["runs"]}
        found.append({**cells, "map50_95_difference_low": low, "map50_95_difference_high": high, **by_fold})
    return found


def fold_notes(folds: Mapping[str, Any]) -> list[str]:
    """Return why folds have no figures, or not all of them, and what their stages had to say."""
    found = []
    for run in folds["runs"]:
        said = [f"{run['state']}: {run['error']}"] if run["error"] else []
        for row in (run["bench"] or {"rows": ()})["rows"]:
            if row["status"] == "refused":
                said.append(f"{row['label']} has no part, since {row.get('reason') or 'no reason was recorded'}")
        found += [f"fold {run['number']}: {note}" for note in dict.fromkeys([*said, *run["notes"]])]
    return found


def folds_method(folds: Mapping[str, Any]) -> list[str]:
    """Return how the folds came about and what their figures mean."""
    ended, count = len(folds["runs"]), folds["folds"]
    return [
        f"Cross-validated: the {folds['images']} training and validation images were put together and cut into {count} "
        f"folds, in which each class is about as frequent. {'All' if ended == count else ended} of them have been run: "
        "the recipe on the images of the other folds, measured on images that its training and calibration did not "
        "use. The weights that were given have seen theirs, in whichever fold they are, so that what is trained anew "
        "looks worse beside them than it is.",
        "The interval of a difference over folds is that of Nadeau and Bengio (2003) at 95 %, since folds share most "
        "of their training images.",
    ]


def _figures(folds: Mapping[str, Any]) -> list[FoldFigures]:
    return fold_figures([run["bench"] for run in folds["runs"] if run["bench"]], folds["folds"])


def _difference(one: FoldFigures) -> str:
    if one.map50_95_difference is None:
        return ABSENT
    interval = one.map50_95_difference_interval
    shown = f" [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]" if interval else ""
    return f"{100 * one.map50_95_difference:+.2f}{shown}"
