# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Pruning and quantization in one training run, against one after the other in as many epochs.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.joint_training [seed ...] [candidate ...]

yolov8n loses the same share of its operations in every candidate and trains with the same images, batches, optimizer
and number of epochs, labels and the dense model as teacher throughout. `joint` prunes in steps while it trains
quantized; `in turn` prunes, trains in float for half of the epochs, then quantized for the other half; `not trained
quantized` prunes, trains in float for all of them, and is quantized without training. Half of the training images are
used, since the quantized epochs take long. The last checkpoint counts; all become a graph for OpenVINO and run there.
Rows that a call before has measured are kept.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.quant_ptq import AsWritten
from benchmarks.quant_qat import SETTINGS as QAT_SETTINGS
from benchmarks.quant_qat import accuracy, write_learned
from benchmarks.record import Experiment, asked, claim
from yolo_compress.engines import engine_for, get_engine
from yolo_compress.host.checkpoint import count, load_model
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx
from yolo_compress.train import train

NAME = "joint_training"
MODEL, IMGSZ, IMAGES, FLOPS, EPOCHS = "yolov8n", 320, 256, 0.15, 4
SETTINGS: dict[str, Any] = {**QAT_SETTINGS, "epochs": EPOCHS, "fraction": 0.5, "lr0": 0.00003, "fast_cpu": True}
PRUNE: dict[str, Any] = {"prune_flops": FLOPS, "prune_images": IMAGES}
QAT: dict[str, Any] = {"qat": "int8", "quantize_images": IMAGES, "quantize_target": "openvino"}
STEPS: dict[str, Any] = {"prune_schedule": "iterative", "prune_steps": 2, "prune_window": 0.5}
# the runs of each candidate, one after the other, each from the last checkpoint of the one before
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "joint": [{**PRUNE, **STEPS, **QAT}],
    "joint, pruned at once": [{**PRUNE, **QAT}],
    "in turn": [{**PRUNE, "epochs": EPOCHS // 2}, {**QAT, "epochs": EPOCHS // 2}],
    "not trained quantized": [PRUNE],
}
BEHIND = 0.3  # mAP50-95 points that one run may cost against two


def main(given: list[str]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    seeds, named = asked(given, CANDIDATES)
    made = Experiment(NAME, imgsz=IMGSZ, model=MODEL, settings=SETTINGS)
    with tempfile.TemporaryDirectory() as place:
        for seed in seeds:
            for name in named:
                if not made.has(candidate=name, seed=seed):
                    made.add({"candidate": name, "seed": seed, **_trained(made, Path(place), name, seed)})
    return made.finish(_claims(made.rows))


def _trained(made: Experiment, place: Path, name: str, seed: int) -> dict[str, Any]:
    dense = made.folder / "weights" / f"{MODEL}.pt"
    last, began = dense, time.perf_counter()
    for index, flags in enumerate(CANDIDATES[name]):
        run = f"{name}-{seed}-{index}".replace(" ", "-")
        where = {"data": str(made.data.path), "seed": seed, "project": str(place), "name": run, "exist_ok": True}
        train(last, **{**SETTINGS, **flags}, teacher=str(dense), **where)
        last = place / run / "weights" / "last.pt"
    seconds = time.perf_counter() - began
    floating = export_onnx(last, place / "float.onnx", imgsz=IMGSZ)
    quantized = place / "int8.onnx"
    if "qat" in CANDIDATES[name][-1]:
        write_learned(last, floating, quantized)
    else:
        images = sample(made.data.train, IMAGES, seed=0)
        quantize_onnx(floating, quantized, images=images, imgsz=IMGSZ, target="openvino")
    built = get_engine("openvino").build(quantized, place / "int8", precision="int8", imgsz=IMGSZ).path
    return {
        "map50_95_points": accuracy(made, engine_for(built).load(built)),
        "float_map50_95_points": accuracy(made, AsWritten(floating)),
        "operations_share": count(load_model(last), IMGSZ)[1] / count(load_model(dense), IMGSZ)[1],
        "seconds": seconds,
    }


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    points: dict[str, list[float]] = {}
    for row in rows:
        points.setdefault(row["candidate"], []).append(row["map50_95_points"])
    if any(len(points.get(name, ())) < 2 for name in CANDIDATES):
        return []
    mean = {name: statistics.mean(found) for name, found in points.items()}
    spread = max(max(found) - min(found) for found in points.values())
    statement = (
        f"{MODEL}, {100 * FLOPS:.0f} % of its operations pruned, {EPOCHS} epochs on half of the training images at "
        f"{IMGSZ} px, mAP50-95 as INT8 for OpenVINO, means over seeds: "
        f"{'; '.join(f'{name} {value:.2f}' for name, value in mean.items())}; spread over seeds up to {spread:.2f}"
    )
    behind = mean["in turn"] - mean["joint"]
    seeds = sorted({row["seed"] for row in rows})
    return [
        claim(
            "qat.joint",
            statement,
            behind,
            "mAP below one after the other",
            f"<= {BEHIND}",
            holds=behind <= BEHIND,
            seeds=seeds,
        )
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
