# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Accuracy against latency or size as a picture that can be read without colour."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yolo_compress.errors import require

MARKERS = {"native": ("o", "#6b7280", "native export"), "yolo_compress": ("s", "#0f766e", "yolo_compress")}
OTHER = ("^", "#9a3412", "given by the user")


@dataclass(frozen=True)
class Axis:
    """What accuracy is drawn against, and less of which is better; `samples` names the measurements behind it."""

    key: str
    text: str
    scale: float = 1.0
    samples: str = ""


LATENCY = Axis("latency_ms_p50", "latency, median and quartiles (ms per image)", samples="latency_ms_samples")
RATIO = Axis("latency_ratio_p50", "time as a ratio to the first candidate (median of paired rounds)")
SIZE = Axis("size_bytes", "size (MB)", scale=1 / (1 << 20))


def points_of(bench: Mapping[str, Any], axis: Axis) -> list[tuple[Mapping[str, Any], tuple[float, float]]]:
    """Return the candidates that passed their checks, each with its place along the axis and its mAP50-95 in points."""
    rows = [row for row in bench["rows"] if row.get("status") == "ok" and row.get(axis.key) is not None]
    return [(row, (row[axis.key] * axis.scale, 100 * row["map50_95"])) for row in rows]


def unbeaten(bench: Mapping[str, Any], axis: Axis) -> list[str]:
    """Return the labels of the candidates that no other one beats."""
    placed = points_of(bench, axis)
    return [str(placed[index][0]["label"]) for index in front([point for _, point in placed])]


def picture(bench: Mapping[str, Any], axis: Axis = LATENCY) -> bytes:
    """Return a PNG of mAP50-95 against latency or size, with a line through what no other candidate beats.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    require("matplotlib", extra="report", purpose="Pareto pictures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: the caller's choice of backend stays as it is

    placed = points_of(bench, axis)
    rows, points = [row for row, _ in placed], [point for _, point in placed]
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    best = front(points)
    if len(best) > 1:
        axes.plot(*zip(*(points[i] for i in best), strict=True), color="#111827", lw=1, ls="--", zorder=1)
    seen = set()
    for number, (row, (x, y)) in enumerate(zip(rows, points, strict=True), start=1):
        marker, colour, kind = MARKERS.get(str(row.get("origin")), OTHER)
        filled = number - 1 in best
        axes.scatter(
            x,
            y,
            s=64,
            marker=marker,
            edgecolors=colour,
            facecolors=colour if filled else "white",
            linewidths=1.5,
            zorder=2,
            label=None if kind in seen else kind,
        )
        seen.add(kind)
        _bars(axes, row.get(axis.samples), x, y, colour)
        left = x > 0.6 * max(points)[0] + 0.4 * min(points)[0]  # text on the side that has room
        axes.annotate(
            str(row["label"]),
            (x, y),
            xytext=(-8 if left else 8, -11),
            textcoords="offset points",
            fontsize=8,
            ha="right" if left else "left",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )
    if rows:
        axes.margins(x=0.18, y=0.22)
        axes.set_xlim(left=max(axes.get_xlim()[0], 0))
        axes.legend(fontsize=7, frameon=False, loc="best", title="filled: not beaten by another", title_fontsize=7)
    else:
        axes.text(0.5, 0.5, "no candidate passed its accuracy check", ha="center", transform=axes.transAxes)
    axes.set_xlabel(axis.text)
    axes.set_ylabel("mAP50-95 (points)")
    axes.grid(alpha=0.25, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices, by rising latency, of the points (latency, accuracy) that no other point beats.

    A point is beaten by one that is at least as good in both and better in one.
    """
    kept = []
    most = float("-inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > most or points[index] == points[kept[-1]]:
            most = points[index][1]
            kept.append(index)
    return kept


def _bars(axes: Any, given: Sequence[float] | None, x: float, y: float, colour: str) -> None:
    samples = sorted(given or ())
    if samples:
        low, high = samples[len(samples) // 4], samples[(3 * len(samples)) // 4]
        axes.plot([min(low, x), max(high, x)], [y, y], color=colour, lw=1.2, alpha=0.7, zorder=1)
