# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Power sensors behind one protocol, one file each and one line here each, and the meter that integrates them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from yolo_compress.bench.power.jetson_stats import JetsonStats
from yolo_compress.bench.power.nvml import Nvml
from yolo_compress.bench.power.rails import Rails
from yolo_compress.bench.power.rapl import Rapl
from yolo_compress.bench.power.sensor import Sensor, SensorClass
from yolo_compress.bench.power.tegrastats import Tegrastats
from yolo_compress.bench.sysfs import unavailable

__all__ = ("SENSORS", "Sensor", "examine_sensors", "find_sensor")

# in this order: what is read without help and with the best resolution first
SENSORS: dict[str, SensorClass] = {
    "rails": Rails,
    "tegrastats": Tegrastats,
    "jetson-stats": JetsonStats,
    "nvml": Nvml,
    "rapl": Rapl,
}


def find_sensor(device: str, *, root: Path = Path("/")) -> Sensor | str:
    """Return the first sensor that covers what runs on `device`, or why there is none.

    Args:
        device: Where the engines run: cpu, or the number of a CUDA device.
        root: Where `sys` lies.

    Returns:
        A sensor that is not open yet, or "unavailable: " and what is in the way of each one.
    """
    reasons = []
    for name, kind in SENSORS.items():
        if not kind.covers(device):
            continue
        sensor = kind(device=device, root=root)
        reason = sensor.unavailable()
        if reason is None:
            return sensor
        reasons.append(f"{name}: {reason}")
    return unavailable("; ".join(reasons))


def examine_sensors(*, root: Path = Path("/")) -> Iterator[tuple[str, str]]:
    """Yield every sensor with what it measures here, or why it cannot."""
    for name, kind in SENSORS.items():
        device = "cpu" if kind.covers("cpu") else "0"
        sensor = kind(device=device, root=root)
        reason = sensor.unavailable()
        yield name, unavailable(reason) if reason else f"ready: {sensor.measures}"
