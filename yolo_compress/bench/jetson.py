# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which Jetson this is and the state it is in: board, release, power mode, clocks, heat; everything is only read."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from yolo_compress.bench.sysfs import degrees, is_unavailable, mhz_from_hz, mhz_from_khz, read, unavailable

ANSWER_S = 5  # longest that nvpmodel may take to answer


class Release(NamedTuple):
    """What a release of Jetson Linux belongs to and ships; None where that is not known for certain."""

    jetpack: str
    tensorrt: str | None
    cuda: str | None


# by the version of Jetson Linux (L4T), from NVIDIA's release pages and the table of jetson-stats
RELEASES = {
    "32.7.1": Release("4.6.1", "8.2.1", "10.2"),
    "32.7.2": Release("4.6.2", "8.2.1", "10.2"),
    "32.7.3": Release("4.6.3", "8.2.1", "10.2"),
    "32.7.4": Release("4.6.4", "8.2.1", "10.2"),
    "32.7.5": Release("4.6.5", "8.2.1", "10.2"),
    "32.7.6": Release("4.6.6", "8.2.1", "10.2"),
    "35.2.1": Release("5.1", "8.5.2", "11.4"),
    "35.3.1": Release("5.1.1", "8.5.2", "11.4"),
    "35.4.1": Release("5.1.2", "8.5.2", "11.4"),
    "35.5.0": Release("5.1.3", "8.5.2", "11.4"),
    "35.6.0": Release("5.1.4", "8.5.2", "11.4"),
    "35.6.1": Release("5.1.5", "8.5.2", "11.4"),
    "35.6.2": Release("5.1.5", "8.5.2", "11.4"),
    "35.6.4": Release("5.1.6", "8.5.2", "11.4"),
    "36.2.0": Release("6.0 DP", None, "12.2"),
    "36.3.0": Release("6.0", None, "12.2"),
    "36.4.0": Release("6.1", "10.3", "12.6"),
    "36.4.3": Release("6.2", "10.3", "12.6"),
    "36.4.4": Release("6.2.1", "10.3", "12.6"),
    "36.4.7": Release("6.2.1", "10.3", "12.6"),
    "36.5.0": Release("6.2.2", "10.3", "12.6"),
    "38.2.0": Release("7.0", "10.13", "13.0"),
    "38.2.2": Release("7.0", "10.13", "13.0"),
    "38.4.0": Release("7.1", "10.13.3", "13.0"),
    "39.2.0": Release("7.2", "10.16.2", "13.2"),
    "39.2.1": Release("7.2.1", None, None),
}
# by the part number that the device tree names
MODULES = {
    "p3448-0000": "Nano 4GB",
    "p3448-0002": "Nano 4GB eMMC",
    "p3448-0003": "Nano 2GB",
    "p3668-0000": "Xavier NX 8GB developer kit",
    "p3668-0001": "Xavier NX 8GB",
    "p3668-0003": "Xavier NX 16GB",
    "p2888-0001": "AGX Xavier 16GB",
    "p2888-0004": "AGX Xavier 32GB",
    "p2888-0005": "AGX Xavier 64GB",
    "p2888-0008": "AGX Xavier Industrial",
    "p3767-0000": "Orin NX 16GB",
    "p3767-0001": "Orin NX 8GB",
    "p3767-0003": "Orin Nano 8GB",
    "p3767-0004": "Orin Nano 4GB",
    "p3767-0005": "Orin Nano 8GB developer kit",
    "p3701-0000": "AGX Orin 32GB developer kit",
    "p3701-0004": "AGX Orin 32GB",
    "p3701-0005": "AGX Orin 64GB",
    "p3701-0008": "AGX Orin Industrial",
    "p3834-0008": "AGX Thor T5000",
}
RELEASE_LINE = re.compile(r"# R(\d{1,3}) \(release\), REVISION: (\d{1,3}(?:\.\d{1,3})*)", re.ASCII)
MODE_LINE = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)\s*>", re.ASCII | re.MULTILINE)
# names of the GPU among the devices that scale their clock: 17000000.gpu, 17000000.ga10b, gpu-gpc-0; nvd is video
GPU_CLOCK = re.compile(r"gpu(?!-nvd)|\bg[a-z]\d{2}b\b")


def describe_jetson(*, root: Path = Path("/"), query: Callable[[], str] | None = None) -> dict[str, Any]:
    """Read what decides how fast a Jetson is.

    Args:
        root: Where `etc`, `proc`, `sys` and `var` lie.
        query: Returns what `nvpmodel -q` prints, for a board whose file of the power mode cannot be read; the command
            itself when not given and `root` is the machine's.

    Returns:
        Plain data; each value that cannot be read is a string that begins with "unavailable: ".
    """
    l4t = read(root / "etc/nv_tegra_release", _l4t)
    cpu, gpu = cpu_clocks(root), gpu_clocks(root)
    return {
        "board": read(root / "proc/device-tree/model", lambda text: _nonempty(text.replace("\0", " ").strip())),
        "module": read(root / "proc/device-tree/compatible", _module),
        "l4t": l4t,
        **_shipped(l4t),
        "power_mode": _power_mode(root, query or (nvpmodel_query if root == Path("/") else None)),
        "power_modes": read(root / "etc/nvpmodel.conf", _power_modes),
        "cpu_clocks": cpu or unavailable(f"no policy in {root / 'sys/devices/system/cpu/cpufreq'}"),
        "gpu_clocks": gpu or unavailable(f"no GPU in {root / 'sys/class/devfreq'}"),
        "emc_mhz": read(root / "sys/kernel/debug/bpmp/debug/clk/emc/rate", mhz_from_hz),
        "clocks_fixed": _fixed({**cpu, **gpu}),
        "temperatures_c": temperatures(root),
        "dla_cores": _dla_cores(root / "sys/bus/platform/devices"),
    }


def cpu_clocks(root: Path) -> dict[str, dict[str, Any]]:
    """Return clocks in MHz and governor of each group of cores."""
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"), key=lambda path: path.name)
    return {
        policy.name: {
            "now_mhz": read(policy / "scaling_cur_freq", mhz_from_khz),
            "min_mhz": read(policy / "scaling_min_freq", mhz_from_khz),
            "max_mhz": read(policy / "scaling_max_freq", mhz_from_khz),
            "governor": read(policy / "scaling_governor"),
        }
        for policy in policies
    }


def gpu_clocks(root: Path) -> dict[str, dict[str, Any]]:
    """Return clocks in MHz and governor of the GPU, by the name of its device."""
    devices = sorted(path for path in (root / "sys/class/devfreq").glob("*") if GPU_CLOCK.search(path.name))
    return {
        device.name: {
            "now_mhz": read(device / "cur_freq", mhz_from_hz),
            "min_mhz": read(device / "min_freq", mhz_from_hz),
            "max_mhz": read(device / "max_freq", mhz_from_hz),
            "governor": read(device / "governor"),
        }
        for device in devices
    }


def temperatures(root: Path) -> dict[str, Any] | str:
    """Return degrees Celsius by the type of the thermal zone; the zone of a part without power cannot be read."""
    found: dict[str, Any] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=lambda path: path.name):
        kind = read(zone / "type")
        name = zone.name if is_unavailable(kind) or not kind else kind
        found[f"{name} ({zone.name})" if name in found else name] = read(zone / "temp", degrees)
    return found or unavailable(f"no thermal zone in {root / 'sys/class/thermal'}")


def nvpmodel_query() -> str:
    """Return what `nvpmodel -q` prints; it changes nothing.

    Raises:
        OSError: There is no such command, or it failed.
    """
    command = shutil.which("nvpmodel")
    if command is None:
        raise OSError("nvpmodel is not on the PATH")
    try:
        done = subprocess.run([command, "-q"], capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"nvpmodel -q did not answer within {ANSWER_S} s") from error
    if done.returncode:
        raise OSError(f"nvpmodel -q failed: {' '.join((done.stderr or done.stdout).split())[:200]}")
    return done.stdout


def _l4t(text: str) -> str:
    found = RELEASE_LINE.match(text)
    if found is None:
        raise ValueError
    return f"{found[1]}.{found[2]}"


def _shipped(l4t: str) -> dict[str, str]:
    names = ("jetpack", "ships_tensorrt", "ships_cuda")
    if is_unavailable(l4t):
        return dict.fromkeys(names, unavailable("the release of Jetson Linux is not known"))
    if l4t not in RELEASES:
        return dict.fromkeys(
            names, unavailable(f"Jetson Linux {l4t} is not in the table of this version; see: apt show nvidia-jetpack")
        )
    values = (value or unavailable(f"not known for Jetson Linux {l4t}") for value in RELEASES[l4t])
    return dict(zip(names, values, strict=True))


def _module(text: str) -> str:
    # "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234": carrier and module, module, chip
    parts = re.findall(r"p\d{4}-\d{4}", text)
    for part in parts:
        if part in MODULES:
            return f"{MODULES[part]} ({part})"
    if not parts:
        raise ValueError
    return unavailable(f"no part among {', '.join(dict.fromkeys(parts))} is in the table of this version")


def _power_mode(root: Path, query: Callable[[], str] | None) -> str:
    number = read(root / "var/lib/nvpmodel/status", _mode_number)
    if not is_unavailable(number):
        names = read(root / "etc/nvpmodel.conf", lambda text: dict(MODE_LINE.findall(text)))
        name = names.get(number) if isinstance(names, dict) else None
        return f"{name} (mode {number})" if name else f"mode {number}"
    if query is None:
        return number
    try:
        return _queried(query())
    except (OSError, ValueError) as error:
        return f"{number}; {str(error) or 'nvpmodel -q printed no power mode'}"


def _mode_number(text: str) -> str:
    found = re.fullmatch(r"pmode:(\d{1,6})", text.split("\n", 1)[0].strip(), re.ASCII)
    if found is None:
        raise ValueError
    return str(int(found[1]))


def _queried(text: str) -> str:
    # "NV Power Mode: MAXN_SUPER\n2\n", with warnings before it on some releases
    found = re.search(r"^NV Power Mode:[ \t]*(\S+)[^\n]*\n?(?:\s*(\d{1,6})\s*$)?", text, re.ASCII | re.MULTILINE)
    if found is None:
        raise ValueError
    return f"{found[1]} (mode {int(found[2])})" if found[2] else found[1]


def _power_modes(text: str) -> str:
    return _nonempty(", ".join(f"{number} {name}" for number, name in MODE_LINE.findall(text)))


def _fixed(clocks: dict[str, dict[str, Any]]) -> str:
    """Say whether no clock can change, which is what `jetson_clocks` does."""
    if not clocks:
        return unavailable("no clock can be read")
    for clock in clocks.values():
        for bound in (clock["min_mhz"], clock["max_mhz"]):
            if is_unavailable(bound):
                return bound
    loose = [name for name, clock in clocks.items() if clock["min_mhz"] != clock["max_mhz"]]
    return f"no: {', '.join(loose)}" if loose else "yes"


def _dla_cores(folder: Path) -> int | str:
    """Count accelerators that the kernel knows; whether TensorRT uses them is for its builder to say."""
    if not folder.is_dir():
        return unavailable(f"no such folder: {folder}")
    return len(list(folder.glob("*.nvdla*")))


def _nonempty(text: str) -> str:
    if not text:
        raise ValueError
    return text
