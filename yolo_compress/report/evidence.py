# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a report says of accuracy beyond one number: by size, what the images can tell, kinds of errors, robustness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_compress.bench.result import ERROR_KINDS, STAT_NAMES
from yolo_compress.report.content import ABSENT, Table, number

SIZES = ("map_small", "map_medium", "map_large", "recall_100")
SIZE_TITLES = ("mAP small", "mAP medium", "mAP large", "Recall of 100")


def undecided(bench: Mapping[str, Any]) -> list[str]:
    """Return a sentence per candidate that the images cannot tell from the first one."""
    first = bench["rows"][0].get("label", ABSENT)
    found = []
    for row in bench["rows"]:
        interval = row.get("map50_95_difference_interval")
        if row.get("map50_95_difference") is None or not interval or not interval[0] <= 0 <= interval[1]:
            continue
        value, low, high = (100 * part for part in (row["map50_95_difference"], *interval))
        found.append(
            f"{row['label']}: these {bench.get('images', ABSENT)} images cannot tell its accuracy from that of "
            f"{first}. The difference of {value:+.2f} points has a 95 % interval from {low:+.2f} to {high:+.2f}, "
            "which includes zero."
        )
    return found


def sizes_table(bench: Mapping[str, Any]) -> Table | None:
    """Return mAP50-95 by size of the objects and the recall of each candidate, or None where not recorded."""
    rows = [row for row in bench["rows"] if len(row.get("stats") or ()) == len(STAT_NAMES)]
    if not rows:
        return None
    places = [STAT_NAMES.index(name) for name in SIZES]
    lines = tuple((str(row["label"]), *(number(row["stats"][i], 2, scale=100) for i in places)) for row in rows)
    return Table(("Candidate", *SIZE_TITLES), lines)


def errors_table(bench: Mapping[str, Any]) -> Table | None:
    """Return the points of AP50 that mending each kind of error would gain, with the number of errors, or None."""
    rows = [row for row in bench["rows"] if len(row.get("error_gains") or ()) == len(ERROR_KINDS)]
    if not rows:
        return None
    lines = []
    for row in rows:
        counts = row.get("error_counts") or (None,) * len(ERROR_KINDS)
        cells = [
            number(gain, 2, scale=100) + ("" if count is None else f" ({count})")
            for gain, count in zip(row["error_gains"], counts, strict=True)
        ]
        lines.append((str(row["label"]), number(row.get("map50"), 2, scale=100), *cells))
    return Table(("Candidate", "mAP50", *(kind.capitalize() for kind in ERROR_KINDS)), tuple(lines))


def robustness_table(bench: Mapping[str, Any]) -> Table | None:
    """Return by corruption the share of mAP50-95 that each candidate loses, in percent, or None where not measured."""
    rows = [row for row in bench["rows"] if row.get("corruption_drops")]
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name, _ in row["corruption_drops"]))
    lines = []
    for row in rows:
        drops = dict(row["corruption_drops"])
        known = [drop for drop in drops.values() if drop is not None]
        mean = sum(known) / len(known) if known else None
        shares = [number(drop, 1, scale=100) for drop in (mean, *(drops.get(name) for name in names))]
        lines.append((str(row["label"]), number(row.get("clean_map50_95"), 2, scale=100), *shares))
    titles = (name.replace("_", " ").capitalize() for name in names)
    return Table(("Candidate", "Clean mAP50-95", "Mean", *titles), tuple(lines))


def how(bench: Mapping[str, Any]) -> list[str]:
    """Return how the evidence that is there was measured, one sentence per item."""
    settings, rows = bench.get("settings") or {}, bench["rows"]
    found = []
    if any(row.get("map50_95_difference_interval") for row in rows):
        found.append(
            "Differences of mAP50-95 are to the first candidate on the same images; the 95 % interval is that of "
            f"{settings.get('bootstrap_resamples', ABSENT)} resamples of the images, the same for both. It says what "
            "other images of the same kind might show, and nothing about images of another kind."
        )
    if errors_table(bench):
        found.append(
            "Errors are those of TIDE at IoU 0.5 (background below 0.1): points of mAP50 that mending each kind alone "
            "would gain, with the number of errors, most of which have a score that no one would use."
        )
    if any(row.get("roofline") for row in rows):
        found.append(
            "Roofline (Williams, Waterman and Patterson 2009): a layer takes at least the longer of operations over "
            "the measured peak and bytes over the measured bandwidth. Bytes are weights, inputs and outputs at the "
            "precision of the layer, each once; times are those of the runtime's profile, which slows it down. A share "
            "above 100 % means that values came from a cache."
        )
    if any(row.get("corruption_drops") for row in rows):
        spoilt = next(row["corrupted_map50_95"] for row in rows if row.get("corrupted_map50_95"))
        severities = ", ".join(map(str, dict.fromkeys(severity for _, severity, _ in spoilt)))
        found.append(
            f"Robustness: {settings.get('robustness_images', ABSENT)} of these images, corrupted before they are "
            f"letterboxed, at severities {severities}; the mean over severities of the share of the clean mAP50-95 "
            "that is lost."
        )
    return found
