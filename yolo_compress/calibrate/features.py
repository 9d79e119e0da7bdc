# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What is measured of each image: light, contrast, sharpness and clutter, from a small copy of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from yolo_compress.errors import DataError
from yolo_compress.host.cpu import usable_cores
from yolo_compress.host.data import read_luma

SIDE = 256  # pixels of the longer side that images are looked at with; what a detector sees is not much larger
QUANTILES = (0.05, 0.5, 0.95)  # of luma: how dark the dark, the middle and the bright parts are
EDGE = 12.0  # levels per pixel from which on a gradient is an edge
STATISTICS = ("dark", "middle", "bright", "contrast", "sharpness", "clutter")
CHUNK = 256  # images that are under way at once


@dataclass(frozen=True)
class Statistics:
    """What the images of a data set are like.

    Attributes:
        images: Those that could be read, in order.
        values: (N, 6) in the order of `STATISTICS`.
        aspects: (N,) share of the letterboxed square that an image fills: its shorter side over its longer one.
        skipped: Those that could not be read.
    """

    images: tuple[Path, ...]
    values: np.ndarray
    aspects: np.ndarray
    skipped: tuple[Path, ...] = ()


def read_statistics(
    images: Sequence[Path],
    *,
    skip_unreadable: bool = False,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Statistics:
    """Measure every image, on all cores, and forget each one before long.

    Args:
        images: Files.
        skip_unreadable: Leave out what cannot be decoded, and name it in the result, instead of stopping.
        progress: Takes a line every ten seconds.
        clock: Seconds.

    Raises:
        DataError: An image cannot be read, or none of them can.
    """
    kept: list[Path] = []
    rows: list[tuple[np.ndarray, float]] = []
    skipped: list[Path] = []
    next_line = clock() + 10
    with ThreadPoolExecutor(usable_cores()) as pool:  # decoding and filters release the interpreter's lock
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            for image, row in zip(chunk, pool.map(_measured, chunk), strict=True):
                if isinstance(row, DataError):
                    if not skip_unreadable:
                        raise DataError(f"{row}, or skip such images with skip_unreadable=true") from row
                    skipped.append(image)
                else:
                    kept.append(image)
                    rows.append(row)
            if clock() > next_line:
                progress(f"looked at {start + len(chunk)} of {len(images)} images")
                next_line = clock() + 10
    if not kept:
        raise DataError(f"none of the {len(images)} training images can be read; correct the data set")
    return Statistics(
        tuple(kept), np.array([values for values, _ in rows]), np.array([aspect for _, aspect in rows]), tuple(skipped)
    )


def image_statistics(luma: np.ndarray) -> np.ndarray:
    """Return (6,) float64 figures of an image's luma, in the order of `STATISTICS`.

    The `QUANTILES` of luma; contrast as its standard deviation; sharpness as the variance of its Laplacian (the
    four-neighbour one; Pech-Pacheco et al. 2000, Diatom autofocusing in brightfield microscopy); clutter as the density
    of edges, the share of pixels whose gradient (Sobel's, in levels per pixel) exceeds `EDGE`.

    Args:
        luma: (height, width) bytes.
    """
    quantiles = np.quantile(luma, QUANTILES)
    laplacian = cv2.Laplacian(luma, cv2.CV_32F)
    across, down = (cv2.Sobel(luma, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1)))
    clutter = np.mean(cv2.magnitude(across, down) > EDGE)
    return np.array([*quantiles, luma.std(), laplacian.var(dtype=np.float64), clutter])


def _measured(image: Path) -> tuple[np.ndarray, float] | DataError:
    try:
        luma = read_luma(image, SIDE)
    except DataError as error:
        return error
    return image_statistics(luma), min(luma.shape) / max(luma.shape)
