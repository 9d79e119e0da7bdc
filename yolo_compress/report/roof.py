# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Rooflines as tables and as pictures that can be read without colour."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from yolo_compress.errors import require
from yolo_compress.report.content import Table, number

HEADER = ("Layer", "Precision", "MFLOPs", "MB moved", "Operations per byte", "Measured (ms)", "Least (ms)")
HEADER += ("Share (%)", "To gain (ms)", "Limited by")
MARKERS = {"fp32": "o", "bf16": "D", "int8": "s"}
LINES = {"fp32": "-", "bf16": "-.", "int8": "--"}


def rooflines(bench: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the label and roofline of each candidate that has one."""
    return [(str(row["label"]), row["roofline"]) for row in bench["rows"] if row.get("roofline")]


def roofline_table(roofline: Mapping[str, Any]) -> Table:
    """Return the whole model and its layers, those with most time to gain first."""
    layers = sorted(roofline["layers"], key=lambda layer: layer["least_seconds"] - layer["seconds"])
    rest = ("everything else", *["-"] * 4, number(roofline["other_seconds"], 3, scale=1e3), *["-"] * 4)
    lines = (_line(roofline["whole"]), rest, *(_line(layer) for layer in layers))
    return Table(HEADER, lines, frozenset({0, 1, 9}))


def peaks_in_words(roofline: Mapping[str, Any]) -> str:
    """Return the peaks that the roof is made of."""
    rates = ", ".join(
        f"{name} {rate / 1e9:.1f} GOP/s ({roofline['how'].get(name, '-')})"
        for name, rate in roofline["ops_per_s"].items()
    )
    memory = f"{roofline['bytes_per_s'] / 1e9:.1f} GB/s ({roofline['how'].get('copy', '-')})"
    return f"Peaks of this machine: {rates}; memory {memory}."


def roofline_picture(roofline: Mapping[str, Any]) -> bytes:
    """Return a PNG, both axes logarithmic: a roof per precision, a mark per layer, a star for the whole.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    require("matplotlib", extra="report", purpose="pictures of rooflines")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    marks = [*roofline["layers"], roofline["whole"]]
    used = {layer["precision"] for layer in roofline["layers"]}
    ridges = [rate / roofline["bytes_per_s"] for rate in roofline["ops_per_s"].values()]
    intensities = [mark["intensity"] for mark in marks]
    along = np.geomspace(min(*intensities, *ridges) / 3, max(*intensities, *ridges) * 3, 100)
    for precision, rate in roofline["ops_per_s"].items():
        if precision in used:
            roof = np.minimum(rate, roofline["bytes_per_s"] * along) / 1e9
            axes.plot(along, roof, color="#111827", lw=1.2, ls=LINES.get(precision, ":"), label=f"roof {precision}")
    for precision in sorted(used):
        layers = [layer for layer in roofline["layers"] if layer["precision"] == precision]
        axes.scatter(
            [layer["intensity"] for layer in layers],
            [layer["operations"] / layer["seconds"] / 1e9 for layer in layers],
            s=26,
            marker=MARKERS.get(precision, "^"),
            facecolors="white",
            edgecolors="#0f766e",
            linewidths=1,
            zorder=2,
            label=f"layer in {precision}",
        )
    whole = roofline["whole"]
    rate = whole["operations"] / whole["seconds"] / 1e9
    axes.scatter([whole["intensity"]], [rate], s=150, marker="*", color="#9a3412", zorder=3, label="whole model")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arithmetic intensity (operations per byte)")
    axes.set_ylabel("GOP/s")
    axes.grid(alpha=0.25, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def roofline_in_words(label: str, roofline: Mapping[str, Any]) -> str:
    """Return what the picture shows, for those who cannot see it."""
    whole = roofline["whole"]
    return (
        f"Roofline of {label}: the whole model takes {1e3 * whole['seconds']:.2f} ms by the profile, the roof allows "
        f"{1e3 * whole['least_seconds']:.2f} ms, {100 * whole['share']:.0f} %"
    )


def _line(layer: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "whole model" if layer["name"] == "whole" else layer["name"],
        layer["precision"],
        number(layer["operations"], 1, scale=1e-6),
        number(layer["bytes"], 3, scale=1e-6),
        number(layer["intensity"], 1),
        number(layer["seconds"], 3, scale=1e3),
        number(layer["least_seconds"], 3, scale=1e3),
        number(layer["share"], 0, scale=100),
        number(max(layer["seconds"] - layer["least_seconds"], 0.0), 3, scale=1e3),
        layer["limit"],
    )
