# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Signs that heat, current or a governor slowed the machine down while something was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from yolo_compress.bench.jetson import gpu_clocks
from yolo_compress.bench.sysfs import is_unavailable, read

NEAR_MAXIMUM = 0.95  # share of the highest clock from which a GPU counts as running at it
COOLERS = ("throttle-alert", "cpufreq", "devfreq")  # of the kernel's cooling devices, those that slow something down


@dataclass(frozen=True)
class Counter:
    """A count of events since the machine started: where it lies, what it counts and which part it belongs to."""

    pattern: str
    event: str
    part: Callable[[Path], str]


COUNTERS = (
    # Orin: oc1 under-voltage, oc2 average over-current, oc3 instantaneous over-current (kernel, soctherm of Tegra234)
    Counter("sys/class/hwmon/hwmon*/oc*_event_cnt", "over-current event", lambda path: path.name.partition("_")[0]),
    Counter(
        "sys/devices/platform/*-throttle-alert/thermal_trip_event",
        "thermal trip",
        lambda path: path.parent.name.removesuffix("-throttle-alert"),
    ),
    Counter(
        "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count", "slowed by heat", lambda path: "processor"
    ),
)


class ThrottleWatch:
    """Looks at what can be looked at, from its construction on.

    Args:
        root: Where `sys` lies.
        gpu: Whether a GPU is kept busy all the time, so that a clock below its highest is a sign.
    """

    def __init__(self, root: Path = Path("/"), *, gpu: bool = False) -> None:
        self._root, self._gpu = root, gpu
        self._before = _counts(root)
        self._coolers = _coolers(root)
        self._active: dict[str, int] = {}  # looks that saw a cooling device at work
        self._slow: dict[str, tuple[int, float, float]] = {}  # looks, lowest and highest clock
        self._clocked: set[str] = set()
        self._looks = 0

    @property
    def watched(self) -> tuple[str, ...]:
        """What it looks at; empty where the machine tells nothing."""
        kinds = dict.fromkeys(event for event, _ in self._before)
        clocks = dict.fromkeys(f"clock of {name}" for name in sorted(self._clocked))
        return (*kinds, *(["cooling devices"] if self._coolers else []), *clocks)

    def look(self) -> None:
        """Take one look; cheap enough for once a second."""
        self._looks += 1
        for name, path in self._coolers.items():
            state = read(path / "cur_state", int)
            if isinstance(state, int) and state > 0:
                self._active[name] = self._active.get(name, 0) + 1
        for name, clock in (gpu_clocks(self._root) if self._gpu else {}).items():
            now, most = clock["now_mhz"], clock["max_mhz"]
            if isinstance(now, str) or isinstance(most, str):
                continue
            self._clocked.add(name)
            if now < NEAR_MAXIMUM * most:
                looks, lowest, _ = self._slow.get(name, (0, now, most))
                self._slow[name] = (looks + 1, min(lowest, now), most)

    def signs(self) -> tuple[str, ...]:
        """Return what was seen so far, one sentence part each."""
        found = []
        for key, count in _counts(self._root).items():
            if more := count - self._before.get(key, count):
                event, part = key
                found.append(f"{event} of {part} counted {more} times")
        found += [f"{name} active in {n} of {self._looks} looks" for name, n in sorted(self._active.items())]
        found += [
            f"clock of {name} below its maximum in {n} of {self._looks} looks, lowest {low:.0f} of {most:.0f} MHz"
            for name, (n, low, most) in sorted(self._slow.items())
        ]
        return tuple(found)


def _counts(root: Path) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for counter in COUNTERS:
        for path in sorted(root.glob(counter.pattern)):
            value = read(path, int)
            if isinstance(value, int):
                key = (counter.event, counter.part(path))
                found[key] = found.get(key, 0) + value
    return found


def _coolers(root: Path) -> dict[str, Path]:
    found = {}
    for path in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = read(path / "type")
        slows = not is_unavailable(kind) and any(word in kind for word in COOLERS)
        if slows and isinstance(read(path / "cur_state", int), int):
            found[f"{kind} ({path.name})"] = path
    return found
