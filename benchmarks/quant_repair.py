# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What repairing weights of few bits gains by more images, and by looking at objects more than at the rest of them.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.quant_repair

yolov8n with weights of 4 bits in blocks of 32, AdaRound and bias correction, in the symmetric form. Two draws of
calibration images; accuracy on every image that is in neither, since 400 images alone do not tell differences of this
size. The graph is computed with quantizers as they are written. Rows that a call before has measured are kept.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.quant_ptq import AsWritten
from benchmarks.record import Experiment, claim
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx

NAME = "quant_repair"
MODEL, IMGSZ, IMAGES, DRAWS = "yolov8n", 320, 256, (0, 1)
FORM: dict[str, Any] = {"target": "tensorrt", "weight_bits": 4, "weight_group": 32}
REPAIR: dict[str, Any] = {"rounding": "adaround", "bias_correction": True}
FEW, MANY, NONE, SHARE = 64, 256, 0.0, 0.5
WAYS = ((FEW, NONE), (FEW, SHARE), (MANY, NONE), (MANY, SHARE))  # repair_images and foreground


def main() -> int:
    """Measure what is missing and write the result file."""
    made = Experiment(NAME, model=MODEL, imgsz=IMGSZ, calibration_images=IMAGES, form=FORM, repair=REPAIR)
    draws = {draw: sample(made.data.train, IMAGES, seed=draw) for draw in DRAWS}
    used = {path for images in draws.values() for path in images}
    judged = [path for path in (*made.data.val, *made.data.train) if path not in used]
    with tempfile.TemporaryDirectory() as place:
        floating = export_onnx(made.folder / "weights" / f"{MODEL}.pt", Path(place) / "float.onnx", imgsz=IMGSZ)

        def add(file: Path, **row: Any) -> None:
            truth, (found,) = detect([AsWritten(file)], judged, imgsz=IMGSZ)
            points = 100 * evaluate(truth, found, classes=len(made.data.names)).map50_95
            made.add({**row, "map50_95_points": points, "images_judged": len(judged)})

        if not made.has(way="float"):
            add(floating, way="float")
        for draw, images in draws.items():
            for count, share in WAYS:
                if not made.has(draw=draw, repair_images=count, foreground=share):
                    given, begin = {"repair_images": count, "foreground": share}, time.perf_counter()
                    out = Path(place) / f"{draw}-{count}-{share}.onnx"
                    quantize_onnx(floating, out, images=images, imgsz=IMGSZ, **FORM, **REPAIR, **given)
                    add(out, way="repaired", draw=draw, **given, seconds=round(time.perf_counter() - begin))
    return made.finish(_claims(made.rows))


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def points(count: int, share: float) -> list[float]:
        wanted = (count, share)
        return [row["map50_95_points"] for row in rows if (row.get("repair_images"), row.get("foreground")) == wanted]

    if any(len(points(*way)) < len(DRAWS) for way in WAYS):
        return []
    floating = next(row["map50_95_points"] for row in rows if row["way"] == "float")
    told = "; ".join(
        f"{count} images, foreground={share:g}: {statistics.mean(points(count, share)):.2f} "
        f"({', '.join(f'{value:.2f}' for value in points(count, share))})"
        for count, share in WAYS
    )
    statement = (
        f"{MODEL} with weights of 4 bits in blocks of 32 after AdaRound and bias correction, mAP50-95 at {IMGSZ} px on "
        f"{rows[0]['images_judged']} images that were not looked at, mean over {len(DRAWS)} draws of calibration "
        f"images: float {floating:.2f}; {told}; gain of "
    )
    few, objects, many = (statistics.mean(points(*way)) for way in ((FEW, NONE), (FEW, SHARE), (MANY, NONE)))
    gains = {
        "quant.foreground_gain": (objects - few, f"foreground={SHARE:g} with {FEW} images"),
        "quant.repair_images_gain": (many - few, f"{MANY} images over {FEW}"),
    }
    return [
        claim(name, statement + what, gain, "mAP", "> 0", holds=gain > 0, seeds=list(DRAWS))
        for name, (gain, what) in gains.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
