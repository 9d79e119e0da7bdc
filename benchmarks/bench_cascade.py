# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a cascade of a small and a large INT8 engine gains over each of them, and over sending images on by chance.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.bench_cascade

One command line per share of images that go on: `yolo-compress bench` of both engines and the cascade, on all
validation images; the rule is fitted on training images, without labels. Sending the same share on by chance would lie
on the straight line between the two engines in (mean latency, mAP); the distance above it is what doubt is worth. Rows
that a call before has measured are kept.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import bench_rows
from benchmarks.record import Experiment, claim
from yolo_compress.engines import get_engine
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx

NAME = "bench_cascade"
MODELS = ("yolov8n", "yolov8s")  # cheap and precise
IMGSZ, CALIBRATION, ROUNDS, THREADS = 320, 128, 200, 2
SHARES = (0.25, 0.5)
CLAIMED, ABOVE = 0.25, 0.5


def main() -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, models=MODELS, imgsz=IMGSZ, calibration_images=CALIBRATION, threads=THREADS)
    missing = [share for share in SHARES if not made.has(share=share)]
    if missing:
        with tempfile.TemporaryDirectory() as place:
            engines = [_engine(made, model, Path(place)) for model in MODELS]
            for share in missing:
                for row in _bench(made, engines, share, Path(place)):
                    made.add({"share": share, **row})
    return made.finish(_claims(made.rows))


def _engine(made: Experiment, model: str, place: Path) -> Path:
    graph = export_onnx(made.folder / "weights" / f"{model}.pt", place / f"{model}.onnx", imgsz=IMGSZ)
    images = sample(made.data.train, CALIBRATION, seed=0)
    int8 = place / f"{model}_int8.onnx"
    quantize_onnx(graph, int8, images=images, imgsz=IMGSZ, target="openvino", range="mse")
    return get_engine("openvino").build(int8, place, precision="int8", imgsz=IMGSZ).path


def _bench(made: Experiment, engines: Sequence[Path], share: float, place: Path) -> list[dict[str, Any]]:
    """Run the command line; return cheap, precise and cascade."""
    options = {"cascade": ",".join(map(str, engines)), "cascade_share": share, "pictures": 0}
    options |= {"imgsz": IMGSZ, "rounds": ROUNDS, "threads": THREADS}
    rows = bench_rows(engines, made.data.path, place / f"share-{share}", **options)
    kept = ("latency_ms_mean", "latency_ms_p50", "latency_ms_p95", "map50_95_difference_interval", "size_bytes")
    return [
        {
            "candidate": candidate,
            "map50_95_points": 100 * row["map50_95"],
            "passed_on": row["describe"].get("passed_on"),
            **{key: row[key] for key in kept},
        }
        for candidate, row in zip(("cheap", "precise", "cascade"), rows, strict=True)
    ]


def above_line(rows: Sequence[dict[str, Any]]) -> float:
    """Return the mAP of the cascade above the line between its engines, at its own mean latency."""
    (x0, y0), (x1, y1), (x, y) = ((row["latency_ms_mean"], row["map50_95_points"]) for row in rows)
    return y - (y0 + (y1 - y0) * (x - x0) / (x1 - x0))


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    told = []
    for share in SHARES:
        both = [row for row in rows if row["share"] == share]
        figures = ", ".join(
            f"{row['candidate']} {row['map50_95_points']:.2f} in {row['latency_ms_mean']:.2f} ms (95th percentile "
            f"{row['latency_ms_p95']:.2f})"
            for row in both
        )
        told.append(f"asked for {share}, {both[2]['passed_on']:.3f} went on: {figures}, {above_line(both):+.2f} mAP")
    value = above_line([row for row in rows if row["share"] == CLAIMED])
    statement = (
        f"mAP50-95 of a cascade of {MODELS[0]} and {MODELS[1]}, INT8 in OpenVINO at {IMGSZ} px, above the line between "
        f"the two at its mean latency, which sending images on by chance would reach: {'; '.join(told)}"
    )
    return [claim("cascade.above_line", statement, value, "mAP", f">= {ABOVE}", holds=value >= ABOVE)]


if __name__ == "__main__":
    sys.exit(main())
