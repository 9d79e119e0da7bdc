# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Many runs of a recipe with other values each: a grid or a search, here or on a cluster, in one Pareto report."""

from __future__ import annotations

from yolo_compress.sweep.run import SweepResult, resume, start
from yolo_compress.sweep.search import OBJECTIVES, SEARCHES, SearchOptions
from yolo_compress.sweep.space import Space, read_space

__all__ = ("OBJECTIVES", "SEARCHES", "SearchOptions", "Space", "SweepResult", "read_space", "resume", "start")
