# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The instruments: accuracy by the COCO protocol, paired latency, throughput and memory of any mix of artifacts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolo_compress.bench.result import BenchResult, BenchRow, Candidate
    from yolo_compress.bench.run import run_bench

__all__ = ("BenchResult", "BenchRow", "Candidate", "run_bench")


def __getattr__(name: str) -> Any:
    """Load a public name at first use: the process that measures memory imports this package and must stay small."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    home = "run" if name == "run_bench" else "result"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
