# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Peak resident memory of one artifact, measured in a process of its own that does nothing else."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

INFERENCES = 5  # enough for a runtime to allocate every buffer that it keeps
TIMEOUT_S = 600


@dataclass(frozen=True)
class Memory:
    """Megabytes (2^20 bytes) of a process: with Python alone, with the artifact loaded, and the most it ever held.

    All are None where `why` says what is in the way; `note` says what else the process had to load.
    """

    baseline_mb: float | None
    loaded_mb: float | None
    peak_mb: float | None
    why: str = ""
    note: str = ""


def measure_memory(path: Path, *, imgsz: int, device: str = "cpu", threads: int | None = None) -> Memory:
    """Run an artifact on a blank image in a fresh process and read the peak of that process's resident memory."""
    arguments = [str(path), str(imgsz), device, str(threads or 0)]
    # the package may be run from its source tree, which a child in another folder would not find
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if place)}
    try:
        child = subprocess.run(
            [sys.executable, "-m", "yolo_compress.bench.memory", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Memory(None, None, None, f"unavailable: the measuring process did not end within {TIMEOUT_S} s")
    lines = child.stdout.strip().splitlines()
    if child.returncode or not lines:
        cause = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return Memory(None, None, None, f"unavailable: the measuring process failed ({cause[:200]})")
    return Memory(**json.loads(lines[-1]))


def peak_mb() -> float | str:
    """Return the peak resident memory of this process, or the reason why it cannot be read.

    Linux is asked through /proc: `getrusage` there starts from the parent's peak, since exec carries that over.
    """
    return _status_mb("VmHWM")


def resident_mb() -> float | str:
    """Return the resident memory of this process now, or the reason why it cannot be read."""
    return _status_mb("VmRSS")


def _status_mb(field: str) -> float | str:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return f"unavailable: resident memory is read from /proc/self/status, which {platform.system()} does not have"
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return f"unavailable: /proc/self/status has no {field} on this system"


def _main(path: str, imgsz: str, device: str, threads: str) -> None:
    baseline = resident_mb()
    if isinstance(baseline, str):
        print(json.dumps({"baseline_mb": None, "loaded_mb": None, "peak_mb": None, "why": baseline}))
        return
    import numpy as np

    from yolo_compress.engines import engine_for

    engine = engine_for(Path(path))
    session = engine.load(Path(path), device=device, threads=int(threads) or None)
    loaded = resident_mb()
    image = np.zeros((1, 3, int(imgsz), int(imgsz)), np.float32)
    for _ in range(INFERENCES):
        session.infer(image)
    peak = peak_mb()
    session.close()
    burdened = engine.name != "pytorch" and "torch" in sys.modules
    note = f"includes torch, which {engine.name} itself does not need" if burdened else ""
    print(json.dumps({"baseline_mb": baseline, "loaded_mb": loaded, "peak_mb": peak, "note": note}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
