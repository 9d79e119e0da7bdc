# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What noise, blur, light, compression and haze cost yolov8n in float and in INT8.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.bench_robustness

Rows are accuracies on the same images, clean and at severities 1, 3 and 5 of every corruption. Rows that a call before
has measured are kept.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Experiment, claim
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.bench.corruptions import CORRUPTIONS, corrupt
from yolo_compress.bench.robustness import relative_drops
from yolo_compress.bench.run import evenly
from yolo_compress.engines import engine_for
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx

NAME = "bench_robustness"
MODEL, IMGSZ, CALIBRATION, IMAGES = "yolov8n", 320, 64, 100
SEVERITIES = (1, 3, 5)
FORMS = ("float", "int8")
EXTRA_DROP = 5.0  # points of percent that INT8 may lose beyond the float model under any corruption


def main() -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, model=MODEL, imgsz=IMGSZ, images=IMAGES, calibration_images=CALIBRATION)
    settings = [("clean", 0), *((name, severity) for name in CORRUPTIONS for severity in SEVERITIES)]
    missing = [pair for pair in settings if not made.has(corruption=pair[0], severity=pair[1])]
    if missing:
        with tempfile.TemporaryDirectory() as place:
            sessions = _sessions(made, Path(place))
            for name, severity in missing:
                change = None if name == "clean" else _change(name, severity)
                truth, found = detect(sessions, evenly(made.data.val, IMAGES), imgsz=IMGSZ, change=change)
                values = [evaluate(truth, one, classes=len(made.data.names)).map50_95 for one in found]
                points = {f"{form}_map50_95_points": 100 * v for form, v in zip(FORMS, values, strict=True)}
                made.add({"corruption": name, "severity": severity, **points})
    return made.finish(_claims(made.rows))


def drops(rows: list[dict[str, Any]], form: str) -> dict[str, float]:
    """Return by corruption the mean relative drop of a form of the model, in percent."""
    key = f"{form}_map50_95_points"
    clean = next(row[key] for row in rows if row["corruption"] == "clean")
    spoilt = [(row["corruption"], row["severity"], row[key]) for row in rows if row["corruption"] != "clean"]
    return {name: 100 * (drop or 0.0) for name, drop in relative_drops(clean, spoilt)}


def _sessions(made: Experiment, place: Path) -> list[Any]:
    full, int8 = place / f"{MODEL}.onnx", place / "int8.onnx"
    export_onnx(made.folder / "weights" / f"{MODEL}.pt", full, imgsz=IMGSZ)
    images = sample(made.data.train, CALIBRATION, seed=0)
    quantize_onnx(full, int8, images=images, imgsz=IMGSZ, target="onnxruntime", range="mse", progress=print)
    return [engine_for(path).load(path, threads=1) for path in (full, int8)]  # more threads change no answer


def _change(name: str, severity: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: corrupt(image, name, severity)


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    full, int8 = drops(rows, "float"), drops(rows, "int8")
    extra = {name: int8[name] - full[name] for name in full}
    worst = max(extra, key=lambda name: extra[name])
    told = "; ".join(f"{name} {full[name]:.1f} and {int8[name]:.1f}" for name in full)
    return [
        claim(
            "measure.robustness_int8",
            f"most that {MODEL} in INT8 (ONNX Runtime, mse, {CALIBRATION} images) loses beyond its float model under a "
            f"corruption ({worst}), mean relative drop over severities {SEVERITIES} on {IMAGES} images at {IMGSZ} px; "
            f"float and INT8 lose, in percent: {told}; means {statistics.mean(full.values()):.1f} and "
            f"{statistics.mean(int8.values()):.1f}",
            extra[worst],
            "points of percent",
            f"<= {EXTRA_DROP:g}",
            holds=extra[worst] <= EXTRA_DROP,
        )
    ]


if __name__ == "__main__":
    sys.exit(main())
