# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How one artifact starts and the most memory it holds, measured in a process of its own that does nothing else."""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from yolo_compress.bench.fresh import ask

INFERENCES = 5  # enough for a runtime to allocate every buffer that it keeps


@dataclass(frozen=True)
class Memory:
    """Megabytes (2^20 bytes) of a process: with Python alone, with the artifact loaded, and the most it ever held.

    All are None where `why` says what is in the way; `note` says what else the process had to load. `load_ms` is the
    time from the file to a session, the runtime's own libraries included, and `first_inference_ms` that of the first
    image, for which a runtime may have put off work. Both are one observation, with the file in the system's cache.
    """

    baseline_mb: float | None
    loaded_mb: float | None
    peak_mb: float | None
    why: str = ""
    note: str = ""
    load_ms: float | None = None
    first_inference_ms: float | None = None


def measure_memory(path: Path, *, imgsz: int, device: str = "cpu", threads: int | None = None) -> Memory:
    """Run an artifact on a blank image in a fresh process, and read its peak of resident memory and how it starts."""
    found = ask("yolo_compress.bench.memory", path, imgsz, device, threads or 0)
    return Memory(None, None, None, found) if isinstance(found, str) else Memory(**found)


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
    import numpy as np

    from yolo_compress.engines import engine_for

    engine = engine_for(Path(path))
    begin = time.perf_counter()
    session = engine.load(Path(path), device=device, threads=int(threads) or None)
    ready = time.perf_counter()
    loaded = resident_mb()
    image = np.zeros((1, 3, int(imgsz), int(imgsz)), np.float32)
    started = time.perf_counter()
    session.infer(image)
    first = time.perf_counter() - started
    for _ in range(INFERENCES - 1):
        session.infer(image)
    peak = peak_mb()
    session.close()
    burdened = engine.name != "pytorch" and "torch" in sys.modules
    told = {
        "note": f"includes torch, which {engine.name} itself does not need" if burdened else "",
        "load_ms": 1e3 * (ready - begin),
        "first_inference_ms": 1e3 * first,
    }
    sizes = {"baseline_mb": baseline, "loaded_mb": loaded, "peak_mb": peak}
    if why := next((size for size in sizes.values() if isinstance(size, str)), ""):
        sizes = dict.fromkeys(sizes)
    print(json.dumps({**sizes, "why": why, **told}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
