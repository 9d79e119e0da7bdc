# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Accuracy of any session by the COCO protocol, on images that are read one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_compress.bench.curves import Curves, recall
from yolo_compress.bench.matches import AREAS, Matches, match_coco
from yolo_compress.bench.result import finite_or_none
from yolo_compress.errors import DataError
from yolo_compress.host.data import labels_for, letterbox, read_image
from yolo_compress.host.detect import postprocess, to_original

if TYPE_CHECKING:
    from yolo_compress.engines.protocol import Session

# the settings of Ultralytics' validator
CONF = 0.001
IOU = 0.7
MAX_DET = 300
DEPLOYED_CONF = 0.25  # the score limit that `yolo predict` uses


@dataclass
class Detections:
    """What one candidate found: per image (n, 6) float32 x1, y1, x2, y2 in pixels of the original, score, class."""

    images: list[np.ndarray] = field(default_factory=list)
    not_finite: int = 0  # images whose raw output held NaN or infinity

    @property
    def count(self) -> int:
        """Return the number of detections on all images."""
        return sum(len(found) for found in self.images)


@dataclass
class Truth:
    """The objects of the same images: per image (n, 5) class, x, y, width, height in pixels, and (height, width)."""

    images: list[np.ndarray] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Return the number of objects on all images."""
        return sum(len(objects) for objects in self.images)


@dataclass(frozen=True)
class Accuracy:
    """The twelve COCO numbers in `STAT_NAMES` order and mAP50-95 per class; each 0 to 1, None without such objects."""

    stats: tuple[float | None, ...]
    per_class: tuple[float | None, ...]

    @property
    def map50_95(self) -> float:
        """Return the mean AP over IoU 0.50 to 0.95; `evaluate` refuses data that has none."""
        return self.stats[0] or 0.0

    @property
    def map50(self) -> float:
        """Return the mean AP at IoU 0.50."""
        return self.stats[1] or 0.0


def detect(
    sessions: Sequence[Session],
    images: Sequence[Path],
    *,
    imgsz: int,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Truth, list[Detections]]:
    """Run every session on every image; an image is decoded once and forgotten before the next one.

    Args:
        sessions: What detects.
        images: Image files, with labels beside them.
        imgsz: Side of the square input in pixels.
        change: Applied to each decoded image (H, W, 3), BGR bytes; it moves nothing, so labels stay true.
        progress: Takes a line now and then.
        clock: Seconds, for the distance of those lines.

    Raises:
        DataError: An image or a label file cannot be read.
    """
    truth = Truth()
    found = [Detections() for _ in sessions]
    next_line = clock() + 10
    for index, path in enumerate(images):
        image = read_image(path)
        shape = (image.shape[0], image.shape[1])
        truth.images.append(_in_pixels(labels_for([path])[0], shape))
        truth.shapes.append(shape)
        frame, scale, pad = letterbox(image if change is None else change(image), imgsz)
        blob = to_input(frame)
        for session, detections in zip(sessions, found, strict=True):
            raw = np.asarray(session.infer(blob))
            if not np.isfinite(raw).all():
                detections.not_finite += 1
                detections.images.append(np.zeros((0, 6), np.float32))
                continue
            kept = postprocess(raw, conf=CONF, iou=IOU, max_det=MAX_DET)[0]
            detections.images.append(to_original(kept, scale=scale, pad=pad, shape=shape).astype(np.float32))
        if clock() > next_line:
            progress(f"accuracy: image {index + 1}/{len(images)}")
            next_line = clock() + 10
    return truth, found


def to_input(frame: np.ndarray) -> np.ndarray:
    """Turn a letterboxed (3, H, W) RGB byte image into the (1, 3, H, W) float32 in 0 to 1 that a session takes."""
    return np.ascontiguousarray(frame[None], dtype=np.float32) / 255


def evaluate(truth: Truth, detections: Detections, *, classes: int) -> Accuracy:
    """Compute average precision and recall by the COCO protocol, at most 100 detections per image and class.

    Areas are those of boxes, since YOLO labels know no masks, and no object is a crowd.

    Raises:
        DataError: No image has an object, so that there is nothing to average, or one has a class without a name.
    """
    return summarize(matched(truth, detections, classes=classes))


def matched(truth: Truth, detections: Detections, *, classes: int) -> Matches:
    """Match detections to objects, once for everything that is computed from it.

    Raises:
        DataError: No image has an object, so that there is nothing to average, or one has a class without a name.
    """
    if not truth.count:
        raise DataError("none of the validation images has a labelled object; add labels beside them, or other images")
    highest = max(objects[:, 0].max() for objects in truth.images if len(objects))
    if highest >= classes:
        raise DataError(f"a label has class {highest:.0f} and the data names {classes}; correct the labels or 'names'")
    return match_coco(truth, detections, classes=classes)


def summarize(matches: Matches) -> Accuracy:
    """Return COCO's numbers of matched detections."""
    precision = {area: Curves.of(matches, area=area).average_precision() for area in AREAS}
    sizes = list(AREAS)[1:]
    values = [precision["all"], *(precision["all"][index] for index in (0, 5))]  # IoU 0.50 and 0.75
    values += [precision[area] for area in sizes]
    values += [recall(matches, most=most) for most in (1, 10, 100)]
    values += [recall(matches, area=area) for area in sizes]
    return Accuracy(
        tuple(finite_or_none(_mean(value)) for value in values),
        tuple(finite_or_none(float(value)) for value in precision["all"].mean(axis=0)),
    )


def coco_truth(truth: Truth, classes: int) -> dict[str, Any]:
    """Return the objects as a COCO annotation tree; images are numbered from 1 and categories are class numbers."""
    annotations: list[dict[str, Any]] = []
    for index, objects in enumerate(truth.images):
        for cls, x, y, width, height in objects.tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,  # from 1: COCO takes 0 for "no match"
                    "image_id": index + 1,
                    "category_id": int(cls),
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    return {
        "info": {},
        "images": [{"id": i + 1, "height": shape[0], "width": shape[1]} for i, shape in enumerate(truth.shapes)],
        "categories": [{"id": index, "name": str(index)} for index in range(classes)],
        "annotations": annotations,
    }


def coco_results(detections: Detections) -> list[dict[str, Any]]:
    """Return detections as COCO results."""
    return [
        {
            "image_id": index + 1,
            "category_id": int(cls),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for index, found in enumerate(detections.images)
        for x1, y1, x2, y2, score, cls in found.tolist()
    ]


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan


def _in_pixels(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    size = np.array([width, height, width, height], np.float64)
    boxes = labels[:, 1:].astype(np.float64) * size
    boxes[:, :2] -= boxes[:, 2:] / 2
    return np.column_stack([labels[:, 0], boxes])
