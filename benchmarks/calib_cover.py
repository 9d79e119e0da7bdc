# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""INT8 accuracy of chosen calibration images among that of random draws of as many.

Usage: YOLO_COMPRESS_DATA=DIR nice python -m benchmarks.calib_cover [eval|tune ...]

`eval` is what the claim is about: images from the training images, accuracy on the validation images. `tune` compares
choices without looking at those: images from the one folder of training images, accuracy on the other. The best of some
sets is chosen for each range anew, by what a model quantized on them detects on training images. Quantizers are those
of the `tensorrt` form, computed as they are written. Rows that a call before has measured are kept; those whose way is
that activations were covered too are of a form that has been given up, and cannot be measured again.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import Experiment, claim
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.calibrate import Selection, choose_measured
from yolo_compress.host.data import DataSpec, sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import CalibrationScore, quantize_onnx

NAME = "calib_cover"
MODEL, IMGSZ, IMAGES, DRAWS = "yolov8n", 320, 128, 20
RANGES, TARGET = ("minmax", "entropy"), "tensorrt"
PERCENTILE_TARGET = 75
CANDIDATES = 16
# what is said of how images are chosen; "cover" is what `yolo-compress calib` does by itself
COVER: dict[str, dict[str, Any]] = {
    "cover": {},
    "cover as the data set is": {"balance": 0.0},
    "cover all bins alike": {"balance": 1.0},
}
BEST = f"the best of {CANDIDATES} covers"
SEEDS = (0, 1, 2)  # of the sets that it is the best of
PARTS = {"eval": ("cover", *(f"{BEST}, seed {seed}" for seed in SEEDS)), "tune": (*COVER, f"{BEST}, seed 0")}


def main(parts: Sequence[str]) -> int:
    """Measure what is missing and write the result file; return 1 when the claim does not hold."""
    made = Experiment(NAME, model=MODEL, imgsz=IMGSZ, calibration_images=IMAGES, target=TARGET)
    torch.set_num_threads(1)  # as the runtime below: threads that wait for each other slow a busy machine down
    draws = [f"random {seed}" for seed in range(DRAWS)]
    with tempfile.TemporaryDirectory() as place:
        graph = export_onnx(made.folder / "weights" / f"{MODEL}.pt", Path(place) / "float.onnx", imgsz=IMGSZ)
        for part in parts:
            data = _part(made.data, part)
            for way in (*PARTS[part], *draws):
                _measure(made, part, data, graph, way)
    return made.finish(_claims(made.rows))


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


def _measure(made: Experiment, part: str, data: DataSpec, graph: Path, way: str) -> None:
    """Quantize with each range, on the same images where a way is no way for a range alone, and measure both."""
    rows: list[dict[str, Any]] = [{"part": part, "way": way, "range": range} for range in RANGES]
    if all(made.has(**row) for row in rows):
        return
    same = None if way.startswith(BEST) else (*_images(made, data, graph, way, ""), {})
    sessions = []
    for row in rows:
        images, facts, seen = same or (*_images(made, data, graph, way, row["range"]), {})
        assert len(images) == IMAGES
        row.update(facts)
        out = graph.with_name(f"{row['range']}.onnx")
        quantize_onnx(graph, out, images=images, imgsz=IMGSZ, target=TARGET, range=row["range"], seen=seen)
        sessions.append(AsWritten(out))
    truth, found = detect(sessions, data.val, imgsz=IMGSZ)
    for row, detections in zip(rows, found, strict=True):
        accuracy = evaluate(truth, detections, classes=len(data.names))
        made.add({**row, "map50_95_points": 100 * accuracy.map50_95})


def _images(
    made: Experiment, data: DataSpec, graph: Path, way: str, range: str
) -> tuple[Sequence[Path], dict[str, Any]]:
    """Return calibration images and what there is to say of how they were chosen."""
    if way.startswith("random "):
        return sample(data.train, IMAGES, seed=int(way.split()[-1])), {}
    weights = made.folder / "weights" / f"{MODEL}.pt"
    selection = Selection(
        CANDIDATES, lambda images: CalibrationScore(graph, images, imgsz=IMGSZ, target=TARGET, range=range)
    )
    best = {"selection": selection, "model": weights, "seed": int(way.split()[-1])} if way.startswith(BEST) else {}
    options = best or COVER[way]
    chosen = choose_measured(data, IMAGES, imgsz=IMGSZ, hashes=False, progress=print, **options).chosen
    return chosen.images, {
        key: chosen.how[key] for key in ("objective", "candidates", "scored_on") if key in chosen.how
    }


def percentile(rows: Sequence[dict[str, Any]], part: str, way: str, range: str) -> float | None:
    """Return the share, in per cent, of random draws that a way beats; ties count half, None where a row is missing."""
    points = {row["way"]: row["map50_95_points"] for row in rows if (row["part"], row["range"]) == (part, range)}
    drawn = [value for name, value in points.items() if name.startswith("random ")]
    if way not in points or len(drawn) < DRAWS:
        return None
    return 100 * statistics.mean((points[way] > value) + 0.5 * (points[way] == value) for value in drawn)


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the claim, once every row that it takes is there."""
    found = {range: [percentile(rows, "eval", f"{BEST}, seed {seed}", range) for seed in SEEDS] for range in RANGES}
    if any(None in percentiles for percentiles in found.values()):
        return []
    value = min(statistics.mean(percentiles) for percentiles in found.values())
    told = (f"range={range}: " + ", ".join(f"{one:.0f}" for one in found[range]) for range in RANGES)
    statement = (
        f"INT8 mAP50-95 of {MODEL} at {IMGSZ} px on {IMAGES} images, {BEST}, which moves detections of training images "
        f"least, among {DRAWS} random draws of as many: percentiles of seeds {', '.join(map(str, SEEDS))} with "
        f"{'; '.join(told)}; the mean over seeds, the worse of the two ranges"
    )
    holds = value >= PERCENTILE_TARGET
    return [
        claim("calib.percentile", statement, value, "percentile", f">= {PERCENTILE_TARGET}", holds=holds, seeds=SEEDS)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["eval"]))
