# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What surrounds the parts of the demonstration set: work surfaces, things that are no objects, light and camera.

Images are float32 arrays of shape (H, W, 3), BGR, 0 to 255.
"""

from __future__ import annotations

import cv2
import numpy as np


def work_surface(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw an empty square surface: brushed metal, wood, belt, concrete or paper."""
    kind = ("metal", "wood", "belt", "concrete", "paper")[rng.integers(5)]
    value = cloud(rng, size, cells=4) * 10
    if kind == "metal":
        streaks = rng.normal(size=(size, max(2, size // 24))).astype(np.float32)
        value += cv2.resize(streaks, (size, size), interpolation=cv2.INTER_LINEAR) * 7
        colour = rng.uniform(110, 190) * np.array([1.03, 1.0, 0.97])
    elif kind == "wood":
        rings = np.arange(size, dtype=np.float32)[:, None] / size * rng.uniform(25, 60)
        value += np.sin(rings + cloud(rng, size, cells=3) * 5) * 12 + cloud(rng, size, cells=size // 4) * 5
        colour = rng.uniform(0.8, 1.25) * np.array([70.0, 112.0, 150.0])
    elif kind == "belt":
        pitch = int(rng.integers(5, 11))
        row = np.arange(size)
        value += np.where((row[:, None] // pitch + row[None] // pitch) % 2, 7.0, -7.0).astype(np.float32)
        colour = rng.uniform(45, 95) * rng.uniform(0.85, 1.15, size=3)
    elif kind == "concrete":
        value += cloud(rng, size, cells=size // 3) * 11 + cloud(rng, size, cells=size // 10) * 8
        colour = rng.uniform(95, 170) * np.array([0.96, 1.0, 1.02])
    else:
        colour = rng.uniform(175, 225) * rng.uniform(0.93, 1.04, size=3)
    image = value[..., None] + colour.astype(np.float32)
    return np.ascontiguousarray(np.rot90(image, int(rng.integers(4)))).astype(np.float32)


def clutter(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return the surface with stains, scratches and plain bodies on it that no label names."""
    size = image.shape[0]
    for _ in range(int(rng.integers(0, 7))):
        kind = rng.integers(5)
        x, y = rng.uniform(0, size, 2)
        reach = size * rng.uniform(0.03, 0.16)
        layer = np.zeros((size, size), np.uint8)
        if kind == 0:  # a plain disc: no hole, so neither a washer nor a nut
            _fill_ellipse(layer, x, y, reach, reach, 0)
        elif kind == 1:  # a bar or plate
            corners = cv2.boxPoints(((x, y), (reach * 2, reach * rng.uniform(0.4, 1.4)), float(rng.uniform(0, 180))))
            _fill(layer, corners)
        elif kind == 2:  # an offcut
            _fill(layer, np.array([x, y]) + rng.uniform(-reach, reach, (3, 2)))
        elif kind == 3:  # an oil stain: dark, soft
            _fill_ellipse(layer, x, y, reach * 1.5, reach, float(rng.uniform(0, 180)))
            layer = cv2.GaussianBlur(layer, (0, 0), reach / 3) // 2
        else:  # a scratch
            end = np.array([x, y]) + rng.uniform(-reach, reach, 2) * 3
            cv2.line(layer, _fixed((x, y)), _fixed(end), 255, 1, cv2.LINE_AA, 4)
        alpha = layer.astype(np.float32)[..., None] / 255
        colour = np.full(3, rng.uniform(20, 60)) if kind == 3 else rng.uniform(40, 220) * rng.uniform(0.75, 1.25, 3)
        image = image * (1 - alpha) + colour.astype(np.float32) * alpha
    return image


def cable(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a cable across the whole picture and return its coverage, 0 to 1, of shape (H, W)."""
    ends = rng.uniform(0, size, 2)
    middle = rng.uniform(0.2, 0.8, 2) * size
    t = np.linspace(0, 1, 40)[:, None]
    start, stop = np.array([-4.0, ends[0]]), np.array([size + 4.0, ends[1]])
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * stop
    if rng.random() < 0.5:
        curve = curve[:, ::-1]
    layer = np.zeros((size, size), np.uint8)
    thickness = max(1, round(size * rng.uniform(0.012, 0.03)))
    points = np.round(curve * 16).astype(np.int32)[:, None]
    cv2.polylines(layer, [points], False, 255, thickness, cv2.LINE_AA, 4)
    return layer.astype(np.float32) / 255


def light(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return the picture under uneven light: exposure, a gradient or a spot, a tint and the edge of a shadow."""
    size = image.shape[0]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = axis[None] * np.float32(np.cos(angle)) + axis[:, None] * np.float32(np.sin(angle))
    gain = 1 + ramp * np.float32(rng.uniform(0, 0.35))
    if rng.random() < 0.4:
        x, y = rng.uniform(-0.8, 0.8, 2).astype(np.float32)
        gain += np.exp(-((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / 0.5) * np.float32(rng.uniform(0.1, 0.45))
    if rng.random() < 0.4:
        layer = np.zeros((size, size), np.uint8)
        _fill(layer, rng.uniform(-0.3, 1.3, (4, 2)) * size)
        soft = cv2.GaussianBlur(layer, (0, 0), size * rng.uniform(0.01, 0.05)).astype(np.float32) / 255
        gain *= 1 - soft * np.float32(rng.uniform(0.2, 0.5))
    tint = rng.uniform(0.92, 1.08, 3).astype(np.float32)
    return image * (gain * np.float32(rng.uniform(0.7, 1.2)))[..., None] * tint


def camera(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return the picture as a camera gives it: blur, sensor noise, 8 bits."""
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 0.9)))
    noise = rng.normal(size=image.shape).astype(np.float32) * np.float32(rng.uniform(1, 7))
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def cloud(rng: np.random.Generator, size: int, *, cells: int) -> np.ndarray:
    """Draw smooth noise of shape (H, W), standard deviation about 1, with `cells` bumps along a side."""
    grid = rng.normal(size=(max(2, cells), max(2, cells))).astype(np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def _fixed(point: np.ndarray | tuple[float, float]) -> tuple[int, int]:
    return round(float(point[0]) * 16), round(float(point[1]) * 16)  # 4 fractional bits, as shift=4 expects


def _fill(layer: np.ndarray, corners: np.ndarray) -> None:
    cv2.fillPoly(layer, [np.round(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)


def _fill_ellipse(layer: np.ndarray, x: float, y: float, width: float, height: float, angle: float) -> None:
    cv2.ellipse(layer, _fixed((x, y)), _fixed((width, height)), angle, 0, 360, 255, -1, cv2.LINE_AA, 4)
