# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Real builds without a GPU: TensorRT-RTX makes float32 and INT8 engines of four detectors.

It says that NVIDIA's parser and builder take our graphs. It says nothing of speed or accuracy: nothing is run.

    pip install 'yolo-compress[ci-rtx]'
    python -m benchmarks.trt_rtx
"""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import Experiment, claim
from yolo_compress.artifacts import sha256_path
from yolo_compress.calibrate import choose
from yolo_compress.engines.tensorrt.engine import TensorRtRtx
from yolo_compress.engines.tensorrt.plan import read_plan
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx

MODELS = ("yolov8n", "yolov8s", "yolo11n-int8dq", "yolo26n-int8dq")
PRECISIONS = ("fp32", "int8")
IMGSZ, IMAGES, RANGE, COMPUTE = 320, 32, "mse", "SM86"
PACKAGES = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs")


def main() -> int:
    """Build what has not been built yet, and claim how many came out."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    experiment = Experiment("trt_rtx", packages=versions, imgsz=IMGSZ, calibration_images=IMAGES, range=RANGE)
    images = choose(experiment.data, IMAGES).images
    for model in MODELS:
        with tempfile.TemporaryDirectory() as place:
            graphs: dict[str, Path] = {}
            for precision in PRECISIONS:
                if experiment.has(model=model, precision=precision):
                    continue
                if not graphs:
                    source = experiment.folder / f"weights/{model}.pt"
                    graphs["fp32"] = export_onnx(source, Path(place) / "fp32.onnx", imgsz=IMGSZ)
                    graphs["int8"] = Path(place) / "int8.onnx"
                    options: dict[str, Any] = {"images": images, "imgsz": IMGSZ, "target": "tensorrt", "range": RANGE}
                    quantize_onnx(graphs["fp32"], graphs["int8"], **options)
                experiment.add(_built(model, precision, graphs[precision], Path(place)))
    return experiment.finish([_claim(experiment.rows)])


def _built(model: str, precision: str, graph: Path, folder: Path) -> dict[str, Any]:
    from yolo_compress.recipe import TensorRtSection

    begin = time.perf_counter()
    options = TensorRtSection(compute=COMPUTE)
    made = TensorRtRtx().build(graph, folder, precision=precision, imgsz=IMGSZ, options=options)
    seconds = time.perf_counter() - begin
    metadata, offset = read_plan(made.path)
    return {
        "model": model,
        "precision": precision,
        "compute": COMPUTE,
        "onnx_sha256": sha256_path(graph),
        "onnx_bytes": graph.stat().st_size,
        "plan_bytes": made.path.stat().st_size - offset,
        "task": metadata.get("task"),
        "notes": list(made.notes),
        "seconds": round(seconds, 1),
    }


def _claim(rows: list[dict[str, Any]]) -> dict[str, Any]:
    wanted = {(model, precision) for model in MODELS for precision in PRECISIONS}
    made = {(row["model"], row["precision"]) for row in rows if row["plan_bytes"] > 0} & wanted
    statement = (
        f"fp32 and Q/DQ INT8 graphs of {', '.join(MODELS)} at {IMGSZ} px that TensorRT-RTX parses and builds on a "
        "machine without a GPU; engines are not run"
    )
    return claim("trt.rtx_builds", statement, len(made), "engines", "== 8", holds=len(made) == len(wanted))


if __name__ == "__main__":
    sys.exit(main())
