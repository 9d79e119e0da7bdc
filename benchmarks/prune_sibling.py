# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A larger model pruned, against the line that joins it with its smaller sibling in (log latency, mAP).

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.prune_sibling [seed ...] [candidate ...]

yolov8s is pruned to the geometric mean of the measured times of yolov8n and yolov8s, then trained with the dense
yolov8s as teacher, with labels beside it and without, at several learning rates. The dense yolov8s trained with labels
in just the same way is the control: it shows what the small training set itself costs. The last checkpoint counts. All
are timed in turns with the dense yolov8s, in one precision. Rows that a call before has measured are kept; pruning is
done again by each call, and comes out the same but for what the noise of timing changes.
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
from benchmarks.record import Experiment, asked, claim
from yolo_compress.host.checkpoint import load_model, save_model
from yolo_compress.host.data import DataSpec, image_batches, sample
from yolo_compress.prune import prune
from yolo_compress.recipe import PruneSection
from yolo_compress.timing import RuntimeTiming

NAME = "prune_sibling"
LARGE, SMALL = "yolov8s", "yolov8n"
POINTS_TARGET = 1.5
CONTROL = "control"
CLAIMED = "pruned, trained"
# flags beside the settings that all share; every one begins with the same pruned model, the control with the dense one
CANDIDATES: dict[str, dict[str, Any]] = {
    "pruned, trained": {},
    "pruned, trained without labels": {"labels": False},
    "pruned, trained without labels at 3e-4": {"labels": False, "lr0": 0.0003},
    CONTROL: {},
}


def main(given: list[str]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    seeds, named = asked(given, CANDIDATES)
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
        ratio, flops = prune_to(large, pruned, data, latency, timing)
        timing.close()
        if not made.has(candidate="pruned"):
            points = accuracy(load_model(pruned), data)
            made.add({"candidate": "pruned", "latency_ratio": ratio, "flops_ratio": flops, "map50_95_points": points})
        for seed in seeds:
            for name in named:
                if not made.has(candidate=name, seed=seed):
                    start, share = (large, 1.0) if name == CONTROL else (pruned, ratio)
                    run = Path(place) / f"{seed}-{len(made.rows)}"
                    points, seconds = train_and_score(start, data, seed, run, teacher=str(large), **CANDIDATES[name])
                    row = {"candidate": name, "seed": seed, "latency_ratio": share}
                    made.add({**row, "map50_95_points": points, "seconds": seconds})
    return made.finish(_claims(made.rows))


def prune_to(large: Path, pruned: Path, data: DataSpec, latency: float, timing: RuntimeTiming) -> tuple[float, float]:
    """Prune to a share of the time; return the share of it that the saved model is measured to take, and of FLOPs."""
    chosen = sample(data.train, IMAGES, seed=0)
    result = prune(
        load_model(large),
        config=PruneSection(latency=round(latency, 3), target=TARGET),
        imgsz=IMGSZ,
        image_batches=lambda: image_batches(chosen, IMGSZ),
        timing=timing,
    )
    save_model(result.model, pruned, facts={"prune": result.facts()})
    return timing.ratio(load_model(pruned)), result.gflops_after / result.gflops_before


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def points(name: str) -> list[float]:
        return [row["map50_95_points"] for row in rows if row["candidate"] == name]

    claimed = points(CLAIMED)
    if not claimed:
        return []
    ratios = {row["candidate"]: row["latency_ratio"] for row in rows}
    (large,), (small,), (before,) = points(LARGE), points(SMALL), points("pruned")
    share = math.log(ratios[CLAIMED]) / math.log(ratios[SMALL])  # of the way from large to small
    line = large + share * (small - large)
    above = statistics.mean(claimed) - line
    told = "; ".join(f"{name} {statistics.mean(points(name)):.2f}" for name in CANDIDATES if points(name))
    statement = (
        f"{LARGE} pruned to {ratios[CLAIMED]:.3f} of its time on {TARGET} ({before:.2f} mAP50-95) and then trained for "
        f"500 steps with the dense {LARGE} as teacher, claimed of '{CLAIMED}': {told} (the control is the dense "
        f"{LARGE}); spread over seeds {max(claimed) - min(claimed):.2f}; the line between {LARGE} ({large:.2f}) and "
        f"{SMALL} ({small:.2f} at {ratios[SMALL]:.3f} of the time) is at {line:.2f} there"
    )
    seeds = sorted(row["seed"] for row in rows if row["candidate"] == CLAIMED)
    holds = above >= POINTS_TARGET and len(seeds) > 1  # one seed can show a miss, and no success
    return [claim("prune.sibling_line", statement, above, "mAP", f">= {POINTS_TARGET}", holds=holds, seeds=seeds)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
