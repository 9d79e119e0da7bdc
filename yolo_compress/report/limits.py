# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What is scarce where a detector is deployed, and the limits that a user sets.

Three deployments are told apart, and each has one figure that counts: size on a microcontroller-like device, latency of
one image on an edge accelerator, images per second on a server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from yolo_compress.artifacts import MEGABYTE
from yolo_compress.errors import UsageError

Row = Mapping[str, Any]
Kind = Literal["chosen", "refused", "not measured", "too slow", "too large", "too inaccurate", "beaten"]


@dataclass(frozen=True)
class Limits:
    """What the user allows: milliseconds at the median, size in MB of 2^20 bytes, mAP50-95 points below the first one.

    `latency_ms` is for the edge accelerator, `size_mb` for the microcontroller, `max_drop` for all deployments.
    """

    latency_ms: float | None = None
    size_mb: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits that nothing can be held to.

        Raises:
            UsageError: One is not above 0.
        """
        for field, key in (("latency_ms", "latency"), ("size_mb", "size"), ("max_drop", "max_drop")):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise UsageError(f"{key}={value:g} allows nothing; give a number above 0, or leave it out")

    @classmethod
    def of(cls, bench: Mapping[str, Any]) -> Limits:
        """Return the limits that a benchmark was given."""
        kept = (bench.get("settings") or {}).get("limits") or {}
        return cls(**{field.name: kept.get(field.name) for field in fields(cls)})

    def over(self, other: Limits) -> Limits:
        """Return these limits, and those of `other` where this one has none."""
        both = {f.name: getattr(self, f.name) for f in fields(self)}
        return Limits(**{name: getattr(other, name) if value is None else value for name, value in both.items()})


@dataclass(frozen=True)
class Measure:
    """A figure of a row: its value or None, how to write it, and the limit that it has to keep to."""

    value: Callable[[Row], float | None]
    text: Callable[[float], str]
    limit: Callable[[Limits], float | None]
    kind: Kind = "too slow"
    phrase: str = "takes"


@dataclass(frozen=True)
class Deployment:
    """A class of devices: the figure that is scarce there, and the words for having less of it."""

    name: str
    cost: Measure
    better: str
    best: str


def _drop(row: Row) -> float | None:
    value = row.get("drop")
    return None if value is None else 100 * value


def _latency(row: Row) -> float | None:
    return row.get("latency_ms_p50")


def megabytes(row: Row) -> float | None:
    """Return the size of a row's file or folder, None where it is not known."""
    value = row.get("size_bytes")
    return None if value is None else value / MEGABYTE


def _seconds_per_image(row: Row) -> float | None:
    rates = [row.get(key) for key in ("throughput_images_per_s", "batch_throughput_images_per_s")]
    known = [rate for rate in rates if rate]
    return 1 / max(known) if known else None


SIZE = Measure(megabytes, lambda v: f"{v:.2f} MB", lambda given: given.size_mb, "too large", "has")
LATENCY = Measure(_latency, lambda v: f"{v:.2f} ms", lambda given: given.latency_ms)
RATE = Measure(_seconds_per_image, lambda v: f"{1 / v:.1f} images/s", lambda _: None, phrase="gives")
DROP = Measure(
    _drop, lambda v: f"{v:.2f} points", lambda given: given.max_drop, "too inaccurate", "is below the first by"
)
DEPLOYMENTS = (
    Deployment("Microcontroller (size)", SIZE, "smaller", "the smallest"),
    Deployment("Edge accelerator (latency of one image)", LATENCY, "faster", "the fastest"),
    Deployment("Server (throughput)", RATE, "of higher throughput", "the one of highest throughput"),
)
