# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The same validation images before and after, with the boxes that differ marked by the kind of their line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_compress.artifacts import atomic_path
from yolo_compress.bench.accuracy import DEPLOYED_CONF, Detections
from yolo_compress.bench.result import BenchResult
from yolo_compress.host.data import read_image
from yolo_compress.host.detect import overlaps
from yolo_compress.report.pictures import FOLDER, INDEX, mark

SAME_IOU = 0.5
SIDE = 480  # pixels of the longer side
LARGEST_BYTES = 60_000
QUALITIES = (85, 75, 65, 55, 45, 35, 25, 15)
BEFORE, AFTER, BOTH = (12, 65, 194), (110, 118, 15), (170, 170, 170)  # BGR; the line says the same without colour
DASH, GAP = 9, 6  # pixels
DOTS = 7  # pixels from one to the next


class Witness:
    """Looks at what a benchmark detects and keeps the images on which candidates differ most."""

    def __init__(self, count: int) -> None:
        """Keep `count` images; with 0 none."""
        self.count = count
        self.kept: list[tuple[Path, list[np.ndarray]]] = []

    def __call__(self, images: Sequence[Path], found: Sequence[Detections]) -> None:
        """Choose among images by what each candidate, the first of which is the reference, found on them."""
        shown = [[deployed(boxes) for boxes in one.images] for one in found]
        for index in most_different(shown, self.count):
            self.kept.append((images[index], [one[index] for one in shown]))


def deployed(boxes: np.ndarray) -> np.ndarray:
    """Return the detections (n, 6) that a user would see: those above the score limit of `yolo predict`."""
    return boxes[boxes[:, 4] > DEPLOYED_CONF]


def differing(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which boxes of each side have no partner on the other one, as two arrays of booleans.

    Partners have the same class and overlap by an IoU of at least 0.5; of several, those that overlap most are taken
    first, each box once.

    Args:
        before: (n, 6) x1, y1, x2, y2, score, class.
        after: (m, 6).
    """
    alone = np.ones(len(before), bool), np.ones(len(after), bool)
    if not len(before) or not len(after):
        return alone
    shared = np.where(before[:, 5:6] == after[:, 5], overlaps(before[:, :4], after[:, :4]), 0)
    for place in np.argsort(-shared, axis=None, kind="stable"):
        one, other = divmod(int(place), len(after))
        if shared[one, other] < SAME_IOU:
            break
        if alone[0][one] and alone[1][other]:
            alone[0][one] = alone[1][other] = False
    return alone


def most_different(found: Sequence[Sequence[np.ndarray]], count: int) -> list[int]:
    """Return the images with the most boxes that differ from those of the first candidate, summed over the others.

    Of equal ones the earlier is taken; an image on which nothing differs is not.

    Args:
        found: Per candidate and image the boxes (n, 6).
        count: Images to return at most.
    """
    if len(found) < 2:
        return []
    total = [
        sum(int(side.sum()) for other in found[1:] for side in differing(found[0][index], other[index]))
        for index in range(len(found[0]))
    ]
    order = sorted(range(len(total)), key=lambda index: (-total[index], index))
    return [index for index in order[:count] if total[index]]


def draw(result: BenchResult, witness: Witness, folder: Path) -> None:
    """Write the pictures and their index below `folder`, in place of those of an earlier benchmark.

    Raises:
        DataError: An image cannot be read.
        OutputError: The folder cannot be written to.
    """
    place = folder / FOLDER
    if not witness.kept:
        shutil.rmtree(place, ignore_errors=True)
        return
    index: list[dict[str, Any]] = []
    with atomic_path(place) as temporary:
        temporary.mkdir()
        for number, (path, found) in enumerate(witness.kept, start=1):
            image = read_image(path)
            for other, row in enumerate(result.rows[1:], start=1):
                alone = differing(found[0], found[other])
                names = (f"{number}-{other}-before.jpg", f"{number}-{other}-after.jpg")
                for name, boxes, one, after in zip(names, (found[0], found[other]), alone, (False, True), strict=True):
                    (temporary / name).write_bytes(drawn(image, boxes, one, result.names, after=after))
                counts = {"same": int((~alone[0]).sum()), "only_before": int(alone[0].sum())}
                counts["only_after"] = int(alone[1].sum())
                files = {"before": names[0], "after": names[1]}
                index.append({"image": path.name, "candidate": row.label, **counts, **files})
        kept = {"bench": mark(result.to_dict()), "pairs": index}
        (temporary / INDEX).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def drawn(image: np.ndarray, boxes: np.ndarray, alone: np.ndarray, names: Sequence[str], *, after: bool) -> bytes:
    """Return a JPEG of at most 60 kB with boxes (n, 6): solid with a partner, else dashed before and dotted after.

    Args:
        image: (height, width, 3) BGR bytes.
        boxes: In its pixels.
        alone: Which of them have no partner.
        names: Of the classes.
        after: Whether the boxes are those of the other candidate.
    """
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = [max(1, round(pixels * scale)) for pixels in (image.shape[1], image.shape[0])]
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image.copy()
    for place in np.argsort(alone, kind="stable"):  # those that differ lie on top
        box, single = boxes[place], alone[place]
        left, top, right, bottom = (round(float(value) * scale) for value in box[:4])
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        if not single:
            cv2.rectangle(canvas, corners[0], corners[2], (0, 0, 0), 2)
            cv2.rectangle(canvas, corners[0], corners[2], BOTH, 1)
            continue
        for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
            (_dotted if after else _dashed)(canvas, np.array(start), np.array(end))
        _write(canvas, f"{names[int(box[5])]} {box[4]:.2f}", left, top, AFTER if after else BEFORE)
    for quality in QUALITIES:
        data = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= LARGEST_BYTES:
            break
    return data


def _dashed(canvas: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    length = float(np.linalg.norm(end - start))
    for begin in np.arange(0, length, DASH + GAP):
        ends = [start + (end - start) * min(at, length) / length for at in (begin, begin + DASH)]
        first, last = (tuple(int(value) for value in point.round()) for point in ends)
        cv2.line(canvas, first, last, (255, 255, 255), 4)
        cv2.line(canvas, first, last, BEFORE, 2)


def _dotted(canvas: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    length = float(np.linalg.norm(end - start))
    for at in np.arange(0, length, DOTS):
        centre = tuple(int(value) for value in (start + (end - start) * at / length).round())
        cv2.circle(canvas, centre, 3, (255, 255, 255), -1)
        cv2.circle(canvas, centre, 2, AFTER, -1)


def _write(canvas: np.ndarray, text: str, left: int, top: int, colour: tuple[int, int, int]) -> None:
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    left = max(0, min(left, canvas.shape[1] - width - 4))
    top = max(top, height + base + 2)
    cv2.rectangle(canvas, (left, top - height - base - 2), (left + width + 4, top), colour, -1)
    cv2.putText(canvas, text, (left + 2, top - base), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
