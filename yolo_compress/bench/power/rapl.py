# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The energy counters of x86 processors (RAPL), read from the kernel's powercap files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_compress.bench.sysfs import read, whole_number

FOLDER = "sys/class/powercap"
ZONES = "intel-rapl:*"  # AMD's counters come under the same name


class Rapl:
    """Joules of all processor packages together since this was opened.

    A counter starts again at 0 after `max_energy_range_uj`, which takes minutes, so it has to be read more often.
    """

    name = "rapl"
    counts = True
    period_s: float | None = None

    def __init__(self, *, device: str = "cpu", root: Path = Path("/")) -> None:
        self._folder = root / FOLDER
        self._zones: list[Path] = []
        self._ranges: list[int] = []
        self._last: list[int] = []
        self._joules = 0.0

    @staticmethod
    def covers(device: str) -> bool:
        """Return whether engines run on the processor."""
        return device == "cpu"

    @property
    def measures(self) -> str:
        """The packages that are counted."""
        count = len(self._zones or _packages(self._folder))
        return f"{count} processor package{'' if count == 1 else 's'}; memory and the rest of the machine are not part"

    def unavailable(self) -> str | None:
        """Return why there is no counter that this user may read."""
        if not _packages(self._folder):
            return f"no {ZONES} package in {self._folder}: not such a processor, a virtual machine, or no driver"
        try:
            self.open()
        except PermissionError as error:
            return f"{error}; only root may read it since kernel 5.10"
        except (OSError, ValueError) as error:
            return str(error)
        return None

    def settings(self) -> dict[str, Any]:
        """Return the packages."""
        return {"packages": ", ".join(str(read(zone / "name")) for zone in self._zones)}

    def open(self) -> None:
        """Start counting from 0."""
        self._zones = _packages(self._folder)
        self._ranges = [whole_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = [whole_number(zone / "energy_uj") for zone in self._zones]
        self._joules = 0.0

    def read(self) -> float:
        """Return joules since it was opened."""
        now = [whole_number(zone / "energy_uj") for zone in self._zones]
        for value, last, span in zip(now, self._last, self._ranges, strict=True):
            self._joules += elapsed(value, last, span) / 1e6
        self._last = now
        return self._joules

    def signs(self) -> tuple[str, ...]:
        """Return nothing: the files of the kernel tell, which are watched anyway."""
        return ()

    def close(self) -> None:
        """Do nothing: no file stays open."""


def elapsed(now: int, last: int, span: int) -> int:
    """Return what a counter that starts again at 0 after `span` has counted since its last reading."""
    return now - last if now >= last else now - last + span


def _packages(folder: Path) -> list[Path]:
    # intel-rapl:0 is a package or the whole board (psys), intel-rapl:0:0 a part of it
    zones = (zone for zone in sorted(folder.glob(ZONES)) if zone.name.count(":") == 1)
    return [zone for zone in zones if str(read(zone / "name")).startswith("package")]
