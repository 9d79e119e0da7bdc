# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a session on a GPU tells about the time of one query: its parts, by the device's clock and the host's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class QueryTimes:
    """One query: host time to queue the work, and device time of the work and of the copies before and after it."""

    enqueue_ms: float
    compute_ms: float
    upload_ms: float
    download_ms: float


@runtime_checkable
class TimedSession(Protocol):
    """A session that can say more than how long `infer` took."""

    def timed_infer(self, images: np.ndarray) -> QueryTimes:
        """Run one query (N, 3, H, W), float32, and wait for it."""
        ...

    def queued_infer(self, images: np.ndarray, queries: int) -> float:
        """Queue a query so many times without waiting in between; return the seconds from first to last."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what `Session.describe` does, with `pci_bus_id` and `graph`."""
        ...
