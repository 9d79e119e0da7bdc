# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Accuracy against latency, size and energy as pictures that can be read without colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yolo_compress.errors import require
from yolo_compress.report.limits import megabytes

MARKERS = {"native": ("o", "#6b7280", "native export"), "yolo_compress": ("s", "#0f766e", "yolo_compress")}
OTHER = ("^", "#9a3412", "given by the user")
SPEEDS = ("latency", "ratio")  # a report draws one of the two
LONGEST_NAME = 32  # characters beside a mark
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """What accuracy is drawn against.

    Attributes:
        name: By which the picture is known.
        title: Of the picture, after "Accuracy against".
        label: Of the axis, with its unit.
        value: Of a row, None where it was not measured.
        unit: After a value in text.
    """

    name: str
    title: str
    label: str
    value: Callable[[Row], float | None]
    unit: str

    @property
    def file(self) -> str:
        """Return the name of the picture's file."""
        return "pareto.png" if self.name in SPEEDS else f"pareto-{self.name}.png"


def _energy(row: Row) -> float | None:
    energy = row.get("energy")
    return 1e3 * energy["net_j_per_image"] if isinstance(energy, Mapping) else None


LATENCY = Axis(
    "latency", "latency", "latency, median and quartiles (ms per image)", lambda row: row.get("latency_ms_p50"), "ms"
)
SIZE = Axis("size", "size", "size on disk (MB)", megabytes, "MB")
ENERGY = Axis("energy", "energy", "energy above idle (mJ per image)", _energy, "mJ")
RATIO = Axis(
    "ratio",
    "time as a ratio to the first candidate",
    "time as a ratio to the first candidate (median of paired rounds)",
    lambda row: row.get("latency_ratio_p50"),
    "",
)


def drawn(bench: Mapping[str, Any], speed: Axis = LATENCY) -> tuple[Axis, ...]:
    """Return what there is to draw accuracy against: speed always, the others where some candidate has a value."""
    return (speed, *(axis for axis in (SIZE, ENERGY) if _rows(bench, axis)))


def unbeaten(bench: Mapping[str, Any], axis: Axis) -> list[str]:
    """Return the labels of the candidates that no other one beats in both accuracy and a figure."""
    rows = _rows(bench, axis)
    return [str(rows[index]["label"]) for index in front(_points(rows, axis))]


def picture(bench: Mapping[str, Any], axis: Axis = LATENCY) -> bytes:
    """Return a PNG of mAP50-95 against a figure, with a line through what no other candidate beats in both.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    require("matplotlib", extra="report", purpose="Pareto pictures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: the caller's choice of backend stays as it is

    rows = _rows(bench, axis)
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = _points(rows, axis)
    best = front(points)
    if len(best) > 1:
        axes.plot(*zip(*(points[i] for i in best), strict=True), color="#111827", lw=1, ls="--", zorder=1)
    seen = set()
    for index, (row, (x, y)) in enumerate(zip(rows, points, strict=True)):
        marker, colour, kind = MARKERS.get(str(row.get("origin")), OTHER)
        axes.scatter(
            x,
            y,
            s=64,
            marker=marker,
            edgecolors=colour,
            facecolors=colour if index in best else "white",
            linewidths=1.5,
            zorder=2,
            label=None if kind in seen else kind,
        )
        seen.add(kind)
        if axis is LATENCY:
            _bars(axes, row, x, y, colour)
        left = x > 0.6 * max(points)[0] + 0.4 * min(points)[0]  # text on the side that has room
        text = axes.annotate(
            shortened(str(row["label"])),
            (x, y),
            xytext=(-8 if left else 8, -11),
            textcoords="offset points",
            fontsize=8,
            ha="right" if left else "left",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )
        text.set_in_layout(False)  # a name must not squeeze the axes
    if rows:
        axes.margins(x=0.18, y=0.22)
        axes.set_xlim(left=max(axes.get_xlim()[0], 0))
        axes.legend(fontsize=7, frameon=False, loc="best", title="filled: not beaten by another", title_fontsize=7)
    else:
        axes.text(0.5, 0.5, "no candidate passed its accuracy check", ha="center", transform=axes.transAxes)
    axes.set_xlabel(axis.label)
    axes.set_ylabel("mAP50-95 (points)")
    axes.grid(alpha=0.25, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def in_words(bench: Mapping[str, Any], axis: Axis) -> str:
    """Return what the picture shows, for those who cannot see it."""
    shown = [
        f"{row['label']} {axis.value(row):.2f} {axis.unit}".rstrip() + f", {100 * row['map50_95']:.2f}"
        for row in _rows(bench, axis)
    ]
    kind = "median latency" if axis is LATENCY else axis.title
    return f"mAP50-95 against {kind}: " + ("; ".join(shown) or "no candidate was measured")


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices, by rising cost, of the points (cost, accuracy) that no other point beats.

    A point is beaten by one that is at least as good in both and better in one.
    """
    kept = []
    most = float("-inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > most or points[index] == points[kept[-1]]:
            most = points[index][1]
            kept.append(index)
    return kept


def shortened(label: str) -> str:
    """Return a name that fits into a picture: its begin and its end, where versions differ."""
    half = LONGEST_NAME // 2
    return label if len(label) <= LONGEST_NAME else f"{label[: half - 1]}\N{HORIZONTAL ELLIPSIS}{label[-half:]}"


def _rows(bench: Mapping[str, Any], axis: Axis) -> list[Row]:
    """Return the rows that can be drawn: a refused candidate has no place in any picture."""
    rows = [row for row in bench["rows"] if row.get("status") == "ok" and row.get("map50_95") is not None]
    return [row for row in rows if axis.value(row) is not None]


def _points(rows: Sequence[Row], axis: Axis) -> list[tuple[float, float]]:
    return [(axis.value(row) or 0.0, 100 * row["map50_95"]) for row in rows]


def _bars(axes: Any, row: Row, x: float, y: float, colour: str) -> None:
    samples = sorted(row.get("latency_ms_samples") or ())
    if samples:
        low, high = samples[len(samples) // 4], samples[(3 * len(samples)) // 4]
        axes.plot([min(low, x), max(high, x)], [y, y], color=colour, lw=1.2, alpha=0.7, zorder=1)
