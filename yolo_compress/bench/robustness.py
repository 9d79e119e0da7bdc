# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What spoilt images cost each candidate: compression that survives clean images only is shown to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yolo_compress.bench import accuracy
from yolo_compress.bench.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from yolo_compress.bench.result import BenchRow
from yolo_compress.engines.protocol import Session
from yolo_compress.errors import UsageError, entry_of


@dataclass(frozen=True)
class Conditions:
    """What accuracy is measured under as well.

    Raises:
        UsageError: There is no such corruption or severity, one is named twice, or there are none.
    """

    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    severities: tuple[int, ...] = SEVERITIES
    images: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in self.corruptions:
            entry_of(CORRUPTIONS, "corruptions", name)
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise UsageError(f"severity {severity} does not exist; give 1 to 5, such as severities=1,3,5")
        for what, given in (("corruptions", self.corruptions), ("severities", self.severities)):
            if not given or len(set(given)) < len(given):
                raise UsageError(f"{what}={','.join(map(str, given))} has to name some, and each once")


def under_corruption(
    rows: Sequence[BenchRow],
    sessions: Sequence[Session],
    images: Sequence[Path],
    conditions: Conditions,
    *,
    classes: int,
    imgsz: int,
    progress: Callable[[str], None],
) -> list[BenchRow]:
    """Measure the candidates that are not refused on the same images, clean and under each corruption and severity.

    Raises:
        DataError: None of the images has an object, or one cannot be read.
    """
    kept = [index for index, row in enumerate(rows) if row.status == "ok"]
    settings = [(name, severity) for name in conditions.corruptions for severity in conditions.severities]
    rows = list(rows)

    def measure(change: Callable | None) -> list[float]:
        truth, found = accuracy.detect([sessions[i] for i in kept], images, imgsz=imgsz, change=change)
        return [accuracy.evaluate(truth, one, classes=classes).map50_95 for one in found]

    if not kept:
        return rows
    progress(f"bench: robustness of {len(kept)} candidates on {len(images)} images in {len(settings)} conditions")
    clean = measure(None)
    spoilt = []
    for name, severity in settings:
        progress(f"bench: {name}, severity {severity}")
        spoilt.append(measure(lambda image, name=name, severity=severity: corrupt(image, name, severity)))
    for column, index in enumerate(kept):
        found = tuple((*setting, values[column]) for setting, values in zip(settings, spoilt, strict=True))
        rows[index] = replace(
            rows[index],
            clean_map50_95=clean[column],
            corrupted_map50_95=found,
            corruption_drops=relative_drops(clean[column], found),
        )
    return rows


def relative_drops(clean: float, spoilt: Sequence[tuple[str, int, float]]) -> tuple[tuple[str, float | None], ...]:
    """Return by corruption the mean over severities of `(clean - spoilt) / clean`; None where nothing can drop."""
    found: dict[str, list[float]] = {}
    for name, _, value in spoilt:
        found.setdefault(name, []).append(value)
    return tuple((name, 1 - sum(values) / len(values) / clean if clean > 0 else None) for name, values in found.items())
