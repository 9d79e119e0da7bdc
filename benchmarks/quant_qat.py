# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Training quantized: ours against `quantize=8` of Ultralytics, the same training in float, and no training.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.quant_qat [seed ...] [candidate ...]

Everything begins with yolov8n and trains with the same data, batches, optimizer and epochs. The last checkpoint counts,
since choosing the best one would look at the validation images. Ours and the native one become a Q/DQ ONNX in the
symmetric form that TensorRT reads, and ONNX Runtime computes both with quantizers as they are written; candidates for
OpenVINO run there. The native candidate needs nvidia-modelopt, which Ultralytics trains with. Rows that a call before
has measured are kept.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.quant_ptq import AsWritten
from benchmarks.record import Experiment, asked, claim
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.engines import engine_for, get_engine
from yolo_compress.errors import require
from yolo_compress.host.checkpoint import load_model
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_native, export_onnx
from yolo_compress.host.ultralytics import YOLO
from yolo_compress.quantize import Learned, quantize_learned, quantize_onnx
from yolo_compress.train import train

NAME = "quant_qat"
MODEL, IMGSZ, IMAGES = "yolov8n", 320, 256
SETTINGS = {
    "epochs": 3,
    "imgsz": IMGSZ,
    "batch": 16,
    "nbs": 16,
    "cache": "ram",
    "optimizer": "AdamW",
    "lr0": 0.00001,
    "lrf": 0.1,
    "cos_lr": True,
    "warmup_bias_lr": 0.0,
    "warmup_epochs": 0.5,
    "mosaic": 0.0,
    "val": False,
    "plots": False,
    "device": "cpu",
    "workers": 2,
}
OURS: dict[str, Any] = {"qat": "int8", "quantize_images": IMAGES, "fast_cpu": True, "quantize_target": "tensorrt"}
LABELS_ALONE = {**OURS, "qat_self_distill": False}
CANDIDATES: dict[str, dict[str, Any]] = {
    "float": {"fast_cpu": True},
    "native": {"quantize": 8},
    "ours": OURS,  # the default: the float model is the only teacher
    "ours, labels alone": LABELS_ALONE,
    "ours, labels alone, statistics of the batch": {**LABELS_ALONE, "qat_batchnorm": "batch"},
    "ours, labels and the float model": {**OURS, "teacher": "self"},
    "ours, openvino": {**OURS, "quantize_target": "openvino"},
}
CLAIMED = ("native", "ours")  # at two seeds; the float run decides only where ours is not ahead
BETTER, NEAR = 0.3, 0.1


def main(given: list[str]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    seeds, named = asked(given, CANDIDATES)
    if "native" in named:
        require("modelopt", extra="modelopt", purpose="native QAT runs")
    made = Experiment(NAME, imgsz=IMGSZ, model=MODEL, settings=SETTINGS)
    with tempfile.TemporaryDirectory() as place:
        for target in ("tensorrt", "openvino"):
            untrained = {"candidate": f"not trained, {target}"}
            if not made.has(**untrained):
                made.add({**untrained, **_untrained(made, Path(place), target)})
        for seed in seeds:
            for name in named:
                if not made.has(candidate=name, seed=seed):
                    made.add({"candidate": name, "seed": seed, **_trained(made, Path(place), name, seed)})
    return made.finish(_claims(made.rows))


def _trained(made: Experiment, place: Path, name: str, seed: int) -> dict[str, Any]:
    flags, run = CANDIDATES[name], place / f"{name}-{seed}".replace(", ", "-").replace(" ", "-")
    where = {"data": str(made.data.path), "seed": seed, "project": str(place), "name": run.name, "exist_ok": True}
    start = _weights(made)
    if name == "native":
        YOLO(str(start)).train(**{**SETTINGS, **flags}, **where)
    else:
        train(start, **{**SETTINGS, **flags}, **where)
    last = run / "weights" / "last.pt"
    if name == "native":
        out = export_native(
            last, place / f"{run.name}.onnx", format="onnx", quantize=8, imgsz=IMGSZ, data=made.data.path
        )
        return {"map50_95_points": accuracy(made, AsWritten(out))}
    floating = export_onnx(last, place / f"{run.name}.onnx", imgsz=IMGSZ)
    found = {"float_map50_95_points": accuracy(made, AsWritten(floating))}
    if name == "float":
        return {"map50_95_points": found["float_map50_95_points"]}
    quantized = write_learned(last, floating, place / f"{run.name}-int8.onnx")
    return {**found, "map50_95_points": _runtime_accuracy(made, place, quantized, str(flags["quantize_target"]))}


def _untrained(made: Experiment, place: Path, target: str) -> dict[str, Any]:
    floating = export_onnx(_weights(made), place / "start.onnx", imgsz=IMGSZ)
    images = sample(made.data.train, IMAGES, seed=0)
    quantized = place / f"start-{target}.onnx"
    quantize_onnx(floating, quantized, images=images, imgsz=IMGSZ, target=target)
    return {
        "float_map50_95_points": accuracy(made, AsWritten(floating)),
        "map50_95_points": _runtime_accuracy(made, place, quantized, target),
    }


def write_learned(last: Path, floating: Path, out: Path) -> Path:
    """Write the quantized graph that a checkpoint has learned, from its float graph."""
    learned = Learned.read(load_model(last))
    assert learned is not None
    return quantize_learned(floating, out, learned).path


def _runtime_accuracy(made: Experiment, place: Path, quantized: Path, target: str) -> float:
    if target != "openvino":
        return accuracy(made, AsWritten(quantized))
    built = get_engine("openvino").build(quantized, place / quantized.stem, precision="int8", imgsz=IMGSZ).path
    return accuracy(made, engine_for(built).load(built))


def accuracy(made: Experiment, session: Any, imgsz: int = IMGSZ) -> float:
    """Return the mAP50-95 of a session on the validation images, in points."""
    truth, found = detect([session], made.data.val, imgsz=imgsz)
    return 100 * evaluate(truth, found[0], classes=len(made.data.names)).map50_95


def _weights(made: Experiment) -> Path:
    return made.folder / "weights" / f"{MODEL}.pt"


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    points: dict[str, list[float]] = {}
    for row in rows:
        points.setdefault(row["candidate"], []).append(row["map50_95_points"])
    if any(len(points.get(name, ())) < 2 for name in CLAIMED):
        return []
    mean = {name: statistics.mean(found) for name, found in points.items()}
    ahead = mean["ours"] - mean["native"]
    told = "; ".join(f"{name} {value:.2f}" for name, value in mean.items())
    spread = max(max(points[name]) - min(points[name]) for name in CLAIMED)
    statement = (
        f"{MODEL}, {SETTINGS['epochs']} epochs at {IMGSZ} px, mAP50-95 as INT8, means over seeds: {told}; spread over "
        f"seeds up to {spread:.2f}"
    )
    seeds = sorted({row["seed"] for row in rows if row["candidate"] in CLAIMED})
    if ahead < BETTER and len(points.get("float", ())) > 1:  # the other way to meet the target
        behind = mean["float"] - mean["ours"]
        unit, target = "mAP below the same training in float", f"<= {NEAR}"
        return [claim("qat.vs_native", statement, behind, unit, target, holds=behind <= NEAR, seeds=seeds)]
    target = f">= {BETTER}"
    return [claim("qat.vs_native", statement, ahead, "mAP over native", target, holds=ahead >= BETTER, seeds=seeds)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
