# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The supply rails of a Jetson, read from its power monitors (INA3221, INA238) through the kernel's hwmon files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress.bench.power.sensor import connected, meaning_of_total, rails_of_total
from yolo_compress.bench.sysfs import is_unavailable, read, whole_number

CHIPS = ("ina3221", "ina238")
PLACES = ("sys/class/hwmon/hwmon*", "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")
SUMMED = 7  # the channel of an INA3221 that holds the sum of its shunt voltages, which is no rail


@dataclass(frozen=True)
class Rail:
    """One rail: its label, how watts are read, and the folder of its chip."""

    name: str
    watts: Callable[[], float]
    chip: Path


class Rails:
    """Total power as the input rail, or else as the sum of the rails.

    The power of a channel is its bus voltage in millivolt times its current in milliampere (kernel, hwmon/ina3221); an
    INA238 gives microwatt itself.
    """

    name = "rails"
    counts = False

    def __init__(self, *, device: str = "cpu", root: Path = Path("/")) -> None:
        self._root = root
        self._rails: dict[str, Rail] | None = None

    @staticmethod
    def covers(device: str) -> bool:
        """Return True: the rails feed processor and GPU."""
        return True

    @property
    def measures(self) -> str:
        """The rails that are counted."""
        return meaning_of_total(rails_of_total(self._found()))

    @property
    def period_s(self) -> float | None:
        """The slowest conversion time of the chips that are counted; None where it is not told."""
        times = [read(chip / "update_interval", int) for chip in self._chips()]
        return max(times) / 1e3 if times and not any(map(is_unavailable, times)) else None

    def unavailable(self) -> str | None:
        """Return why no total can be read."""
        found = self._found()
        if not found:
            places = " or ".join(str(self._root / place.partition("*")[0].rpartition("/")[0]) for place in PLACES)
            return f"no {' or '.join(CHIPS)} with a named rail below {places}"
        try:
            self.read()
        except (OSError, ValueError) as error:
            return str(error)
        return None

    def settings(self) -> dict[str, Any]:
        """Return every rail that was found and how its chip averages."""
        return {
            "rails_found": ", ".join(self._found()),
            "update_interval_ms": ", ".join(str(read(chip / "update_interval")) for chip in self._chips()),
            "samples_averaged": ", ".join(str(read(chip / "samples")) for chip in self._chips()),
        }

    def open(self) -> None:
        """Look for the rails again: chips change their numbers between boots."""
        self._rails = None

    def read(self) -> float:
        """Return watts of the total; a rail that cannot be read makes it unreadable, since the sum would be too low."""
        found = self._found()
        return sum(found[name].watts() for name in rails_of_total(found))

    def signs(self) -> tuple[str, ...]:
        """Return nothing: the files of the kernel tell, which are watched anyway."""
        return ()

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _found(self) -> dict[str, Rail]:
        if self._rails is None:
            self._rails = _rails(self._root)
        return self._rails

    def _chips(self) -> list[Path]:
        found = self._found()
        return list(dict.fromkeys(found[name].chip for name in rails_of_total(found)))


def _rails(root: Path) -> dict[str, Rail]:
    found: dict[str, Rail] = {}
    for place in PLACES:
        for chip in sorted(root.glob(place)):
            if read(chip / "name") in CHIPS:
                for rail in _of_chip(chip):
                    found.setdefault(rail.name, rail)  # a chip may be seen in both places
    return found


def _of_chip(chip: Path) -> list[Rail]:
    rails = []
    for label in sorted(chip.glob("in*_label")):
        number = re.fullmatch(r"in(\d+)_label", label.name, re.ASCII)
        name = read(label)
        if number is None or int(number[1]) == SUMMED or is_unavailable(name) or not connected(name):
            continue
        rails.append(Rail(name, _product(chip / f"in{number[1]}_input", chip / f"curr{number[1]}_input"), chip))
    if not rails and (chip / "power1_input").exists():
        name = read(chip / "label")
        if not is_unavailable(name) and connected(name):
            rails.append(Rail(name, lambda: whole_number(chip / "power1_input") / 1e6, chip))
    return rails


def _product(millivolt: Path, milliampere: Path) -> Callable[[], float]:
    return lambda: whole_number(millivolt) * whole_number(milliampere) / 1e6
