# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Energy of each candidate, apart from the timed rounds: the thread that reads the sensor would disturb those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from yolo_compress.bench.latency import Infer, rest
from yolo_compress.bench.power import Sensor, find_sensor
from yolo_compress.bench.power.meter import EnergyMeter, NotMeasured
from yolo_compress.bench.result import BenchRow
from yolo_compress.bench.sysfs import unavailable
from yolo_compress.bench.throttle import ThrottleWatch

POWER_SECONDS = 30.0
IDLE_SHARE, MOST_IDLE_S = 1 / 3, 10.0  # idle power is measured for a third of the time, at most so long
SETTLE_S = 2.0  # for what the candidate before left running, and for clocks to fall
REST_MS = 5.0


def measure_energies(
    rows: Sequence[BenchRow],
    infer: Sequence[Infer],
    inputs: Sequence[np.ndarray],
    *,
    device: str,
    seconds: float = POWER_SECONDS,
    progress: Callable[[str], None] = lambda _: None,
    root: Path = Path("/"),
) -> tuple[list[BenchRow], tuple[str, ...]]:
    """Return the rows with their energies, and notes that concern all of them.

    Args:
        rows: Candidates; one that is refused gets no energy.
        infer: What runs each candidate.
        inputs: Prepared inputs (1, 3, H, W), used in turn.
        device: Where the engines run; it decides which sensor fits.
        seconds: How long each candidate runs.
        progress: Takes a line now and then.
        root: Where `sys` lies.
    """
    sensor = find_sensor(device, root=root)
    if isinstance(sensor, str):
        told = [replace(row, energy=sensor) if row.status == "ok" else row for row in rows]
        return told, (f"energy {sensor}",)
    try:
        sensor.open()
    except OSError as error:
        reason = unavailable(f"{sensor.name}: {error}")
        return [replace(row, energy=reason) if row.status == "ok" else row for row in rows], (f"energy {reason}",)
    try:
        return [
            row
            if row.status != "ok"
            else _measured(row, run, inputs, sensor, device=device, seconds=seconds, progress=progress, root=root)
            for row, run in zip(rows, infer, strict=True)
        ], ()
    finally:
        sensor.close()


def _measured(
    row: BenchRow,
    run: Infer,
    inputs: Sequence[np.ndarray],
    sensor: Sensor,
    *,
    device: str,
    seconds: float,
    progress: Callable[[str], None],
    root: Path,
) -> BenchRow:
    idle_seconds = min(MOST_IDLE_S, seconds * IDLE_SHARE)
    progress(f"bench: energy of {row.label}: {idle_seconds:g} s idle, then {seconds:g} s at work")
    images = cycle(inputs)

    def one() -> int:
        run(next(images))
        return 1

    rest(REST_MS)
    meter = EnergyMeter(sensor, watch=partial(ThrottleWatch, root, gpu=device != "cpu"))
    meter.pause(min(SETTLE_S, idle_seconds))
    try:
        energy = meter.measure(one, seconds=seconds, idle_seconds=idle_seconds)
    except NotMeasured as error:
        reason = unavailable(f"{sensor.name}: {error}")
        return replace(row, energy=reason, notes=(*row.notes, f"energy {reason}"))
    return replace(row, energy=energy, notes=(*row.notes, *(f"energy: {note}" for note in energy.notes)))
