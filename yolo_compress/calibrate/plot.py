# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A choice of images as a picture: bins of every feature, and the objective as images are taken."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from yolo_compress.calibrate.choose import Choice
from yolo_compress.errors import require

COLUMNS = 3
DARK, LIGHT, GREY = "#0f766e", "#99d5cf", "#6b7280"


def picture(choice: Choice, *, seed: int) -> bytes:
    """Return a PNG: what all and what the chosen images count in each bin, and the objective by number of images.

    Bars are the chosen images, the line is the whole data set; both are shares, bins by falling size where there are
    many. The curves are the choice in the order in which it was made, and the mean and extremes of random draws.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    require("matplotlib", extra="report", purpose="coverage pictures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: the caller's choice of backend stays as it is

    features = choice.objective.features
    lines = math.ceil((len(features) + 1) / COLUMNS)
    figure = Figure(figsize=(3.6 * COLUMNS, 2.5 * lines), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    counts, start = choice.objective.counts(choice.numbers), 0
    for panel, feature in zip(panels, features, strict=False):
        here = counts[start : start + feature.bins]
        start += feature.bins
        _bins(panel, np.asarray(feature.members.sum(axis=0)).ravel(), here)
        told = choice.chosen.coverage[feature.name]
        shares = f"{100 * told['covered']:.0f} % of {feature.bins} bins; at random {100 * told['random_covered']:.0f} %"
        panel.set_title(f"{feature.name}: {shares}", fontsize=8)
    _curves(panels[len(features)], choice, seed)
    for panel in panels[len(features) + 1 :]:
        panel.set_visible(False)
    for panel in panels:
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _bins(panel: Any, everything: np.ndarray, chosen: np.ndarray) -> None:
    order = np.argsort(-everything, kind="stable") if len(everything) > 12 else np.arange(len(everything))
    places = np.arange(len(order))
    panel.bar(places, (chosen / max(chosen.sum(), 1e-12))[order], color=LIGHT, edgecolor=DARK, linewidth=0.4)
    panel.step(places, (everything / everything.sum())[order], where="mid", color="#111827", linewidth=1)
    if everything.max() > 100 * everything.min():  # classes: the rare ones would not be seen
        panel.set_yscale("log")
    panel.set_xticks([])
    panel.set_xlabel("bins", fontsize=7)
    panel.set_ylabel("share", fontsize=7)


def _curves(panel: Any, choice: Choice, seed: int) -> None:
    objective, n = choice.objective, len(choice.numbers)
    sizes = np.unique(np.linspace(1, n, min(n, 24)).astype(int))
    draws = objective.draws(n, seed=seed)
    random = np.array([[objective.value(draw[:size]) for size in sizes] for draw in draws])
    panel.plot(sizes, [objective.value(choice.numbers[:size]) for size in sizes], color=DARK, lw=1.4, label="chosen")
    panel.plot(sizes, random.mean(axis=0), color=GREY, lw=1.2, ls="--", label=f"random, {len(draws)} draws")
    panel.fill_between(sizes, random.min(axis=0), random.max(axis=0), color=GREY, alpha=0.25, lw=0)
    panel.set_title(f"objective: {objective.value(choice.numbers):.4f}", fontsize=8)
    panel.set_xlabel("images", fontsize=7)
    panel.legend(fontsize=7, frameon=False, loc="lower right")
