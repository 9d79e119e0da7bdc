# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What this machine can do, and what it lacks; reads only, imports no optional package that is not there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress import __version__
from yolo_compress.bench.machine import describe_machine, package_versions
from yolo_compress.bench.power import examine_sensors
from yolo_compress.bench.power.rails import Rails
from yolo_compress.bench.sysfs import is_unavailable, unavailable
from yolo_compress.bench.throttle import ThrottleWatch
from yolo_compress.recipe import ENGINE_PRECISIONS

BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
INT8_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
OPTIONAL = {
    "openvino": "openvino",
    "nncf": "openvino",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxslim": "onnx",
    "nvidia-ml-py": "energy",
    "jinja2": "report",
    "matplotlib": "report",
}
GIB = 1 << 30


@dataclass(frozen=True)
class Examination:
    """What was found, in groups of name and value; `problems` are the lines that say what is missing for what."""

    groups: dict[str, dict[str, str]]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        """Return everything as aligned text."""
        width = max(len(name) for rows in self.groups.values() for name in rows)
        lines = []
        for group, rows in self.groups.items():
            lines += [group, *(f"  {name:{width}}  {value}" for name, value in rows.items()), ""]
        lines += [f"missing: {problem}" for problem in self.problems] or ["nothing is missing"]
        return "\n".join(lines)


def examine(*, root: Path = Path("/")) -> Examination:
    """Look at this machine.

    Args:
        root: Where `etc`, `proc`, `sys` and `var` lie.
    """
    machine = describe_machine(root=root)
    bf16 = _has_units(machine["cpu_flags"], BF16_FLAGS)
    groups = {
        f"yolo-compress {__version__}": _versions(),
        "machine": _machine(machine),
        "engines": dict(_engines(bf16=bf16)),
        "power": dict(examine_sensors(root=root)),
        "disk": _disk(),
    }
    missing = [
        f"{name}: pip install 'yolo-compress[{extra}]'" for name, extra in OPTIONAL.items() if not _version(name)
    ]
    if "jetson" in machine:
        groups["jetson"] = _jetson(machine["jetson"], root)
        missing += _missing_on_jetson(machine["jetson"], groups["power"])
    return Examination(groups, tuple(missing))


def _versions() -> dict[str, str]:
    found = package_versions()
    found.pop("yolo-compress", None)
    return found | {name: "not installed" for name in OPTIONAL if not _version(name)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _machine(machine: dict[str, Any]) -> dict[str, str]:
    flags = machine["cpu_flags"]
    memory, quota = machine["memory_mb"], machine["cpu_quota"]
    cores = f"{machine['cpus_usable']} usable of {machine['cpus']}"
    return {
        "os": machine["os"],
        "python": machine["python"],
        "cpu": str(machine["cpu_model"]),
        "cores": f"{cores}, of which {quota:g} may be busy" if isinstance(quota, float) else cores,
        "memory": f"{memory / 1024:.1f} GiB" if isinstance(memory, float) else str(memory),
        "cpu flags": " ".join(flags) if isinstance(flags, list) else flags,
        "int8 units": _units(flags, INT8_FLAGS, "none: INT8 gains less than on a CPU that has them"),
        "bfloat16 units": _units(flags, BF16_FLAGS, "none: amp=bf16 and bf16 engines are refused"),
        "gpu": _gpu(),
    }


def _units(flags: list[str] | str, wanted: tuple[str, ...], none: str) -> str:
    return flags if isinstance(flags, str) else ", ".join(f for f in wanted if f in flags) or none


def _has_units(flags: list[str] | str, wanted: tuple[str, ...]) -> bool:
    return not isinstance(flags, str) and not set(wanted).isdisjoint(flags)


def _gpu() -> str:
    try:
        import pynvml  # comes with Ultralytics, but a machine without it is no reason to stop
    except ModuleNotFoundError:
        return "unavailable: nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"none that NVIDIA's driver knows ({error})"
    try:
        names = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            names.append(str(pynvml.nvmlDeviceGetName(handle)))
            with suppress(pynvml.NVMLError):  # a board whose memory is shared with the CPU does not tell its size
                names[-1] += f", {int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) / GIB:.0f} GiB"
        return f"{'; '.join(names)}; driver {pynvml.nvmlSystemGetDriverVersion()}"
    except pynvml.NVMLError as error:
        return f"unavailable: {error}"
    finally:
        pynvml.nvmlShutdown()


def _engines(*, bf16: bool) -> Iterator[tuple[str, str]]:
    from yolo_compress.engines import ENGINES  # imports what is light of the runtimes

    for name, entry in ENGINES.items():
        reason = entry.load().unavailable()
        precisions = [precision for precision in ENGINE_PRECISIONS[name] if bf16 or precision != "bf16"]
        yield name, f"unavailable: {reason}" if reason else f"ready: {', '.join(precisions)}"


def _jetson(found: dict[str, Any], root: Path) -> dict[str, str]:
    watched = ThrottleWatch(root, gpu=True)
    watched.look()
    rails = Rails(root=root)
    release = f"{found['jetpack']}, Jetson Linux {found['l4t']}"
    return {
        "board": found["board"],
        "module": found["module"],
        "jetpack": found["l4t"] if is_unavailable(found["l4t"]) else release,
        "ships": f"TensorRT {found['ships_tensorrt']}, CUDA {found['ships_cuda']}",
        "power mode": found["power_mode"],
        "power modes": found["power_modes"],
        "cpu clocks": _clocks(found["cpu_clocks"]),
        "gpu clocks": _clocks(found["gpu_clocks"]),
        "memory clock": _number(found["emc_mhz"], "MHz"),
        "clocks fixed": found["clocks_fixed"],
        "temperatures": _temperatures(found["temperatures_c"]),
        "dla cores": str(found["dla_cores"]),
        "rails": rails.settings()["rails_found"] or unavailable(rails.unavailable() or "none is named"),
        "throttling": "watched through " + (", ".join(watched.watched) or "nothing: no counter can be read"),
    }


def _clocks(found: dict[str, dict[str, Any]] | str) -> str:
    if isinstance(found, str):
        return found
    return "; ".join(
        f"{name} {_number(clock['now_mhz'])} of {_number(clock['max_mhz'], 'MHz')}, {clock['governor']}"
        for name, clock in found.items()
    )


def _temperatures(found: dict[str, Any] | str) -> str:
    if isinstance(found, str):
        return found
    return ", ".join(f"{name} {_degrees(value)}" for name, value in found.items())


def _degrees(value: float | str) -> str:
    return value.rpartition(": ")[0] if isinstance(value, str) else f"{value:.1f} C"  # the path would repeat the name


def _number(value: float | str, unit: str = "") -> str:
    return value if isinstance(value, str) else f"{value:.0f} {unit}".rstrip()


def _missing_on_jetson(found: dict[str, Any], power: dict[str, str]) -> Iterator[str]:
    if importlib.util.find_spec("tensorrt") is None:
        yield (
            "tensorrt: it comes with JetPack; sudo apt install python3-libnvinfer, and make the environment with "
            "--system-site-packages"
        )
    if all(is_unavailable(power[name]) for name in ("rails", "tegrastats", "jetson-stats")):
        yield (
            "power: no rail can be read, so energies are unavailable; a container needs /sys of the host, or "
            "/run/jtop.sock"
        )
    for key, name, remedy in (
        ("l4t", "release", "a container needs /etc/nv_tegra_release of the host"),
        ("power_mode", "power mode", "see it with: sudo nvpmodel -q"),
    ):
        if is_unavailable(found[key]):
            yield f"{name}: {found[key].partition(': ')[2]}; {remedy}"


def _disk() -> dict[str, str]:
    places = {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    return {
        name: f"{shutil.disk_usage(path).free / GIB:.1f} GiB free in {path}{_writable(path)}"
        for name, path in places.items()
    }


def _writable(path: Path) -> str:
    return "" if os.access(path, os.W_OK) else ", not writable"
