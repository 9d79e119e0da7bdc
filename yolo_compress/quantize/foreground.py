# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a detector sees objects, so that what it makes of those places can count for more than the rest.

A convolution puts out as much for an empty wall as for what stands before it, and most of an image is wall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.host.detect import postprocess
from yolo_compress.quantize.calibration import Runner

if TYPE_CHECKING:
    import onnx

CELL = 4  # pixels
FAINTEST = 0.01  # score of a detection


@dataclass(frozen=True)
class Places:
    """Which positions of feature maps are looked at.

    Attributes:
        share: Of the positions, that are drawn by the score of what is detected there; the others are drawn from
            everywhere, and all are where nothing is detected.
        cells: By batch, as of `foregrounds`; nothing has to be known where the share is 0.
    """

    share: float
    cells: Sequence[np.ndarray]

    @staticmethod
    def of(model: onnx.ModelProto, images: Sequence[Path], imgsz: int, share: float) -> Places:
        """Look for objects with a float model, if a share of the positions depends on them."""
        return Places(share, foregrounds(model, images, imgsz) if share else ())

    def drawn(
        self, batch: int, image: int, shape: tuple[int, int], count: int, random: np.random.Generator
    ) -> np.ndarray:
        """Return up to `count` positions of an image's feature map (rows, columns), as numbers row by row."""
        positions = math.prod(shape)
        weight = resized(self.cells[batch][image], *shape).reshape(-1) if self.share else np.zeros(positions)
        if not weight.any():
            return random.permutation(positions)[:count]
        chance = (1 - self.share) / positions + self.share * weight / weight.sum()
        # with repetition: a place that is drawn twice counts twice
        return random.choice(positions, min(count, positions), p=chance / chance.sum())


def foregrounds(model: onnx.ModelProto, images: Sequence[Path], imgsz: int) -> list[np.ndarray]:
    """Return for each batch how sure a float model is that there is an object, by place.

    Returns:
        (N, rows, columns) float32 in cells of `CELL` pixels: the highest score of a detection whose box reaches into
        the cell, 0 where there is none.
    """
    output, side = model.graph.output[0].name, math.ceil(imgsz / CELL)
    batches = Runner(model, [output], imgsz).run(images, "looking for objects", None)
    return [
        np.stack([painted(found, side) for found in postprocess(values[output], conf=FAINTEST)]) for values in batches
    ]


def painted(detections: np.ndarray, side: int) -> np.ndarray:
    """Return the highest score in each cell, (side, side), of detections x1, y1, x2, y2 in pixels, score, class."""
    cells = np.zeros((side, side), np.float32)
    for x1, y1, x2, y2, score, _ in detections[np.argsort(detections[:, 4])]:
        left, top = (max(math.floor(edge / CELL), 0) for edge in (x1, y1))
        cells[top : max(math.ceil(y2 / CELL), 0), left : max(math.ceil(x2 / CELL), 0)] = score
    return cells


def resized(cells: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the highest value under each position of a feature map, (rows, columns), that covers the same image."""
    for axis, count in enumerate((rows, columns)):
        first = np.arange(count) * cells.shape[axis] // count
        cells = np.maximum.reduceat(cells, first, axis=axis)
    return cells
