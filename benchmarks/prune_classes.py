# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A detector of one class, cut out of one of eighty: what is left to prune, against the line that its siblings make.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.prune_classes [seed ...]

yolov8n and yolov8s are left with the class `person` (`yolo-compress classes`), and so is the data. yolov8s is then
pruned by a fifth of its operations, as `benchmarks.prune_training_free` does with all classes, and to a share of its
measured time, a quarter of the way to yolov8n in log latency. The latter is trained with yolov8s, unpruned, as teacher;
the unpruned models are trained in just the same way, since anybody could do that. Everywhere the better of trained and
untrained counts; of a training the last checkpoint does. Rows that a call before has measured are kept.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.prune_recovery import IMGSZ, SETTINGS, TARGET, train_and_score
from benchmarks.prune_sibling import LARGE, POINTS_TARGET, SMALL, prune_to
from benchmarks.prune_training_free import FLOPS, IMAGES, accuracy
from benchmarks.record import Experiment
from yolo_compress.api import classes
from yolo_compress.host.checkpoint import load_model
from yolo_compress.host.data import image_batches, read_data, sample
from yolo_compress.prune import prune
from yolo_compress.recipe import PruneSection
from yolo_compress.timing import RuntimeTiming

NAME = "prune_classes"
KEEP = ("person",)
LIKE_ALL = (
    f"{LARGE} less {100 * FLOPS:.0f} % of its operations"  # as benchmarks/prune_training_free.py prunes all classes
)
WAYS = (0.25,)  # of the way from the large model to the small one, in log latency
WHOLE = {"mosaic": 0.0}  # small sets learn more from images as they are


def main(seeds: list[int]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ, settings={**SETTINGS, **WHOLE})
    with tempfile.TemporaryDirectory() as place:
        files, data = {}, None
        for name in (SMALL, LARGE):
            given = {"keep": KEEP, "project": place, "name": name}
            left = classes(made.folder / "weights" / f"{name}.pt", data=made.data.path, **given)
            files[name], data = left.checkpoint.path, read_data(left.data.path)
        assert data is not None
        timing = RuntimeTiming(
            load_model(files[LARGE]), TARGET, imgsz=IMGSZ, images=data.train, cache=Path(place) / "l"
        )
        for name in (LARGE, SMALL):
            if not made.has(candidate=name):
                model = load_model(files[name])
                ratio = 1.0 if name == LARGE else timing.ratio(model)
                made.add({"candidate": name, "latency_ratio": ratio, "map50_95_points": accuracy(model, data)})
        if not made.has(candidate=LIKE_ALL):
            chosen = sample(data.train, IMAGES, seed=0)
            result = prune(
                load_model(files[LARGE]),
                config=PruneSection(flops=FLOPS),
                imgsz=IMGSZ,
                image_batches=lambda: image_batches(chosen, IMGSZ),
            )
            ratio, points = timing.ratio(result.model), accuracy(result.model, data)
            made.add({"candidate": LIKE_ALL, "latency_ratio": ratio, "map50_95_points": points})
        ratios = {row["candidate"]: row["latency_ratio"] for row in made.rows}
        for way in WAYS:
            name = _label(way)
            files[name] = Path(place) / f"pruned-{way}.pt"
            done = all(made.has(candidate=f"{name}, trained", seed=seed) for seed in seeds)
            if done and made.has(candidate=name):
                continue
            ratio = prune_to(files[LARGE], files[name], data, ratios[SMALL] ** way, timing)
            ratios[name] = ratio  # of the model that is trained, where an earlier call has pruned it as well
            if not made.has(candidate=name):
                points = accuracy(load_model(files[name]), data)
                made.add({"candidate": name, "latency_ratio": ratio, "map50_95_points": points})
        timing.close()
        for seed in seeds:
            for name in (*map(_label, WAYS), SMALL, LARGE):
                if not made.has(candidate=f"{name}, trained", seed=seed):
                    run = Path(place) / f"{files[name].stem}-{files[name].parent.name}-{seed}"
                    points, seconds = train_and_score(files[name], data, seed, run, teacher=str(files[LARGE]), **WHOLE)
                    row = {"candidate": f"{name}, trained", "seed": seed, "latency_ratio": ratios[name]}
                    made.add({**row, "map50_95_points": points, "seconds": seconds})
    return made.finish(_claims(made.rows, seeds))


def _label(way: float) -> str:
    return f"{LARGE} pruned {way:g} of the way"


def _claims(rows: list[dict[str, Any]], seeds: list[int]) -> list[dict[str, Any]]:
    def points(name: str) -> list[float]:
        found = [row for row in rows if row["candidate"] == name and row.get("seed", seeds[0]) in seeds]
        return [row["map50_95_points"] for row in found]

    needed = [f"{name}, trained" for name in (*map(_label, WAYS), SMALL, LARGE)]
    if any(len(points(name)) < len(seeds) for name in needed):
        return []
    ratios = {row["candidate"]: row["latency_ratio"] for row in rows}
    large, small = (max(points(name)[0], statistics.mean(points(f"{name}, trained"))) for name in (LARGE, SMALL))
    told, above = [], []
    for way in WAYS:
        name = _label(way)
        line = large + math.log(ratios[name]) / math.log(ratios[SMALL]) * (small - large)
        trained = points(f"{name}, trained")
        above.append(max(points(name)[0], statistics.mean(trained)) - line)
        told.append(
            f"to {ratios[name]:.3f} of its time {points(name)[0]:.2f}, and trained {statistics.mean(trained):.2f} "
            f"(spread over seeds {max(trained) - min(trained):.2f}), where the line is at {line:.2f}"
        )
    ends = "; ".join(
        f"{name} {points(name)[0]:.2f}, trained {statistics.mean(points(f'{name}, trained')):.2f}"
        for name in (LARGE, SMALL)
    )
    return [
        {
            "id": "prune.one_class_line",
            "statement": f"{LARGE} left with the class {', '.join(KEEP)} and pruned, mAP50-95 of that class against "
            f"the line from {LARGE} to {SMALL} in log latency on {TARGET}: {'; '.join(told)}; {ends} at "
            f"{ratios[SMALL]:.3f} of the time; the value is the distance of the better of the two",
            "value": round(min(above), 2),
            "unit": "mAP",
            "target": f">= {POINTS_TARGET}",
            "holds": round(min(above), 2) >= POINTS_TARGET,
            "seeds": seeds,
        }
    ]


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]] or [0, 1]))
