# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Two artifacts of one runtime against each other: what decides whether a latency is met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from yolo_compress.bench.latency import time_alternately
from yolo_compress.engines.protocol import Engine, Session

ROUNDS = 200
WARMUP = 10
SESSIONS = 4  # that the rounds of a comparison are spread over
SETTLE_MS = 2.0


def paired_seconds(
    engine: Engine,
    reference: Path,
    other: Path,
    image: np.ndarray,
    *,
    rounds: int = ROUNDS,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> np.ndarray:
    """Return seconds of both artifacts, (rounds, 2), each row taken in one round.

    Where a runtime happens to place weights and threads makes a session a percent or two faster or slower for as long
    as it lives. So both artifacts are loaded several times, each time the other one first.

    Args:
        engine: What loads both.
        reference: The first column.
        other: The second column.
        image: (1, 3, H, W), float32 in 0 to 1.
        rounds: Timed rounds, rounded up to a multiple of `SESSIONS`.
        threads: Of the runtime; all cores when not given.
        progress: Takes a line now and then.
    """
    parts = []
    for index in range(SESSIONS):
        sessions: dict[Path, Session] = {}
        try:
            for path in (other, reference) if index % 2 else (reference, other):
                sessions[path] = engine.load(path, threads=threads)
            timings = time_alternately(
                [sessions[reference].infer, sessions[other].infer],
                lambda index: image,
                finish=lambda raw: None,
                rounds=-(-rounds // SESSIONS),
                warmup=WARMUP,
                settle_ms=SETTLE_MS,
                progress=progress,
            )
        finally:
            for session in sessions.values():
                session.close()
        parts.append(timings.inference)
    return np.concatenate(parts)


def noise_image(imgsz: int) -> np.ndarray:
    """Return noise (1, 3, imgsz, imgsz), the same each time: how long a detector takes does not depend on the image."""
    return np.random.default_rng(0).random((1, 3, imgsz, imgsz), dtype=np.float32)
