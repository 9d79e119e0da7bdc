# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The machine that a benchmark ran on: what can be read is recorded, what cannot is said to be unavailable and why."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from yolo_compress.bench.jetson import describe_jetson
from yolo_compress.bench.sysfs import degrees, mhz_from_khz, read, unavailable
from yolo_compress.engines.tensorrt.capability import on_jetson

# flags that decide which INT8 and bfloat16 kernels a runtime can use
CPU_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
)
PACKAGES = (
    "yolo-compress",
    "ultralytics",
    "torch",
    "torchvision",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "tensorrt",
)


def describe_machine(*, root: Path = Path("/")) -> dict[str, Any]:
    """Read the processor, memory, clocks and load.

    Args:
        root: Where `proc` and `sys` lie.

    Returns:
        Plain data; each value that cannot be read is a string that begins with "unavailable: ". On a Jetson `jetson`
        holds what `describe_jetson` returns.
    """
    cpu = _cpuinfo(root / "proc/cpuinfo")
    frequency = root / "sys/devices/system/cpu/cpu0/cpufreq"
    torch = sys.modules.get("torch")  # a record does not import what the measurement did not use
    found = {
        "cpu_model": cpu.get("model name") or cpu.get("Model") or unavailable(cpu.get("why", "no model in cpuinfo")),
        "cpu_flags": _flags(cpu),
        "cpus": os.cpu_count(),
        "cpus_usable": _usable_cpus(),
        "cpu_quota": read(root / "sys/fs/cgroup/cpu.max", _quota),
        "memory_mb": read(root / "proc/meminfo", _total_memory),
        "governor": read(frequency / "scaling_governor"),
        "clock_mhz": read(frequency / "scaling_cur_freq", mhz_from_khz),
        "hypervisor": ("yes" if "hypervisor" in cpu.get("flags", "").split() else "none seen")
        if "flags" in cpu
        else unavailable("no CPU flags to read it from"),
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else unavailable("no load average on this system"),
        "temperature_c": _temperature(root / "sys/class/thermal"),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads() if torch is not None else unavailable("torch was not used"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
    return found | ({"jetson": describe_jetson(root=root)} if on_jetson(root) else {})


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the versions of the installed ones among `names`."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def steal_seconds(*, root: Path = Path("/")) -> float | None:
    """Return the processor seconds that a hypervisor has taken since boot, or None where they are not counted."""
    try:
        fields = (root / "proc/stat").read_text().split("\n", 1)[0].split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def _cpuinfo(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        return {"why": f"{error.strerror or error}: {path}"}
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in reversed(list(pairs))}  # the first processor's entry wins


def _flags(cpu: dict[str, str]) -> list[str] | str:
    given = cpu.get("flags") or cpu.get("Features")
    if given is None:
        return unavailable(cpu.get("why", "cpuinfo lists no flags"))
    have = set(given.split())
    return [flag for flag in CPU_FLAGS if flag in have]


def _usable_cpus() -> int | str:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return unavailable(f"{platform.system()} does not tell the affinity of a process")


def _temperature(folder: Path) -> float | str:
    readings = []
    for zone in sorted(folder.glob("thermal_zone*/temp")):
        value = read(zone, degrees)
        if isinstance(value, float):
            readings.append(value)
    return max(readings) if readings else unavailable(f"no readable thermal zone in {folder}")


def _quota(text: str) -> float | str:
    quota, period = text.split()
    return "none" if quota == "max" else int(quota) / int(period)


def _total_memory(text: str) -> float:
    line = next(line for line in text.splitlines() if line.startswith("MemTotal"))
    return int(line.split()[1]) / 1024
