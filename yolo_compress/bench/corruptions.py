# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Images as bad cameras, bad light, bad weather and bad transmission make them, in five severities.

The idea of severities is that of Hendrycks and Dietterich 2019 (Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations, arXiv:1903.12261); parameters are our own, so figures are not those of their data sets.
Lengths are in pixels of an image whose longer side has 640, and grow with the image, so that a severity means the same
at every resolution. Nothing moves: labels stay true.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from yolo_compress.errors import UsageError, entry_of

SIDE = 640  # that lengths refer to
SEVERITIES = (1, 2, 3, 4, 5)
WHITE = 255.0
AIRLIGHT = 0.9  # of haze, as a share of white
CELLS = (2, 4, 8, 16)  # of the grids, of falling weight, that the thickness of haze is a sum of


@dataclass(frozen=True)
class Corruption:
    """A way to spoil an image.

    Attributes:
        description: What it is, in one line.
        parameter: What the five values are.
        values: By severity, from 1 to 5.
        apply: Takes the image (H, W, 3) as float32 in 0 to 255, a value and a random generator; returns such an image.
    """

    description: str
    parameter: str
    values: tuple[float, float, float, float, float]
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def corrupt(image: np.ndarray, name: str, severity: int) -> np.ndarray:
    """Return a spoilt copy of an image; the same image and severity always give the same one.

    What is random is drawn from the content of the image, alike at every severity, so that severities of one image
    differ in strength alone.

    Args:
        image: (H, W, 3) BGR bytes. Only `jpeg` looks at the order of the channels.
        name: A key of `CORRUPTIONS`.
        severity: 1 to 5.

    Raises:
        UsageError: There is no such corruption or severity, or the image is not of this form.
    """
    entry = entry_of(CORRUPTIONS, "corruptions", name)
    if severity not in SEVERITIES:
        raise UsageError(f"severity {severity} does not exist; give 1 to 5")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UsageError(f"an image of shape {image.shape} and {image.dtype} cannot be corrupted; give (H, W, 3) uint8")
    random = np.random.default_rng([zlib.crc32(np.ascontiguousarray(image)), zlib.crc32(name.encode())])
    spoilt = entry.apply(image.astype(np.float32), entry.values[severity - 1], random)
    return np.rint(spoilt).clip(0, WHITE).astype(np.uint8)


def _gaussian_noise(image: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return image + random.standard_normal(image.shape, np.float32) * np.float32(deviation * WHITE)


def _shot_noise(image: np.ndarray, photons: float, random: np.random.Generator) -> np.ndarray:
    return random.poisson(image * (photons / WHITE)).astype(np.float32) * np.float32(WHITE / photons)


def _defocus_blur(image: np.ndarray, radius: float, random: np.random.Generator) -> np.ndarray:
    return _filtered(image, disk(radius * max(image.shape) / SIDE))


def _motion_blur(image: np.ndarray, length: float, random: np.random.Generator) -> np.ndarray:
    return _filtered(image, line(length * max(image.shape) / SIDE, random.uniform(0, np.pi)))


def _brightness(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Raise V of HSV, with hue and saturation as they are."""
    value = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + share * WHITE, WHITE)
    return np.where(value > 0, image * (raised / np.maximum(value, 1)), raised)


def _contrast(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    mean = image.mean(axis=(0, 1), keepdims=True, dtype=np.float64).astype(np.float32)
    return mean + share * (image - mean)


def _jpeg(image: np.ndarray, quality: float, random: np.random.Generator) -> np.ndarray:
    import cv2

    _, data = cv2.imencode(".jpg", image.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float32)


def _haze(image: np.ndarray, density: float, random: np.random.Generator) -> np.ndarray:
    """Scatter light (Koschmieder 1924): `I = J t + A (1 - t)` with `t = exp(-density d)`.

    The distance d of what is seen is not known: it is a smooth random field from 0.5 to 1.5.
    """
    seen = np.exp(-density * (0.5 + _field(image.shape[:2], random)))[..., None]
    return image * seen + AIRLIGHT * WHITE * (1 - seen)


def disk(radius: float) -> np.ndarray:
    """Return a disk of odd side that sums to 1, its rim weighted by about the share of each pixel that is inside."""
    reach = int(np.ceil(radius))
    across = np.arange(-reach, reach + 1)
    kernel = (radius + 0.5 - np.hypot(across[:, None], across)).clip(0, 1)
    return (kernel / kernel.sum()).astype(np.float32)


def line(length: float, angle: float) -> np.ndarray:
    """Return a straight line through the middle of an odd square that sums to 1.

    Args:
        length: In pixels.
        angle: Radians from the x axis.
    """
    reach = int(np.ceil(length / 2))
    points = np.linspace(-(length - 1) / 2, (length - 1) / 2, 4 * reach + 1) if length > 1 else np.zeros(1)
    across = np.arange(-reach, reach + 1)
    x = (1 - np.abs(across - points[:, None] * np.cos(angle))).clip(0)  # linear shares of the nearest pixels
    y = (1 - np.abs(across - points[:, None] * np.sin(angle))).clip(0)
    kernel = y.T @ x
    return (kernel / kernel.sum()).astype(np.float32)


def _filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def _field(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Return a smooth random field from 0 to 1, (H, W) float32: grids of random values, the finer the fainter."""
    import cv2

    total = np.zeros(shape, np.float32)
    for cells in CELLS:
        grid = random.random((cells + 1, cells + 1), np.float32)
        total += cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC) / cells
    return (total - total.min()) / max(float(np.ptp(total)), 1e-6)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(
        "Noise of the sensor, the same everywhere.",
        "standard deviation, as a share of white",
        (0.04, 0.08, 0.12, 0.18, 0.26),
        _gaussian_noise,
    ),
    "shot_noise": Corruption(
        "Too few photons: noise that grows with the square root of the light.",
        "photons that white stands for",
        (100, 50, 25, 12, 6),
        _shot_noise,
    ),
    "defocus_blur": Corruption(
        "A lens out of focus: a point becomes a disk.", "radius in pixels", (1.5, 2.5, 4, 6, 8), _defocus_blur
    ),
    "motion_blur": Corruption(
        "A camera that moves: a point becomes a line, whose direction is drawn.",
        "length in pixels",
        (5, 9, 14, 20, 28),
        _motion_blur,
    ),
    "brightness": Corruption(
        "Overexposure: V of HSV raised.", "what is added, as a share of white", (0.1, 0.2, 0.3, 0.4, 0.5), _brightness
    ),
    "contrast": Corruption(
        "Flat light: every value drawn towards the mean of its channel.",
        "share of the contrast that stays",
        (0.6, 0.45, 0.3, 0.2, 0.1),
        _contrast,
    ),
    "jpeg": Corruption("Compression for a narrow line.", "JPEG quality", (40, 25, 15, 10, 7), _jpeg),
    "haze": Corruption(
        "Fog: contrast falls and light rises, by a smooth random thickness.",
        "optical density at the mean distance",
        (0.3, 0.6, 0.9, 1.3, 1.8),
        _haze,
    ),
}
