# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What this machine would allow: `bench roofline=true` of yolov8n and yolov8s in float and INT8.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.bench_roofline

A row per file: its time, the least time that the measured peaks allow, where the time goes that no layer accounts for,
and the layers with most to gain. Nothing is claimed but that no file beats the roof as a whole, which would say that a
peak was measured too low.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import bench_rows
from benchmarks.record import Experiment, claim
from yolo_compress.engines import get_engine
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx

NAME = "bench_roofline"
MODELS = ("yolov8n", "yolov8s")
IMGSZ, CALIBRATION, THREADS, TOLD = 320, 128, 2, 5


def main() -> int:
    """Measure and write the result file; return 1 when a file beats the roof."""
    made = Experiment(NAME, models=MODELS, imgsz=IMGSZ, threads=THREADS)
    if not made.rows:
        with tempfile.TemporaryDirectory() as place:
            for row in _bench(made, Path(place)):
                made.add(row)
    return made.finish(_claims(made.rows))


def _files(made: Experiment, place: Path) -> list[Path]:
    files = []
    for model in MODELS:
        graph = export_onnx(made.folder / "weights" / f"{model}.pt", place / f"{model}.onnx", imgsz=IMGSZ)
        images = sample(made.data.train, CALIBRATION, seed=0)
        for target in ("openvino", "onnxruntime"):
            int8 = place / f"{model}_{target}_int8.onnx"
            quantize_onnx(graph, int8, images=images, imgsz=IMGSZ, target=target, range="mse")
            if target == "onnxruntime":
                files += [graph, int8]
                continue
            engine = get_engine("openvino")
            files += [
                engine.build(f, place, precision=p, imgsz=IMGSZ).path for f, p in ((graph, "fp32"), (int8, "int8"))
            ]
    return files


def _bench(made: Experiment, place: Path) -> list[dict[str, Any]]:
    """Run the command line; return a row for each file."""
    options = {"imgsz": IMGSZ, "threads": THREADS, "roofline": True, "rounds": 64, "images": 50, "pictures": 0}
    return [_told(row) for row in bench_rows(_files(made, place), made.data.path, place / "roof", **options)]


def _told(row: dict[str, Any]) -> dict[str, Any]:
    roof = row["roofline"]
    whole = roof["whole"]
    left = sorted(roof["layers"], key=lambda layer: layer["least_seconds"] - layer["seconds"])[:TOLD]
    return {
        "label": row["label"],
        "engine": row["engine"],
        "precision": row["precision"],
        "latency_ms_p50": row["latency_ms_p50"],
        "profiled_ms": 1e3 * whole["seconds"],
        "least_ms": 1e3 * whole["least_seconds"],
        "share": whole["share"],
        "limit": whole["limit"],
        "outside_layers_ms": 1e3 * roof["other_seconds"],
        "peak_gops_per_s": {name: round(value / 1e9, 1) for name, value in roof["ops_per_s"].items()},
        "copy_gb_per_s": round(roof["bytes_per_s"] / 1e9, 2),
        "most_to_gain": [
            {
                "layer": layer["name"],
                "ms": round(1e3 * layer["seconds"], 3),
                "share": round(layer["share"], 3),
                "limit": layer["limit"],
            }
            for layer in left
        ],
    }


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    best = max(row["share"] for row in rows)
    told = "; ".join(f"{row['label']} ({row['engine']} {row['precision']}) {100 * row['share']:.0f} %" for row in rows)
    statement = f"share of what the measured peaks of this machine allow, whole files at {IMGSZ} px: {told}"
    return [claim("measure.below_roof", statement, best, "of the roof", "<= 1", holds=best <= 1)]


if __name__ == "__main__":
    sys.exit(main())
