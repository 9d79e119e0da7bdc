# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""All features of the training images of a data set: from the images, from labels or a float model's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolo_compress.calibrate.bins import Feature, area_bins, class_bins, count_bins, value_bins
from yolo_compress.calibrate.features import STATISTICS, read_statistics
from yolo_compress.calibrate.responses import responses
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.data import DataSpec, labels_for

LUMA = ("dark", "middle", "bright")  # columns of one feature; the other statistics are one each


@dataclass(frozen=True)
class Survey:
    """The readable training images, their features, and the images that could not be read."""

    images: tuple[Path, ...]
    features: tuple[Feature, ...]
    skipped: tuple[Path, ...]


def survey(
    data: DataSpec,
    *,
    labels: bool = True,
    model: Path | None = None,
    activations: bool = True,
    imgsz: int = 640,
    skip_unreadable: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Survey:
    """Look at every training image of a data set.

    Args:
        data: The data set.
        labels: Take objects from labels; else from the model's detections, or go without where there is no model.
        model: Float checkpoint.
        activations: Its activations count as well.
        imgsz: Side of the letterboxed square in pixels that sizes of objects and the model refer to.
        skip_unreadable: Leave out images that cannot be decoded.
        progress: Takes a line every ten seconds.

    Raises:
        DataError: An image or a label file cannot be read, or there are no labels.
        UsageError: The model knows other classes.
        UnsupportedModel: It is no float detector, or an activation of it is not finite.
    """
    network = None if model is None else checkpoint.load_model(model)
    if network is not None and len(checkpoint.names(network)) != len(data.names):
        raise UsageError(
            f"'{model}' knows {len(checkpoint.names(network))} classes and '{data.path}' has {len(data.names)}; give "
            "the data that it was trained on"
        )
    found = read_statistics(data.train, skip_unreadable=skip_unreadable, progress=progress)
    columns = dict(zip(STATISTICS, found.values.T, strict=True))
    features = [value_bins("luma", np.stack([columns.pop(name) for name in LUMA], axis=1))]
    features += [value_bins(name, values) for name, values in columns.items()]
    asked = network is not None and (activations or not labels)
    answers = responses(network, found.images, imgsz=imgsz, progress=progress) if asked else None
    objects: Sequence[np.ndarray] | None = None
    if labels:
        objects = labels_for(found.images)
        _check(objects, data)
    elif answers is not None:
        objects = answers.objects
    if objects is not None:
        features += [
            class_bins(objects, len(data.names)),
            count_bins(objects),
            area_bins(objects, found.aspects, imgsz),
        ]
    if answers is not None and activations:
        features += [value_bins("extremes", answers.extremes), value_bins("percentiles", answers.percentiles)]
    for feature in features:
        if not feature.bins:
            progress(f"the model detects nothing on {len(found.images)} images, so {feature.name} has no part")
    return Survey(found.images, tuple(feature for feature in features if feature.bins), found.skipped)


def _check(objects: Sequence[np.ndarray], data: DataSpec) -> None:
    highest = max((rows[:, 0].max() for rows in objects if len(rows)), default=None)
    if highest is None:
        raise DataError(
            f"none of the {len(objects)} training images of '{data.path}' has a labelled object; give labels=false, "
            "and model=best.pt to go by what that detects"
        )
    lowest = min(rows[:, 0].min() for rows in objects if len(rows))
    if highest >= len(data.names) or lowest < 0:
        wrong = highest if highest >= len(data.names) else lowest
        raise DataError(
            f"a label has class {wrong:.0f} and '{data.path}' names {len(data.names)}; correct the labels or 'names'"
        )
