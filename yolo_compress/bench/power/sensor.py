# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a power sensor offers: say whether it can be read here, then be opened, read and closed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol


class Sensor(Protocol):
    """A sensor of power, or a counter of energy."""

    name: str
    counts: bool
    """Whether `read` returns joules since some moment; watts otherwise."""

    @property
    def measures(self) -> str:
        """What the reading covers, in words."""
        ...

    @property
    def period_s(self) -> float | None:
        """Seconds between two values of the sensor, or None where it does not tell."""
        ...

    def unavailable(self) -> str | None:
        """Return why it cannot be read here, or None when it can."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return how the sensor itself is set up, for the record; plain strings and numbers."""
        ...

    def open(self) -> None:
        """Start what reading needs.

        Raises:
            OSError: It cannot be started.
        """
        ...

    def read(self) -> float:
        """Return watts, or joules where it counts.

        Raises:
            OSError: It cannot be read at this moment.
            ValueError: What was read is not a reading.
        """
        ...

    def signs(self) -> tuple[str, ...]:
        """Return signs that the device is slowed down now, as far as this sensor knows."""
        ...

    def close(self) -> None:
        """Stop what was started; it may be opened again."""
        ...


class SensorClass(Protocol):
    """How a sensor is made."""

    @staticmethod
    def covers(device: str) -> bool:
        """Return whether it measures what runs on the device."""
        ...

    def __call__(self, *, device: str, root: Path) -> Sensor:
        """Make one; nothing is read or started yet."""
        ...


# rails that are the whole input, the first that is there counts: VDD_IN feeds the modules of Xavier NX, Orin NX, Orin
# Nano and TX2, POM_5V_IN the Nano; VIN is the input of the carrier board of AGX Thor
INPUTS = {"VDD_IN": "module input", "POM_5V_IN": "module input", "VIN": "board input"}
# rails that are fed by another one, and would count twice: the memory of AGX Orin (NVIDIA's developer forum, 223111)
PARTS = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}


def connected(name: str) -> bool:
    """Return whether a label is that of a rail: unused channels are called NC, and one channel sums up the others."""
    return bool(name) and re.search(r"(?:^|_)NC\d*(?:_|$)", name) is None and not name.lower().startswith("sum of")


def rails_of_total(names: Iterable[str]) -> tuple[str, ...]:
    """Return the rails whose sum is the total: the input rail, or else every rail that is no part of another."""
    names = list(dict.fromkeys(names))
    for whole in INPUTS:
        if whole in names:
            return (whole,)
    return tuple(name for name in names if PARTS.get(name) not in names)


def meaning_of_total(rails: tuple[str, ...]) -> str:
    """Say what the sum of these rails covers."""
    if len(rails) == 1 and rails[0] in INPUTS:
        return f"{rails[0]}, the {INPUTS[rails[0]]}"
    return f"sum of {', '.join(rails)}; the carrier board is not part of it"
