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
from pathlib import Path
from typing import Any

from benchmarks.prune_recovery import IMAGES, IMGSZ, SETTINGS, TARGET, train_and_score
from benchmarks.prune_training_free import accuracy
from benchmarks.record import Experiment
from yolo_compress.host.checkpoint import load_model, save_model
from yolo_compress.host.data import DataSpec, image_batches, sample
from yolo_compress.prune import prune
from yolo_compress.recipe import PruneSection
from yolo_compress.timing import RuntimeTiming

NAME = "prune_sibling"
LARGE, SMALL = "yolov8s", "yolov8n"
POINTS_TARGET = 1.5


def main(seeds: list[int]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ, settings=SETTINGS)
    data, large = made.data, made.folder / "weights" / f"{LARGE}.pt"
    with tempfile.TemporaryDirectory() as place:
        timing = RuntimeTiming(load_model(large), TARGET, imgsz=IMGSZ, images=data.train, cache=Path(place) / "layers")
        for name in (LARGE, SMALL):
            if not made.has(candidate=name):
                model = load_model(made.folder / "weights" / f"{name}.pt")
                ratio = 1.0 if name == LARGE else timing.ratio(model)
                made.add({"candidate": name, "latency_ratio": ratio, "map50_95_points": accuracy(model, data)})
        pruned = Path(place) / "pruned.pt"
        latency = math.sqrt(next(row["latency_ratio"] for row in made.rows if row["candidate"] == SMALL))
        ratio = prune_to(large, pruned, data, latency, timing)
        timing.close()
        if not made.has(candidate="pruned"):
            points = accuracy(load_model(pruned), data)
            made.add({"candidate": "pruned", "latency_ratio": ratio, "map50_95_points": points})
        for seed in seeds:
            for name, start, share in (("pruned, trained", pruned, ratio), ("control", large, 1.0)):
                if not made.has(candidate=name, seed=seed):
                    run = Path(place) / f"{name}-{seed}"
                    points, seconds = train_and_score(start, data, seed, run, teacher=str(large))
                    row = {"candidate": name, "seed": seed, "latency_ratio": share}
                    made.add({**row, "map50_95_points": points, "seconds": seconds})
    return made.finish(_claims(made.rows, seeds))


def prune_to(large: Path, pruned: Path, data: DataSpec, latency: float, timing: RuntimeTiming) -> float:
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
