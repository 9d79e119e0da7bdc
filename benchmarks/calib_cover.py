# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""INT8 accuracy of chosen calibration images among that of random draws of as many.

Usage: YOLO_COMPRESS_DATA=DIR nice python -m benchmarks.calib_cover [eval|tune ...]

`eval` is what the claim is about: images from the training images, accuracy on the validation images. `tune` compares
weightings of the objective without looking at those: images from the one folder of training images, accuracy on the
other. Quantizers are those of the `tensorrt` form, computed as they are written. Rows that a call before has measured
are kept.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import Experiment
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.host.data import DataSpec, sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx

NAME = "calib_cover"
MODEL, IMGSZ, IMAGES, DRAWS = "yolov8n", 320, 128, 20
RANGES, TARGET = ("minmax", "entropy"), "tensorrt"
PERCENTILE_TARGET = 75
# Which images, and what is said of how they are chosen; the first is what `yolo-compress calib` does by itself.
WAYS: dict[str, dict[str, Any]] = {"cover": {}}
CLAIMED = "cover"


def main(parts: Sequence[str]) -> int:
    """Measure what is missing and write the result file; return 1 when the claim does not hold."""
    made = Experiment(NAME, model=MODEL, imgsz=IMGSZ, calibration_images=IMAGES, target=TARGET)
    torch.set_num_threads(1)  # as the runtime below: threads that wait for each other slow a busy machine down
    with tempfile.TemporaryDirectory() as place:
        graph = export_onnx(made.folder / "weights" / f"{MODEL}.pt", Path(place) / "float.onnx", imgsz=IMGSZ)
        for part in parts:
            data = _part(made.data, part)
            for draw in range(DRAWS):
                _measure(made, part, data, graph, f"random {draw}", sample(data.train, IMAGES, seed=draw))
    return made.finish([])


class AsWritten:
    """ONNX Runtime computing quantizers as float operations, on one thread that never waits for another."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return the raw output of images."""
        return self.session.run(None, {"images": images})[0]


def _part(data: DataSpec, part: str) -> DataSpec:
    """Return the images to choose from as `train` and those to measure on as `val`."""
    if part == "eval":
        return data
    inside = [image for image in data.train if image.parent.name == "tune"]
    return replace(data, train=tuple(inside), val=tuple(image for image in data.train if image not in set(inside)))


def _measure(made: Experiment, part: str, data: DataSpec, graph: Path, way: str, images: Sequence[Path]) -> None:
    """Quantize with each range on the same images, which are run once, and measure both on the same images."""
    rows = [{"part": part, "way": way, "range": range} for range in RANGES]
    if all(made.has(**row) for row in rows):
        return
    assert len(images) == IMAGES
    seen: dict[Any, Any] = {}
    sessions = []
    for name in RANGES:
        out = graph.with_name(f"{name}.onnx")
        quantize_onnx(graph, out, images=images, imgsz=IMGSZ, target=TARGET, range=name, seen=seen)
        sessions.append(AsWritten(out))
    truth, found = detect(sessions, data.val, imgsz=IMGSZ)
    for row, detections in zip(rows, found, strict=True):
        accuracy = evaluate(truth, detections, classes=len(data.names))
        made.add({**row, "map50_95_points": 100 * accuracy.map50_95})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["eval"]))
