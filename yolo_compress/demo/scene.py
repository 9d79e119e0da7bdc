# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""One picture of the demonstration set: parts laid on a work surface, with the mask that each label comes from."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from yolo_compress.demo.parts import PARTS
from yolo_compress.demo.surface import cable, camera, cloud, clutter, light, work_surface

CLASSES = tuple(PARTS)
MIN_VISIBLE = 0.7  # share of a part that must stay in view, or nobody could name it
MIN_SIDE = 6  # pixels: a smaller box holds nothing that a stride of 8 can see
EMPTY_SHARE = 0.04  # pictures without any part, as every real line has them
SUPERSAMPLE = 4
FINISHES = (  # tone (B, G, R) and range of brightness
    ((0.5, 1.0, 0.6), (110, 200)),  # green coat
    ((0.55, 0.85, 1.0), (130, 220)),  # brass
    ((1.02, 1.0, 0.98), (90, 235)),  # steel and zinc
    ((0.98, 1.0, 1.02), (25, 60)),  # black oxide
    ((1.0, 0.6, 0.4), (120, 210)),  # blue paint
    ((0.4, 0.42, 1.0), (130, 220)),  # red paint
)
USUAL_FINISH = 0.6  # share of the parts of a class in the finish that it mostly has, the one of the same position


@dataclass(frozen=True)
class Drawn:
    """A part in a picture: `mask` (H, W) is what is visible of it; `box` is x1, y1, x2, y2 in pixels, tight on it."""

    class_id: int
    mask: np.ndarray
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 (H, W, 3) BGR, and its parts."""

    image: np.ndarray
    parts: tuple[Drawn, ...]


@dataclass(frozen=True)
class _Layer:
    """A part drawn alone: coverage (H, W) and colour premultiplied by it (H, W, 3)."""

    alpha: np.ndarray
    colour: np.ndarray


def draw_scene(rng: np.random.Generator, *, size: int) -> Scene:
    """Draw one square picture of `size` pixels with zero to six parts."""
    image = clutter(rng, work_surface(rng, size))
    masks: list[np.ndarray] = []
    whole: list[int] = []  # pixels of each part before anything hid it
    classes: list[int] = []
    wanted = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, 7))
    for _ in range(wanted * 6):  # a place that hides too much is given up, and another one tried
        if len(classes) == wanted:
            break
        class_id = int(rng.integers(len(CLASSES)))
        layer, pixels = _draw_part(rng, class_id, size, float(image.mean()))
        cover = layer.alpha >= 0.5
        below = [mask & ~cover for mask in masks]
        if not all(map(_recognisable, [*below, cover], [*whole, pixels])):
            continue
        image = _lay(rng, image, layer)
        masks, whole, classes = [*below, cover], [*whole, pixels], [*classes, class_id]
    if rng.random() < 0.3:
        over = cable(rng, size)
        below = [mask & ~(over >= 0.5) for mask in masks]
        if all(map(_recognisable, below, whole)):
            shade = np.full(3, rng.uniform(15, 70), np.float32) * rng.uniform(0.7, 1.3, 3).astype(np.float32)
            image = image * (1 - over[..., None]) + shade * over[..., None]
            masks = below
    picture = camera(rng, light(rng, image))
    return Scene(picture, tuple(Drawn(c, mask, mask_box(mask)) for c, mask in zip(classes, masks, strict=True)))


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the tight box x1, y1, x2, y2 of a mask (H, W), in pixels; x2 and y2 lie behind its last pixel."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _recognisable(mask: np.ndarray, pixels: int) -> bool:
    if np.count_nonzero(mask) < max(1.0, MIN_VISIBLE * pixels):
        return False
    x1, y1, x2, y2 = mask_box(mask)
    return min(x2 - x1, y2 - y1) >= MIN_SIDE


def _draw_part(rng: np.random.Generator, class_id: int, size: int, backdrop: float) -> tuple[_Layer, int]:
    """Draw a part somewhere in a picture; also count its pixels as if the picture had no edge."""
    outline = PARTS[CLASSES[class_id]](rng)
    reach = size * float(np.exp(rng.uniform(np.log(0.075), np.log(0.3))))  # half extent: 15 to 60 % of the picture
    angle, squash = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.0)  # seen a little from the side
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * np.array([[1.0], [squash]])
    centre = rng.uniform(0.02, 0.98, 2) * size
    margin = int(np.ceil(reach * 1.1)) + 2
    origin = np.floor(centre).astype(int) - margin
    side = 2 * margin + 1

    def place(points: np.ndarray) -> np.ndarray:
        inside = points @ turn.T * reach + centre - origin
        return np.round(inside * SUPERSAMPLE * 16).astype(np.int32)

    fine = side * SUPERSAMPLE
    mask = np.zeros((fine, fine), np.uint8)
    cv2.fillPoly(mask, [place(contour) for contour in outline.contours], 255, cv2.LINE_8, 4)
    grooves = np.zeros_like(mask)
    width = max(1, round(reach * SUPERSAMPLE * 0.03))
    for groove in outline.grooves:
        cv2.polylines(grooves, [place(groove)], False, 255, width, cv2.LINE_AA, 4)
    alpha, grooves = (cv2.resize(layer, (side, side), interpolation=cv2.INTER_AREA) for layer in (mask, grooves))
    alpha, grooves = alpha.astype(np.float32) / 255, grooves.astype(np.float32) / 255
    tile = np.dstack([_finish(rng, class_id, alpha, grooves, backdrop) * alpha[..., None], alpha])

    sheet = np.zeros((size, size, 4), np.float32)
    (x, y), stop = origin, np.minimum(origin + side, size)
    left, top = max(x, 0), max(y, 0)
    sheet[top : stop[1], left : stop[0]] = tile[top - y : stop[1] - y, left - x : stop[0] - x]
    return _Layer(sheet[..., 3], sheet[..., :3]), int(np.count_nonzero(tile[..., 3] >= 0.5))


def _finish(
    rng: np.random.Generator, class_id: int, alpha: np.ndarray, grooves: np.ndarray, backdrop: float
) -> np.ndarray:
    """Colour a part: a metal or paint that stands off the backdrop, light from one side, bevelled edges, grooves."""
    tone, brightness = FINISHES[class_id if rng.random() < USUAL_FINISH else rng.integers(len(FINISHES))]
    value = rng.uniform(*brightness)
    if abs(value - backdrop) < 40:
        value = backdrop + (60 if backdrop < 120 else -60)
    side = alpha.shape[0]
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    across = np.array([np.cos(angle), np.sin(angle)], np.float32)
    shade = 1 + 0.18 * (axis[None] * across[0] + axis[:, None] * across[1]) + 0.04 * cloud(rng, side, cells=12)
    step = across * max(0.7, side * 0.012)
    bevel = _shifted(alpha, -step) - _shifted(alpha, step)  # positive on the edge towards the light
    gloss = np.float32(value) * (shade + 0.3 * bevel) * (1 - 0.4 * grooves)
    return gloss[..., None] * np.array(tone, np.float32)


def _lay(rng: np.random.Generator, image: np.ndarray, layer: _Layer) -> np.ndarray:
    """Lay a part on the picture, with the shadow that it throws beside itself."""
    offset = rng.uniform(-0.02, 0.02, 2) * image.shape[0]
    thrown = cv2.GaussianBlur(_shifted(layer.alpha, offset), (0, 0), image.shape[0] / 120)
    image = image * (1 - thrown * np.float32(rng.uniform(0.15, 0.55)))[..., None]
    return image * (1 - layer.alpha[..., None]) + layer.colour


def _shifted(field: np.ndarray, offset: np.ndarray) -> np.ndarray:
    matrix = np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float32)
    return cv2.warpAffine(field, matrix, field.shape[::-1])
