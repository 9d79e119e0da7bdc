# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Time our CPU training path against native CPU training, and compare where both end.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.spine_cpu_training [seed ...]

Each seed trains natively and with fast_cpu=true, one after the other in fresh processes with the same settings. Rows
that a call before has measured are kept.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import data_folder, earlier_rows, write
from yolo_compress.host.cpu import bf16_units

NAME = "spine_cpu_training"
EPOCHS = 3
TARGET_RATIO = 0.55
TARGET_POINTS = 0.5
# steps on every batch, since the default accumulates to 64 images; biases that start where they are
SETTINGS = {
    "epochs": EPOCHS,
    "imgsz": 320,
    "batch": 16,
    "nbs": 16,
    "cache": "ram",
    "optimizer": "AdamW",
    "lr0": 0.0001,
    "warmup_bias_lr": 0.0,
    "warmup_epochs": 0.5,
    "close_mosaic": 1,
    "plots": False,
    "device": "cpu",
}
CODE = """
import json, sys, time
from ultralytics import YOLO
job = json.loads(sys.argv[1])
seconds, model = [], YOLO(job["model"])
model.add_callback("on_train_epoch_start", lambda trainer: seconds.append(-time.perf_counter()))
model.add_callback("on_train_epoch_end", lambda trainer: seconds.append(seconds.pop() + time.perf_counter()))
if job["ours"]:
    import yolo_compress
    yolo_compress.enable()
model.train(**job["settings"], **job["ours"])
print("SECONDS", json.dumps(seconds))
"""


def main(seeds: list[int]) -> int:
    """Measure what is missing, write the result file; return 1 when the claim does not hold."""
    folder = data_folder()
    rows = [row for row in earlier_rows(NAME) if row["seed"] in seeds]
    for seed in seeds:
        for mode in ("native", "fast_cpu"):
            if not any(row["seed"] == seed and row["mode"] == mode for row in rows):
                rows.append(_train(folder, mode, seed))
                write(NAME, rows, [])
    return write(NAME, rows, [_claim(rows, seeds)])


def _train(folder: Path, mode: str, seed: int) -> dict[str, Any]:
    ours: dict[str, Any] = {}
    if mode == "fast_cpu":
        ours = {"fast_cpu": True, "workers": 2} | ({"amp": "bf16"} if bf16_units() else {})
    with tempfile.TemporaryDirectory() as place:
        settings = SETTINGS | {
            "data": str(folder / "coco/coco-mini.yaml"),
            "seed": seed,
            "project": place,
            "name": "run",
        }
        job = {"model": str(folder / "weights/yolov8n.pt"), "ours": ours, "settings": settings}
        run = subprocess.run(
            [sys.executable, "-c", CODE, json.dumps(job)], stdout=subprocess.PIPE, text=True, check=True
        )
        line = next(text for text in run.stdout.splitlines() if text.startswith("SECONDS"))
        with (Path(place) / "run" / "results.csv").open() as stream:
            points = [100 * float(row["metrics/mAP50-95(B)"]) for row in csv.DictReader(stream)]
    seconds = json.loads(line.partition(" ")[2])
    print(f"{mode} seed {seed}: {[round(s, 1) for s in seconds]} s per epoch, mAP50-95 {points}")
    return {"mode": mode, "seed": seed, "options": ours, "epoch_seconds": seconds, "map50_95_points": points}


def _claim(rows: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    ratios, gaps = [], []
    for seed in seeds:
        native, fast = (next(r for r in rows if r["seed"] == seed and r["mode"] == m) for m in ("native", "fast_cpu"))
        pairs = zip(fast["epoch_seconds"], native["epoch_seconds"], strict=True)
        ratios += [ours / theirs for ours, theirs in pairs]
        gaps.append(fast["map50_95_points"][-1] - native["map50_95_points"][-1])
    ratio, units = statistics.median(ratios), bf16_units()
    gap = statistics.mean(gaps)
    where = f"with {', '.join(units)}" if units else "without bfloat16 units, so in float32"
    return {
        "id": "spine.cpu_training",
        "statement": f"an epoch of yolov8n with fast_cpu=true takes {ratio:.3f} of a native one on a CPU {where}; "
        f"after {EPOCHS} epochs mAP50-95 differs by {gap:+.2f} on average over the seeds "
        f"({', '.join(f'{g:+.2f}' for g in gaps)}; at most {TARGET_POINTS})",
        "value": round(ratio, 3) if units else None,
        "unit": "x native epoch time",
        "target": f"<= {TARGET_RATIO}",
        "holds": ratio <= TARGET_RATIO and abs(gap) <= TARGET_POINTS if units else None,
        "reason": ""
        if units
        else f"no bfloat16 units (neither AVX512-BF16 nor AMX); float32 took {ratio:.3f} of native",
        "seeds": seeds,
    }


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]] or [0, 1]))
