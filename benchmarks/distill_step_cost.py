# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a training step with distillation costs: our default against Ultralytics' own, none, and each loss alone.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.distill_step_cost [claimed|single ...]

yolov8n learns from yolov8s. Candidates take turns, each time in a process of its own that trains the same batches, so
that its peak of resident memory is its own. `claimed` is none, native and our default; `single` is each loss alone,
with none and our default beside them, and nothing is claimed of it. A step is timed from the start of a batch to its
end; the first steps, in which memory is found and projectors are fitted, do not count. What is claimed is the median
of paired ratios.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.prune_recovery import IMGSZ, SETTINGS
from benchmarks.record import Experiment, claim
from yolo_compress.bench.memory import peak_mb
from yolo_compress.distill import LOSSES
from yolo_compress.host.cpu import bf16_units
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.train import plan_for

NAME = "distill_step_cost"
STUDENT, TEACHER = "yolov8n", "yolov8s"
TURNS, SKIPPED, FRACTION = 5, 10, 0.4
KINDS = ("none", "native", "ours")
SINGLE = tuple(name for name in LOSSES if name not in ("psa", "iou"))  # no attention in either model; that is box
PARTS = {"claimed": (KINDS, TURNS), "single": (("none", "ours", *SINGLE), 2)}  # candidates and turns
TIME_TARGET, MEMORY_TARGET = 1.10, 1.15


def main(parts: Sequence[str]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ, settings=SETTINGS)
    for part in parts:
        kinds, turns = PARTS[part]
        for turn, kind in itertools.product(range(turns), kinds):
            if not made.has(part=part, candidate=kind, turn=turn):
                call = [sys.executable, "-m", f"benchmarks.{NAME}", "one", kind, str(made.folder), str(made.data.path)]
                answer = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
                made.add({"part": part, "candidate": kind, "turn": turn, **json.loads(answer.splitlines()[-1])})
    return made.finish(_claims(made.rows))


def one(kind: str, folder: Path, data: str) -> None:
    """Train a part of an epoch in this process and print its median step and peak memory as JSON."""
    teacher = str(folder / "weights" / f"{TEACHER}.pt")
    known = {"none": {}, "native": {"distill_model": teacher}, "ours": {"teacher": teacher}}
    flags = known.get(kind, {"teacher": teacher, "distill": kind})
    precision = {"amp": "bf16"} if bf16_units() else {}
    settings = {**SETTINGS, **precision, **flags, "epochs": 1, "fraction": FRACTION, "data": data, "seed": 0}
    plan, native = plan_for({**settings, "model": str(folder / "weights" / f"{STUDENT}.pt")})
    assert plan is not None
    with tempfile.TemporaryDirectory() as place:
        trainer = CompressTrainer.bound(plan)(overrides={**native, "project": place, "name": "run"})
        begun: list[float] = []
        steps: list[float] = []
        trainer.add_callback("on_train_batch_start", lambda trainer: begun.append(time.perf_counter()))
        trainer.add_callback("on_train_batch_end", lambda trainer: steps.append(time.perf_counter() - begun[-1]))
        trainer.train()
    found = {"step_seconds": statistics.median(steps[SKIPPED:]), "peak_resident_mib": round(float(peak_mb()))}
    print(json.dumps(found))


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    claimed = sorted((row for row in rows if row["part"] == "claimed"), key=lambda row: row["turn"])
    if len(claimed) < TURNS * len(KINDS):
        return []

    def of(kind: str, key: str) -> list[float]:
        return [row[key] for row in claimed if row["candidate"] == kind]

    def ratio(key: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(of("ours", key), of(to, key), strict=True))

    time_ratio, memory_ratio = ratio("step_seconds", "native"), ratio("peak_resident_mib", "native")
    statement = (
        f"{STUDENT} with {TEACHER} as teacher, batch {SETTINGS['batch']} at {IMGSZ} px, {TURNS} turns: a step with our "
        f"default takes {time_ratio:.3f} of one with distill_model=, and {ratio('step_seconds', 'none'):.3f} of one "
        f"without a teacher; peak resident memory {memory_ratio:.3f} (at most {MEMORY_TARGET})"
    )
    holds = time_ratio <= TIME_TARGET and memory_ratio <= MEMORY_TARGET
    target = f"<= {TIME_TARGET}"
    return [claim("distill.step_cost", statement, time_ratio, "of a native step", target, holds=holds)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        one(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        sys.exit(main(sys.argv[1:] or list(PARTS)))
