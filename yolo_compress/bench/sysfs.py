# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What files of the kernel say: a value each, or a string that begins with "unavailable: " and gives the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

UNAVAILABLE = "unavailable: "


def read(path: Path, convert: Callable[[str], Any] = str) -> Any:
    """Return the content of a file without white space around it, converted, or why that cannot be had."""
    try:
        return convert(path.read_text(encoding="utf-8").strip())
    except OSError as error:
        return unavailable(f"{error.strerror or error}: {path}")
    except (ValueError, ArithmeticError, IndexError, StopIteration):
        return unavailable(f"{path} does not hold what is expected")


def whole_number(path: Path) -> int:
    """Return the whole number in a file whose absence is an error.

    Raises:
        OSError: It cannot be read; of the class that says why, such as PermissionError.
        ValueError: It holds no number.
    """
    try:
        return int(path.read_text(encoding="ascii"))
    except ValueError as error:
        raise ValueError(f"{path} does not hold a number") from error
    except OSError as error:
        raise type(error)(f"{error.strerror or error}: {path}") from error


def unavailable(why: str) -> str:
    """Return what stands in the place of a value that cannot be read."""
    return UNAVAILABLE + why


def is_unavailable(value: Any) -> bool:
    """Return whether `read` gave a reason instead of a value."""
    return isinstance(value, str) and value.startswith(UNAVAILABLE)


def mhz_from_khz(text: str) -> float:
    """Convert what cpufreq writes."""
    return int(text) / 1e3


def mhz_from_hz(text: str) -> float:
    """Convert what devfreq writes."""
    return int(text) / 1e6


def degrees(text: str) -> float:
    """Convert what a thermal zone writes, thousandths of a degree Celsius."""
    return int(text) / 1e3
