# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether the interval of a difference in mAP covers the truth as often as it says, and what evaluation costs.

Usage: [YOLO_COMPRESS_DATA=DIR] python -m benchmarks.bench_bootstrap [coverage|cost ...]

`coverage` draws data sets from a population in which two detectors are known: objects of classes of uneven frequency,
images of uneven difficulty, detectors that err together. The true difference is that of very many images. `cost` times
evaluation beside inference on real images. Rows that a call before has measured are kept.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import claim, data_folder, earlier_rows, write
from yolo_compress.bench.accuracy import Detections, Truth, detect, matched, summarize
from yolo_compress.bench.bootstrap import RESAMPLES, paired_differences
from yolo_compress.bench.confidence import confidence
from yolo_compress.bench.curves import Curves
from yolo_compress.bench.error_kinds import error_kinds
from yolo_compress.bench.matches import AREAS, IOU_THRESHOLDS, NO_OBJECT, Matches
from yolo_compress.bench.yolo_val import match_all, yolo_val_map50_95

NAME = "bench_bootstrap"
CLASSES = 80
POPULATION = 100_000  # images that stand for all
TRIALS = 250
DRAWS = 200  # resamples per trial; fewer than the report has, which makes intervals no wider on average
SETTINGS = ((100, 0.05), (400, 0.05), (400, 0.0))  # images, and how much weaker the second detector is
TOLD = (400, 0.05)  # that the claim is about
IMGSZ = 320


def main(parts: list[str]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    rows = earlier_rows(NAME)
    for images, gap in SETTINGS if "coverage" in parts else ():
        if not any(row.get("images") == images and row.get("gap") == gap for row in rows):
            rows.append({"part": "coverage", "images": images, "gap": gap, **coverage(images, gap)})
            write(NAME, rows, _claims(rows))
            print(rows[-1], flush=True)
    if "cost" in parts and not any(row["part"] == "cost" for row in rows):
        rows.append({"part": "cost", **cost()})
        print(rows[-1], flush=True)
    return write(NAME, rows, _claims(rows))


def coverage(
    images: int, gap: float, *, trials: int = TRIALS, draws: int = DRAWS, population: int = POPULATION
) -> dict[str, Any]:
    """Return how often the interval holds the true difference, over data sets of so many images."""
    truth = _difference(*synthetic(np.random.default_rng([0, population]), population, gap=gap))
    found = []
    for trial in range(trials):
        pair = synthetic(np.random.default_rng([1, trial]), images, gap=gap)
        (one,) = paired_differences(pair, resamples=draws, seed=trial)
        found.append((one.value, *one.interval))
    value, low, high = np.array(found).T
    return {
        "trials": trials,
        "resamples": draws,
        "true_difference_points": 100 * truth,
        "mean_difference_points": 100 * float(value.mean()),
        "deviation_points": 100 * float(value.std()),
        "mean_width_points": 100 * float((high - low).mean()),
        "coverage": float(((low <= truth) & (truth <= high)).mean()),
        "true_above": float((truth > high).mean()),
        "true_below": float((truth < low).mean()),
    }


def synthetic(random: np.random.Generator, images: int, *, gap: float) -> tuple[Matches, Matches]:
    """Draw images and what two detectors find on them, the second one weaker by `gap` and otherwise much like it.

    Whether an object is found, how well its box fits and its score fall with a difficulty that the detectors share.
    """
    share = 1 / np.arange(1, CLASSES + 1)
    share /= share.sum()
    counts = random.poisson(5, images)
    image = np.repeat(np.arange(images), counts)
    cls = random.choice(CLASSES, len(image), p=share)
    ease = random.normal(0.8, 1, len(image)) + random.normal(0, 0.7, images)[image]
    strays = np.repeat(np.arange(images), random.poisson(6, images))
    stray_cls = random.choice(CLASSES, len(strays), p=share)
    stray_score = random.normal(-1.2, 1, len(strays))
    objects = np.zeros((len(AREAS), CLASSES, images), np.int64)
    np.add.at(objects[0], (cls, image), 1)
    shared = random.normal(0, 0.5, (2, len(image)))
    pair = []
    for weaker in (0.0, gap):
        fit = ease - weaker + shared[0] + random.normal(0, 0.15, len(image))
        score = ease - weaker + shared[1] + random.normal(0, 0.15, len(image))
        found = score > -1.5
        reached = np.searchsorted(IOU_THRESHOLDS, 1 / (1 + np.exp(-fit - 0.4)), side="right")
        bits = (1 << reached) - 1
        pair.append(
            _matches(
                np.concatenate([image[found], strays]),
                np.concatenate([cls[found], stray_cls]),
                np.concatenate([score[found], stray_score + random.normal(0, 0.15, len(strays))]),
                np.concatenate([bits[found], np.zeros(len(strays), np.int64)]),
                objects,
            )
        )
    return pair[0], pair[1]


def cost() -> dict[str, Any]:
    """Time evaluation beside inference: yolov8n in float and INT8 on the evaluation images."""
    from yolo_compress.engines import engine_for
    from yolo_compress.host.data import read_data, sample
    from yolo_compress.host.export import export_onnx
    from yolo_compress.quantize import quantize_onnx

    folder = data_folder()
    data = read_data(folder / "coco/coco-mini.yaml")
    with tempfile.TemporaryDirectory() as place:
        full = export_onnx(folder / "weights/yolov8n.pt", Path(place) / "yolov8n.onnx", imgsz=IMGSZ)
        int8 = Path(place) / "int8.onnx"
        images = sample(data.train, 64, seed=0)
        quantize_onnx(full, int8, images=images, imgsz=IMGSZ, target="onnxruntime", range="mse", progress=print)
        sessions = [_Timed(engine_for(path).load(path)) for path in (full, int8)]
        begin = time.perf_counter()
        truth, found = detect(sessions, data.val, imgsz=IMGSZ, progress=print)
        whole = time.perf_counter() - begin
    seconds = evaluation_seconds(truth, found, len(data.names))
    return {
        "eval_images": len(data.val),
        "imgsz": IMGSZ,
        "detections": [one.count for one in found],
        "inference_s": [session.seconds for session in sessions],
        "inference_and_processing_s": whole,
        **seconds,
    }


def evaluation_seconds(truth: Truth, found: list[Detections], classes: int) -> dict[str, float]:
    """Return what each part of the evaluation of these candidates takes, all of them together."""
    seconds = {}
    begin = time.perf_counter()
    matches = [matched(truth, one, classes=classes) for one in found]
    seconds["matching_s"] = time.perf_counter() - begin
    begin = time.perf_counter()
    for one in matches:
        summarize(one)
    seconds["coco_numbers_s"] = time.perf_counter() - begin
    begin = time.perf_counter()
    for one in found:
        correct = match_all(truth, one)
        confidence(truth, one, correct)
        yolo_val_map50_95(truth, one, correct)
    seconds["scores_and_yolo_val_s"] = time.perf_counter() - begin
    begin = time.perf_counter()
    for detections, one in zip(found, matches, strict=True):
        kinds = error_kinds(truth, detections, one)
        kinds.gains()
    seconds["error_kinds_s"] = time.perf_counter() - begin
    begin = time.perf_counter()
    paired_differences(matches)
    seconds["bootstrap_s"] = time.perf_counter() - begin
    seconds["bootstrap_resamples"] = RESAMPLES
    return seconds


class _Timed:
    """A session that keeps the time of its inferences."""

    def __init__(self, session: Any) -> None:
        self.session, self.seconds = session, 0.0

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Run the session."""
        begin = time.perf_counter()
        found = self.session.infer(images)
        self.seconds += time.perf_counter() - begin
        return found


def _matches(image: np.ndarray, cls: np.ndarray, score: np.ndarray, bits: np.ndarray, objects: np.ndarray) -> Matches:
    order = np.lexsort((-score, cls))
    return Matches(
        image=image[order],
        cls=cls[order],
        score=score[order],
        rank=np.zeros(len(order), np.int64),
        row=order,
        hit=bits[order].astype(np.uint64),
        ignored=np.zeros(len(order), np.uint64),
        partner=np.full(len(order), NO_OBJECT),
        objects=objects,
    )


def _difference(first: Matches, second: Matches) -> float:
    whole = np.ones(first.objects.shape[2], np.int64)
    return Curves.of(second).mean(whole) - Curves.of(first).mean(whole)


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    claims = []
    told = {(row["images"], row["gap"]): row for row in rows if row["part"] == "coverage"}
    if TOLD in told:
        others = "; ".join(f"{n} images, gap {gap}: {row['coverage']:.3f}" for (n, gap), row in told.items())
        claims.append(
            claim(
                "measure.bootstrap_coverage",
                f"share of {TRIALS} simulated data sets whose 95 % interval holds the true difference of mAP50-95; "
                f"{others}",
                told[TOLD]["coverage"],
                "of the intervals",
                ">= 0.93",
                holds=told[TOLD]["coverage"] >= 0.93,
            )
        )
    for row in rows:
        if row["part"] == "cost":
            parts = {key: row[key] for key in row if key.endswith("_s") and "inference" not in key}
            share = 100 * sum(parts.values()) / sum(row["inference_s"])
            told_parts = ", ".join(f"{key[:-2].replace('_', ' ')} {value:.2f} s" for key, value in parts.items())
            claims.append(
                claim(
                    "measure.evaluation_share",
                    "evaluation over inference, yolov8n float and INT8 under ONNX Runtime, "
                    f"{row['eval_images']} images at {row['imgsz']} px: {told_parts}; "
                    f"inference {sum(row['inference_s']):.1f} s",
                    share,
                    "%",
                    "<= 10",
                    holds=share <= 10,
                )
            )
    return claims


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["coverage", "cost"]))
