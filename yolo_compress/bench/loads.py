# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Candidates that are loaded several times in one benchmark, so that no single load decides how fast one is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from yolo_compress.bench.latency import (
    SYSTEM,
    Infer,
    Timings,
    Watch,
    quiet_rounds,
    time_alternately,
    widest_margin,
)
from yolo_compress.engines.protocol import Session

LOADS = 4  # that the rounds asked for are spread over
MOST = 4  # times as many rounds as asked for, at most
FEWEST_QUIET = 8  # of the rounds of a load, that ratios are taken of


class Loaded:
    """Sessions of several candidates that can be closed and loaded anew.

    Where a runtime happens to place weights and threads makes a session some per cent faster or slower for as long as
    it lives.
    """

    def __init__(self, loaders: Sequence[Callable[[], Session]]) -> None:
        self._loaders = tuple(loaders)
        self._open: dict[int, Session] = {}
        self._turns = 0
        self.load()

    @property
    def sessions(self) -> list[Session]:
        """The sessions as they are now, in the order of the candidates."""
        return [self._open[index] for index in range(len(self._loaders))]

    def load(self) -> None:
        """Close what is open and load every candidate, the last one first in every other turn."""
        self.close()
        places = range(len(self._loaders))
        try:
            for index in places if self._turns % 2 == 0 else reversed(places):
                self._open[index] = self._loaders[index]()
        except BaseException:
            self.close()
            raise
        self._turns += 1

    def close(self) -> None:
        """Close all sessions that are open."""
        while self._open:
            self._open.popitem()[1].close()


def time_over_loads(
    loaded: Loaded,
    candidates: Sequence[int],
    prepare: Callable[[int], np.ndarray],
    *,
    finish: Callable[[np.ndarray], object],
    rounds: int,
    warmup: int,
    margin: float = 0.0,
    settle_ms: float = 0.0,
    lead_s: float = 0.0,
    gate: Callable[[], bool] | None = None,
    watch: Watch = SYSTEM,
    progress: Callable[[str], None] = lambda _: None,
) -> Timings:
    """Time candidates in turns as `time_alternately` does, the rounds spread over several loads of all of them.

    Args:
        loaded: The sessions; the first part is timed with those that are open, and the last ones stay open.
        candidates: Which of them to time.
        prepare: As in `time_alternately`.
        finish: As in `time_alternately`.
        rounds: Rounds that count, rounded up to a multiple of `LOADS`.
        warmup: Rounds before them that do not, spread over the loads as well.
        margin: As many rounds are added, up to `MOST` times in all, until the interval of each ratio to the first
            candidate ends within this share of its median; 0 adds none.
        settle_ms: As in `time_alternately`.
        lead_s: As in `time_alternately`.
        gate: As in `time_alternately`.
        watch: What tells the time.
        progress: Takes a line now and then.
    """
    share, before = -(-rounds // LOADS), -(-warmup // LOADS)
    parts: list[Timings] = []
    for _ in range(MOST if margin else 1):
        for _ in range(LOADS):
            if parts:
                loaded.load()
            sessions = loaded.sessions
            infer: list[Infer] = [sessions[index].infer for index in candidates]
            parts.append(
                time_alternately(
                    infer,
                    prepare,
                    finish=finish,
                    rounds=share,
                    warmup=before,
                    first=len(parts) * share,
                    settle_ms=settle_ms,
                    lead_s=lead_s,
                    gate=gate,
                    watch=watch,
                    progress=progress,
                )
            )
        quiet = [
            index * share + quiet_rounds(part.inference, FEWEST_QUIET, part.disturbed)
            for index, part in enumerate(parts)
        ]
        made = _joined(parts, np.concatenate(quiet))
        if (reached := widest_margin(made.inference[made.quiet])) <= margin:
            break
        if margin:
            progress(f"latency: after {len(made.inference)} rounds, ratios are known to {100 * reached:.1f} %")
    return made


def _joined(parts: Sequence[Timings], quiet: np.ndarray) -> Timings:
    return Timings(
        np.concatenate([part.preprocess for part in parts]),
        np.concatenate([part.inference for part in parts]),
        np.concatenate([part.postprocess for part in parts]),
        np.concatenate([part.disturbed for part in parts]),
        sum(part.restless for part in parts),
        quiet,
    )
