# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How near finished models come to the operations and the latency that were asked for, and what scores cost in time.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.prune_budget

Operations are counted on the finished model. Latency is measured on the finished model, against the dense one, in a
timing of its own after pruning has ended. Rows that a call before has measured are kept.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Experiment
from yolo_compress.host.checkpoint import count, load_model
from yolo_compress.host.data import DataSpec, image_batches, labelled_batches
from yolo_compress.host.detect import detection_loss
from yolo_compress.prune import IMPORTANCES, Inputs, Target, Widths, build_graph, prune
from yolo_compress.prune.greedy import removal_steps
from yolo_compress.recipe import PruneSection
from yolo_compress.timing import RuntimeTiming

NAME = "prune_budget"
IMGSZ = 320
MODELS = ("yolov8n", "yolov8s", "yolo11n-int8dq", "yolo26n-int8dq")
FLOPS = (0.1, 0.2, 0.3, 0.5)
LATENCY = (("yolov8n", "openvino:int8", 0.8), ("yolov8n", "openvino:fp32", 0.7))
LATENCY_IMAGES = 128  # for the default score; a latency does not ask for a good one
ROUNDS = 200
SCORED = ("obs", "output", "steps")  # steps: what obs does with scope=budget
SCORED_IMAGES = 256
SEARCHED = 0.2  # share of the operations that the steps remove
STEPS = 8
BATCH = 16
ERROR_TARGET = 0.03
COST_TARGET = 3.0


def main() -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ)
    wanted = [{"model": m, "target": "flops", "asked": share} for m in MODELS for share in FLOPS]
    wanted += [{"model": m, "target": t, "asked": share} for m, t, share in LATENCY]
    wanted += [{"model": "yolov8n", "target": f"time of {name}", "asked": COST_TARGET} for name in SCORED]
    with tempfile.TemporaryDirectory() as cache:
        for row in wanted:
            if made.has(**row):
                continue
            if row["target"] == "flops":
                found = _flops(made.folder, row)
            elif ":" in row["target"]:
                found = _latency(made.folder, made.data, row, Path(cache))
            else:
                found = _cost(made.folder, made.data, row["target"].rpartition(" ")[2])
            made.add({**row, **found})
    return made.finish(_claims(made.rows))


def _flops(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    model = load_model(folder / "weights" / f"{row['model']}.pt")
    config = PruneSection(flops=row["asked"], importance="l2", repair="nothing", max_share=0.9)
    result = prune(model, config=config, imgsz=IMGSZ)
    met = 1 - count(result.model, IMGSZ)[1] / count(model, IMGSZ)[1]
    return {"met": met, "error": abs(met - row["asked"]) / row["asked"]}


def _latency(folder: Path, data: DataSpec, row: dict[str, Any], cache: Path) -> dict[str, Any]:
    model = load_model(folder / "weights" / f"{row['model']}.pt")
    config = PruneSection(latency=row["asked"], target=row["target"], repair="nothing", max_share=0.9)
    images = data.train[:LATENCY_IMAGES]
    begin = time.perf_counter()
    timing = RuntimeTiming(model, row["target"], imgsz=IMGSZ, images=data.train, cache=cache)
    result = prune(model, config=config, imgsz=IMGSZ, timing=timing, image_batches=lambda: image_batches(images, IMGSZ))
    timing.close()
    seconds = time.perf_counter() - begin
    again = RuntimeTiming(model, row["target"], imgsz=IMGSZ, images=data.train, cache=cache, rounds=ROUNDS)
    met = again.ratio(result.model)
    again.close()
    notes = [note for note in result.notes if note.startswith("measured")]
    flops = 1 - result.gflops_after / result.gflops_before
    return {
        "met": met,
        "error": abs(met - row["asked"]) / row["asked"],
        "seconds": seconds,
        "profiles": len(timing.cache.models),
        "flops_removed": flops,
        "notes": notes,
    }


def _cost(folder: Path, data: DataSpec, name: str) -> dict[str, Any]:
    """Time a score per image against a training step of 16 images: forward, backward, update."""
    model = load_model(folder / "weights" / "yolov8n.pt")
    graph = build_graph(model, imgsz=IMGSZ)
    images = data.train[:SCORED_IMAGES]
    begin = time.perf_counter()
    inputs = Inputs(images=lambda: image_batches(images, IMGSZ))
    if name == "steps":
        target = {"target": Target("flops", SEARCHED), "widths": Widths(8, 0.7)}
        removal_steps(model, graph, inputs, **target, progress=lambda line: None)
    else:
        IMPORTANCES[name].function(model, graph, inputs, lambda line: None)
    score = (time.perf_counter() - begin) / SCORED_IMAGES
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    model.train()
    step = 0.0
    for batch in labelled_batches(data, IMGSZ, batch=BATCH, limit=STEPS * BATCH):
        begin = time.perf_counter()
        optimizer.zero_grad()
        detection_loss(model, batch).backward()
        optimizer.step()
        step += (time.perf_counter() - begin) / STEPS
    return {"met": score / step, "error": 0.0, "seconds_per_image": score, "seconds_per_step": step}


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    budgets = [row for row in rows if not row["target"].startswith("time")]
    worst = max(budgets, key=lambda row: row["error"])
    timed = ", ".join(f"{r['model']} {r['target']} {r['asked']}: {r['met']:.3f}" for r in rows if ":" in r["target"])
    costs = ", ".join(
        f"{r['target'].rpartition(' ')[2]} {r['met']:.2f}" for r in rows if r["target"].startswith("time")
    )
    highest = max(row["met"] for row in rows if row["target"].startswith("time"))
    return [
        {
            "id": "prune.budget_error",
            "statement": f"largest relative miss of flops= and latency= targets over {len(budgets)} finished models "
            f"({worst['model']}, {worst['target']} {worst['asked']}: {worst['met']:.3f}); measured latencies {timed}; "
            f"a score over 256 images takes, in training steps of {BATCH} images per image: {costs} "
            f"(at most {COST_TARGET:g})",
            "value": round(worst["error"], 4),
            "unit": "of the target",
            "target": f"<= {ERROR_TARGET}",
            "holds": round(worst["error"], 4) <= ERROR_TARGET and highest <= COST_TARGET,
            "seeds": [0],
        }
    ]


if __name__ == "__main__":
    sys.exit(main())
