# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A larger model pruned, against the line that joins it with its smaller sibling in (log latency, mAP).

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.prune_sibling [seed ...]

yolov8s is pruned to the geometric mean of the measured times of yolov8n and yolov8s, then trained with the dense
yolov8s as teacher. The dense yolov8s trained in just the same way is the control: it shows what the small training set
itself costs. The last checkpoint counts. All are timed in turns with the dense yolov8s, in one precision. Rows that a
call before has measured are kept.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.prune_recovery import IMAGES, IMGSZ, SETTINGS, TARGET
from benchmarks.prune_training_free import accuracy
from benchmarks.record import data_folder, earlier_rows, write
from yolo_compress.host.checkpoint import load_model, save_model
from yolo_compress.host.cpu import bf16_units, use_all_cores
from yolo_compress.host.data import DataSpec, image_batches, read_data, sample
from yolo_compress.prune import prune
from yolo_compress.recipe import PruneSection
from yolo_compress.timing import RuntimeTiming
from yolo_compress.train import train

NAME = "prune_sibling"
LARGE, SMALL = "yolov8s", "yolov8n"
POINTS_TARGET = 1.5


def main(seeds: list[int]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    use_all_cores()
    folder = data_folder()
    data = read_data(folder / "coco/coco-mini.yaml")
    rows = earlier_rows(NAME)

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        write(NAME, rows, [], imgsz=IMGSZ, settings=SETTINGS)
        print(row, flush=True)

    with tempfile.TemporaryDirectory() as place:
        large = folder / "weights" / f"{LARGE}.pt"
        timing = RuntimeTiming(load_model(large), TARGET, imgsz=IMGSZ, images=data.train, cache=Path(place) / "layers")
        if not rows:
            for name in (LARGE, SMALL):
                model = load_model(folder / "weights" / f"{name}.pt")
                ratio = 1.0 if name == LARGE else timing.ratio(model)
                add({"candidate": name, "latency_ratio": ratio, "map50_95_points": accuracy(model, data)})
        pruned = Path(place) / "pruned.pt"
        latency = math.sqrt(next(row["latency_ratio"] for row in rows if row["candidate"] == SMALL))
        ratio = _prune(large, pruned, data, latency, timing)
        timing.close()
        if not any(row["candidate"] == "pruned" for row in rows):
            add({"candidate": "pruned", "latency_ratio": ratio, "map50_95_points": accuracy(load_model(pruned), data)})
        for seed in seeds:
            for name, start in (("pruned, trained", pruned), ("control", large)):
                if not any(row["candidate"] == name and row["seed"] == seed for row in rows if "seed" in row):
                    found = _train(start, large, data, seed, Path(place) / f"{name}-{seed}")
                    add({"candidate": name, "seed": seed, "latency_ratio": ratio if start is pruned else 1.0, **found})
    return write(NAME, rows, _claims(rows, seeds), imgsz=IMGSZ, settings=SETTINGS)


def _prune(large: Path, pruned: Path, data: DataSpec, latency: float, timing: RuntimeTiming) -> float:
    """Prune to a share of the time, and return the share that the saved model is measured to take."""
    chosen = sample(data.train, IMAGES, seed=0)
    result = prune(
        load_model(large),
        config=PruneSection(latency=round(latency, 3), target=TARGET),
        imgsz=IMGSZ,
        image_batches=lambda: image_batches(chosen, IMGSZ),
        timing=timing,
    )
    save_model(result.model, pruned, facts={"prune": result.facts()})
    return timing.ratio(load_model(pruned))


def _train(start: Path, teacher: Path, data: DataSpec, seed: int, place: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    ours = {"amp": "bf16"} if bf16_units() else {}
    run = {"data": str(data.path), "seed": seed, "project": str(place.parent), "name": place.name, "exist_ok": True}
    train(start, teacher=str(teacher), **SETTINGS, **ours, **run)
    points = accuracy(load_model(place / "weights" / "last.pt"), data)
    return {"map50_95_points": points, "seconds": time.perf_counter() - begin}


def _claims(rows: list[dict[str, Any]], seeds: list[int]) -> list[dict[str, Any]]:
    def points(name: str) -> list[float]:
        found = [row for row in rows if row["candidate"] == name and row.get("seed", seeds[0]) in seeds]
        return [row["map50_95_points"] for row in found]

    ratios = {row["candidate"]: row["latency_ratio"] for row in rows}
    trained, control = points("pruned, trained"), points("control")
    (large,), (small,), (before,) = points(LARGE), points(SMALL), points("pruned")
    share = math.log(ratios["pruned, trained"]) / math.log(ratios[SMALL])  # of the way from large to small
    line = large + share * (small - large)
    above = statistics.mean(trained) - line
    told = (
        f"{LARGE} pruned to {ratios['pruned, trained']:.3f} of its time on {TARGET} ({before:.2f} mAP50-95) and "
        f"trained with the dense {LARGE} as teacher: {statistics.mean(trained):.2f} (spread over seeds "
        f"{max(trained) - min(trained):.2f}); the line between {LARGE} ({large:.2f}) and {SMALL} ({small:.2f} at "
        f"{ratios[SMALL]:.3f} of the time) is at {line:.2f} there; the dense {LARGE} trained alike: "
        f"{statistics.mean(control):.2f}"
    )
    return [
        {
            "id": "prune.sibling_line",
            "statement": told,
            "value": round(above, 2),
            "unit": "mAP",
            "target": f">= {POINTS_TARGET}",
            "holds": round(above, 2) >= POINTS_TARGET,
            "seeds": seeds,
        }
    ]


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]] or [0, 1]))
