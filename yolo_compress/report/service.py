# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a report says of a candidate in service: how it is built and starts, and what it carries at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yolo_compress.report.content import ABSENT, Column, Row, Table, number


def service_table(bench: Mapping[str, Any], run: Mapping[str, Any] | None) -> Table | None:
    """Return build and start times, and images/s in batches and streams; None where nothing of it was measured.

    A column in which no candidate has a value is left out.
    """
    built = _build_seconds(run)
    batch = (bench.get("settings") or {}).get("batch")
    columns = (
        Column("Build (s)", lambda row: number(built.get(str(row.get("label"))))),
        Column("Load (ms)", lambda row: number(row.get("load_ms"), 0)),
        Column("First inference (ms)", lambda row: number(row.get("first_inference_ms"), 0)),
        Column(f"Images/s at batch {batch}", lambda row: number(row.get("batch_throughput_images_per_s"))),
        Column("Streams", lambda row: _streams(row, "count", 0)),
        Column("Threads of each", lambda row: _streams(row, "threads", 0)),
        Column("Images/s of all", lambda row: _streams(row, "images_per_s", 1)),
        Column("p50 in a stream (ms)", lambda row: _streams(row, "latency_ms_p50", 2)),
        Column("p95 in a stream (ms)", lambda row: _streams(row, "latency_ms_p95", 2)),
    )
    shown = [column for column in columns if any(column.show(row) != ABSENT for row in bench["rows"])]
    if not shown:
        return None
    return Table(
        ("Candidate", *(column.title for column in shown)),
        tuple((str(row["label"]), *(column.show(row) for column in shown)) for row in bench["rows"]),
    )


def service_method(bench: Mapping[str, Any]) -> list[str]:
    """Return how what is there was measured, one sentence per item."""
    rows, found = bench["rows"], []
    if any(row.get("load_ms") is not None for row in rows):
        found.append(
            "Load and first inference: one observation in a fresh process, from the file, which the system may hold in "
            "its cache, to a session, the runtime's libraries included, and then the first image."
        )
    if any(row.get("streams") for row in rows):
        found.append(
            "Streams: so many sessions in one process, each fed without a pause by a thread of its own, the cores "
            "shared out between them; images/s of all together, and the time of one inference beside the others."
        )
    return found


def _build_seconds(run: Mapping[str, Any] | None) -> dict[str, float]:
    """Return how long each engine of a run took to build, by its label in the benchmark."""
    ending = " build_seconds"
    return {
        f"ours:{key.removesuffix(ending)}": seconds
        for stage in (run or {}).get("stages") or ()
        for key, seconds in (stage.get("metrics") or {}).items()
        if key.endswith(ending)
    }


def _streams(row: Row, key: str, digits: int) -> str:
    return number((row.get("streams") or {}).get(key), digits)
