# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Pruned to the same measured latency and recovered by the same training: our way to prune against plain ones.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.prune_recovery [seed ...]

Every candidate is yolov8n, pruned until it is measured to take `LATENCY` of the dense model's time, then trained for
500 steps with the same data, batches, optimizer and seed, without distillation. The last checkpoint counts, since
choosing the best one would look at the validation images. Latency is measured once more on the finished model. Rows
that a call before has measured are kept.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.prune_training_free import accuracy
from benchmarks.record import Experiment
from yolo_compress.host.checkpoint import load_model, save_model
from yolo_compress.host.cpu import bf16_units
from yolo_compress.host.data import DataSpec, image_batches, sample
from yolo_compress.prune import prune
from yolo_compress.recipe import PruneSection
from yolo_compress.timing import RuntimeTiming
from yolo_compress.train import train

NAME = "prune_recovery"
MODEL = "yolov8n"
IMGSZ = 320
IMAGES = 256
TARGET = "openvino:fp32"
LATENCY = 0.75
# `torch-pruning style` is what a plain use of such a library does: the lowest norms anywhere, no repair
CANDIDATES: dict[str, dict[str, Any]] = {
    "ours": {},
    "uniform l2": {"importance": "l2", "scope": "local", "repair": "nothing"},
    "torch-pruning style": {"importance": "l2", "scope": "global", "repair": "nothing", "max_share": 0.9},
    "uniform l2, repaired": {"importance": "l2", "scope": "local", "repair": "reconstruct"},
}
SETTINGS = {
    "epochs": 5,
    "imgsz": IMGSZ,
    "batch": 16,
    "nbs": 16,
    "cache": "ram",
    "optimizer": "AdamW",
    "lr0": 0.0001,
    "cos_lr": True,
    "warmup_bias_lr": 0.0,
    "warmup_epochs": 0.5,
    "mosaic": 0.5,
    "close_mosaic": 1,
    "val": False,
    "plots": False,
    "device": "cpu",
    "workers": 2,
    "fast_cpu": True,
}
POINTS_TARGET = 1.5


def main(seeds: list[int]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ, settings=SETTINGS)
    with tempfile.TemporaryDirectory() as place:
        for seed in seeds:
            for name in CANDIDATES:
                if not made.has(candidate=name, seed=seed):
                    made.add(_row(made.folder, made.data, name, seed, Path(place)))
    return made.finish(_claims(made.rows, seeds))


def train_and_score(start: Path, data: DataSpec, seed: int, run: Path, **flags: Any) -> tuple[float, float]:
    """Train with `SETTINGS` and flags, which win, into a run folder; return mAP50-95 of its last.pt, and seconds."""
    begin = time.perf_counter()
    ours = {"amp": "bf16", **flags} if bf16_units() else flags
    where = {"data": str(data.path), "seed": seed, "project": str(run.parent), "name": run.name, "exist_ok": True}
    train(start, **{**SETTINGS, **ours}, **where)
    return accuracy(load_model(run / "weights" / "last.pt"), data), time.perf_counter() - begin


def write_pruned(made: Experiment, model: str, flops: float, out: Path) -> None:
    """Prune a share of a model's operations by the default way, and write the checkpoint."""
    chosen = sample(made.data.train, IMAGES, seed=0)
    result = prune(
        load_model(made.folder / "weights" / f"{model}.pt"),
        config=PruneSection(flops=flops),
        imgsz=IMGSZ,
        image_batches=lambda: image_batches(chosen, IMGSZ),
    )
    save_model(result.model, out, facts={"prune": result.facts()})


def _row(folder: Path, data: DataSpec, name: str, seed: int, place: Path) -> dict[str, Any]:
    dense = load_model(folder / "weights" / f"{MODEL}.pt")
    timing = RuntimeTiming(dense, TARGET, imgsz=IMGSZ, images=data.train, cache=place / "layers")
    pruned = place / f"{name}.pt"
    if not pruned.is_file():  # every seed trains the same pruned model
        chosen = sample(data.train, IMAGES, seed=0)
        result = prune(
            dense,
            config=PruneSection(latency=LATENCY, target=TARGET, **CANDIDATES[name]),
            imgsz=IMGSZ,
            image_batches=lambda: image_batches(chosen, IMGSZ),
            timing=timing,
        )
        save_model(result.model, pruned, facts={"prune": result.facts()})
    model = load_model(pruned)
    found = {"latency_ratio": timing.ratio(model), "map50_95_points_before": accuracy(model, data)}
    timing.close()
    found["map50_95_points"], seconds = train_and_score(pruned, data, seed, place / f"{name}-{seed}")
    return {
        "candidate": name,
        "seed": seed,
        **found,
        "params": sum(p.numel() for p in model.parameters()),
        "seconds": seconds,
    }


def _claims(rows: list[dict[str, Any]], seeds: list[int]) -> list[dict[str, Any]]:
    points = {
        name: [row["map50_95_points"] for row in rows if row["candidate"] == name and row["seed"] in seeds]
        for name in CANDIDATES
    }
    ratios = {
        name: statistics.mean(row["latency_ratio"] for row in rows if row["candidate"] == name) for name in CANDIDATES
    }
    means = {name: statistics.mean(found) for name, found in points.items()}
    plain = ("uniform l2", "torch-pruning style")
    ahead = min(means["ours"] - means[name] for name in plain)
    spread = max(max(found) - min(found) for found in points.values())
    told = "; ".join(f"{name} {means[name]:.2f} at {ratios[name]:.3f}" for name in CANDIDATES)
    return [
        {
            "id": "prune.latency_vs_uniform",
            "statement": f"{MODEL} pruned to {LATENCY} of its time on {TARGET} and trained for 500 steps without "
            f"distillation: mAP50-95 at measured share of the time: {told}; spread over seeds up to {spread:.2f}; the "
            "difference is to the better of uniform l2 and torch-pruning style",
            "value": round(ahead, 2),
            "unit": "mAP",
            "target": f">= {POINTS_TARGET}",
            "holds": round(ahead, 2) >= POINTS_TARGET and ahead > spread,
            "seeds": seeds,
        }
    ]


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]] or [0, 1]))
