# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The rows of a benchmark with what is known of accuracy: one matching, and all that is read off it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from yolo_compress.artifacts import sha256_path, size_bytes
from yolo_compress.bench import accuracy
from yolo_compress.bench.bootstrap import paired_differences
from yolo_compress.bench.confidence import confidence
from yolo_compress.bench.error_kinds import error_kinds
from yolo_compress.bench.result import BenchRow, Candidate
from yolo_compress.bench.yolo_val import match_all, yolo_val_map50_95
from yolo_compress.engines.protocol import Session
from yolo_compress.host.checkpoint import count, load_model
from yolo_compress.host.data import DataSpec


def accuracy_rows(
    candidates: Sequence[Candidate],
    sessions: Sequence[tuple[str, Session]],
    data: DataSpec,
    images: Sequence[Path],
    *,
    imgsz: int,
    witness: Callable[[Sequence[Path], Sequence[accuracy.Detections]], None] | None = None,
    progress: Callable[[str], None],
) -> tuple[list[BenchRow], int]:
    """Measure the accuracy of every candidate on the same images; speed is added to the rows later.

    Args:
        candidates: Files; differences are to the first.
        sessions: Name of the runtime and loaded session of each.
        data: The data set that the images are of.
        images: Image files.
        imgsz: Side of the square input in pixels.
        witness: Takes the images and what each candidate found on them.
        progress: Takes a line now and then.

    Returns:
        A row per candidate, and the number of objects.

    Raises:
        DataError: No image has an object, or one cannot be read.
    """
    progress(f"bench: accuracy of {len(sessions)} candidates on {len(images)} images")
    truth, found = accuracy.detect([session for _, session in sessions], images, imgsz=imgsz, progress=progress)
    if witness is not None:
        witness(images, found)
    matches = [accuracy.matched(truth, detections, classes=len(data.names)) for detections in found]
    rows = []
    for candidate, (engine, session), detections, one in zip(candidates, sessions, found, matches, strict=True):
        measured = accuracy.summarize(one)
        kinds = error_kinds(truth, detections, one)
        describe = dict(session.describe())
        correct = match_all(truth, detections)
        scores = confidence(truth, detections, correct)
        params, gflops = count(load_model(candidate.path), imgsz) if engine == "pytorch" else (None, None)
        rows.append(
            BenchRow(
                label=candidate.label,
                path=str(candidate.path),
                origin=candidate.origin,
                engine=engine,
                precision=str(describe["precision"]),
                sha256=sha256_path(candidate.path),
                size_bytes=describe.get("size_bytes") or size_bytes(candidate.path),
                params=params,
                gflops=gflops,
                map50_95=measured.map50_95,
                map50=measured.map50,
                yolo_val_map50_95=yolo_val_map50_95(truth, detections, correct),
                stats=measured.stats,
                class_map50_95=measured.per_class,
                detections=detections.count,
                images_not_finite=detections.not_finite,
                f1=scores.f1,
                f1_threshold=scores.f1_threshold,
                calibration_error=scores.calibration_error,
                error_gains=kinds.gains(),
                error_counts=kinds.counts(),
                describe=describe,
            )
        )
    for index, difference in enumerate(paired_differences(matches), start=1):
        rows[index] = replace(
            rows[index],
            map50_95_difference=difference.value,
            map50_95_difference_interval=difference.interval,
            map50_95_difference_below_zero=difference.below_zero,
            map50_95_intervals=tuple(
                (before.label, *pair) for before, pair in zip(rows[:index], difference.against[:index], strict=False)
            ),
        )
    return rows, truth.count
