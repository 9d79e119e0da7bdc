# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The parts of the demonstration set, as outlines: one function per class, one row per class in `PARTS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outline:
    """A part seen from above, centred, its longer half-extent about 1, before rotation and scale.

    Attributes:
        contours: Closed polygons of shape (K, 2); what lies inside an odd number of them is material.
        grooves: Open polylines of shape (K, 2) that are engraved in the material, such as a thread.
    """

    contours: tuple[np.ndarray, ...]
    grooves: tuple[np.ndarray, ...] = ()


def bolt(rng: np.random.Generator) -> Outline:
    """Draw a hexagon bolt from the side: a chamfered head and a threaded shank."""
    shank, head_end, head = rng.uniform(0.3, 0.36), rng.uniform(-0.4, -0.25), rng.uniform(0.62, 0.72)
    outline = [(-1, -head * 0.8), (-0.9, -head), (head_end, -head), (head_end, -shank), (0.94, -shank)]
    outline += [(1, -shank * 0.7)]
    thread = np.arange(rng.uniform(-0.1, 0.2), 0.97, 0.14)
    grooves = [_points([(x, -shank), (x + 0.05, shank)]) for x in thread]
    edges = [_points([(-1, y), (head_end, y)]) for y in (-head * 0.45, head * 0.45)]
    return Outline((_points(outline + [(x, -y) for x, y in reversed(outline)]),), (*grooves, *edges))


def nut(rng: np.random.Generator) -> Outline:
    """Draw a hexagon nut: six corners, a round hole and a chamfer ring."""
    hole = rng.uniform(0.36, 0.44)
    return Outline((_circle(1.0, corners=6), _circle(hole)), (_circle(hole + 0.12, closed=True),))


def washer(rng: np.random.Generator) -> Outline:
    """Draw a flat washer: a plain ring."""
    return Outline((_circle(1.0), _circle(rng.uniform(0.58, 0.7))))


def gear(rng: np.random.Generator) -> Outline:
    """Draw a spur gear: 9 to 14 teeth, a bore and a hub."""
    teeth, root, bore = int(rng.integers(9, 15)), rng.uniform(0.74, 0.8), rng.uniform(0.2, 0.3)
    angles = (np.arange(teeth)[:, None] + np.array([0.0, 0.12, 0.38, 0.5])) * (2 * np.pi / teeth)
    radii = np.tile([root, 1.0, 1.0, root], teeth)
    rim = np.stack([np.cos(angles.ravel()) * radii, np.sin(angles.ravel()) * radii], axis=1)
    return Outline((rim, _circle(bore)), (_circle(bore + 0.14, closed=True), _circle(root - 0.1, closed=True)))


def bracket(rng: np.random.Generator) -> Outline:
    """Draw an angle bracket: two legs and a screw hole in each."""
    leg, reach = rng.uniform(0.62, 0.74), rng.uniform(0.8, 1.0)
    outline = [
        (-0.9, -0.9),
        (0.9, -0.9),
        (0.9, -0.9 + leg),
        (-0.9 + leg, -0.9 + leg),
        (-0.9 + leg, reach),
        (-0.9, reach),
    ]
    holes = [_circle(leg * 0.22) + np.array(centre) for centre in ((0.55, -0.9 + leg / 2), (-0.9 + leg / 2, 0.5))]
    return Outline((_points(outline), *holes), (_points([(-0.9, -0.9), (-0.9 + leg, -0.9 + leg)]),))


def knob(rng: np.random.Generator) -> Outline:
    """Draw a star knob: five lobes around a boss."""
    depth, boss = rng.uniform(0.2, 0.26), rng.uniform(0.25, 0.32)
    angles = np.arange(80) * (2 * np.pi / 80)
    radii = 1 - depth + depth * np.cos(5 * angles)
    rim = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)
    return Outline((rim,), (_circle(boss, closed=True), _circle(boss + 0.12, closed=True)))


PARTS: dict[str, Callable[[np.random.Generator], Outline]] = {
    "bolt": bolt,
    "nut": nut,
    "washer": washer,
    "gear": gear,
    "bracket": bracket,
    "knob": knob,
}


def _points(points: Iterable[tuple[float, float]]) -> np.ndarray:
    return np.array(list(points), dtype=np.float64)


def _circle(radius: float, *, corners: int = 48, closed: bool = False) -> np.ndarray:
    angles = np.arange(corners + closed) * (2 * np.pi / corners)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
