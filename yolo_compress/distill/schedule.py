# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How the weight of a loss, and the choice of a teacher, move over a run."""

from __future__ import annotations

import math


def falling(schedule: str, progress: float) -> float:
    """Return the share of a weight that is left.

    Args:
        schedule: constant, linear (to 0), or cosine (half a period, from 1 to 0).
        progress: How much of the run is done, in 0 to 1.
    """
    if schedule == "constant":
        return 1.0
    return 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2


def rising(warmup: float, progress: float) -> float:
    """Return the share of a weight that is reached, in a line from 0 over the first `warmup` of the run."""
    return 1.0 if progress >= warmup else progress / warmup


def turn(teachers: int, progress: float) -> int:
    """Return whose turn it is in a chain of teachers, each of which has the same share of the run."""
    return min(int(progress * teachers), teachers - 1)
