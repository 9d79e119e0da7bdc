# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What masks over single weights cost in accuracy, save in compressed size, and save in time on CPU runtimes.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.prune_weights

yolov8n, no training; repair and scores see 128 images. A ratio is the masked model's time
over the dense one's, the median of 200 rounds in turns. Rows that a call before has measured are kept.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.prune_training_free import accuracy
from benchmarks.record import Experiment
from yolo_compress.host.checkpoint import load_model
from yolo_compress.host.data import DataSpec, image_batches, sample
from yolo_compress.prune import PruneResult, compressed_bytes, prune, zero_share
from yolo_compress.recipe import PruneSection
from yolo_compress.timing import RuntimeTiming

NAME = "prune_weights"
IMGSZ = 320
IMAGES = 128
MASKS = (
    ("unstructured", 0.3, "magnitude", "nothing"),
    ("unstructured", 0.3, "magnitude", "reconstruct"),
    ("unstructured", 0.3, "gradient", "nothing"),
    ("unstructured", 0.3, "gradient", "batchnorm"),
    ("unstructured", 0.3, "gradient", "reconstruct"),
    ("unstructured", 0.5, "gradient", "reconstruct"),
    ("unstructured", 0.7, "gradient", "reconstruct"),
    ("2:4", 0.5, "magnitude", "reconstruct"),
    ("2:4", 0.5, "gradient", "nothing"),
    ("2:4", 0.5, "gradient", "reconstruct"),
)
TIMED = (("unstructured", 0.7, "gradient", "reconstruct"), ("2:4", 0.5, "gradient", "reconstruct"))
RUNTIMES = ("openvino:fp32", "openvino:int8", "onnxruntime:fp32", "onnxruntime:int8")
KEYS = ("mask", "mask_share", "mask_importance", "repair")


def main() -> int:
    """Measure what is missing and write the result file."""
    made = Experiment(NAME, imgsz=IMGSZ)
    data, dense = made.data, load_model(made.folder / "weights" / "yolov8n.pt")
    if not made.has(mask="nothing"):
        made.add({"mask": "nothing", "map50_95_points": accuracy(dense, data), "bytes": compressed_bytes(dense)})
    for way in MASKS:
        setting = dict(zip(KEYS, way, strict=True))
        if not made.has(**setting):
            result = _masked(dense, data, setting)
            made.add(
                {
                    **setting,
                    "map50_95_points": accuracy(result.model, data),
                    "bytes": compressed_bytes(result.model),
                    "zero_share": zero_share(result.masks),
                    "seconds": result.seconds,
                    "ratios": _ratios(dense, result.model, data) if way in TIMED else {},
                }
            )
    return made.finish()


def _masked(dense: nn.Module, data: DataSpec, setting: dict[str, Any]) -> PruneResult:
    chosen = sample(data.train, IMAGES, seed=0)
    config = PruneSection(**setting)
    return prune(dense, config=config, imgsz=IMGSZ, image_batches=lambda: image_batches(chosen, IMGSZ))


def _ratios(dense: nn.Module, masked: nn.Module, data: DataSpec) -> dict[str, float]:
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for target in RUNTIMES:
            timing = RuntimeTiming(dense, target, imgsz=IMGSZ, images=data.train, cache=Path(cache))
            found[target] = timing.ratio(masked)
            timing.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
