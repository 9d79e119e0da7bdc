# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How much each channel matters: one function and one line in `IMPORTANCES` per score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from yolo_compress.errors import CompressError
from yolo_compress.prune.gradient import fisher, hessian, taylor
from yolo_compress.prune.graph import ChannelGraph
from yolo_compress.prune.inputs import FloatArray, Score
from yolo_compress.prune.magnitude import bn_scale, fpgm, l1, l2, lamp, random
from yolo_compress.prune.obs import obs
from yolo_compress.prune.output import output


@dataclass(frozen=True)
class Importance:
    """An entry of the registry.

    Attributes:
        needs: What the score looks at beside the weights.
        additive: The scores of all layers are in one unit, the change that removing a channel causes, so that they can
            be added up and compared across layers. Others are brought to a mean of 1 in each group first.
    """

    name: str
    description: str
    needs: Literal["nothing", "images", "labels"]
    additive: bool
    function: Score


def check_finite(scores: FloatArray) -> FloatArray:
    """Return scores that are finite.

    Raises:
        CompressError: One is not.
    """
    if not np.isfinite(scores).all():
        raise CompressError(
            "the importance scores are not finite, which points to weights or labels that are not; "
            "check that the model predicts, or use importance=l2"
        )
    return scores


def normalised(scores: FloatArray, graph: ChannelGraph, *, additive: bool = False) -> FloatArray:
    """Scale scores so that they compare: to a mean of 1 over all channels that may go, or in each group.

    Additive scores keep their proportions across layers. A group, or a model, of zeros becomes all ones.

    Raises:
        CompressError: A score is not finite.
    """
    check_finite(scores)
    free = [group for group in graph.groups if int(group[0]) not in graph.frozen]
    sets = [np.concatenate(free)] if additive and free else graph.groups
    result = np.ones_like(scores)
    for members in sets:
        if (mean := scores[members].mean()) > 0:
            result[members] = scores[members] / mean
    return result


IMPORTANCES: dict[str, Importance] = {
    entry.name: entry
    for entry in (
        Importance("obs", "change of the detections that remains after repair; no labels", "images", True, obs),
        Importance("output", "change of the detections when a channel is masked; no labels", "images", True, output),
        Importance("taylor", "absolute first-order change of the training loss", "labels", True, taylor),
        Importance("fisher", "squared first-order change of the training loss, per image", "labels", True, fisher),
        Importance("hessian", "second-order change of the training loss", "labels", True, hessian),
        Importance("l1", "sum of the filters that make a channel; needs no images", "nothing", False, l1),
        Importance("l2", "norm of the filters that make a channel; needs no images", "nothing", False, l2),
        Importance("bn_scale", "BatchNorm weights that a channel passes; needs no images", "nothing", False, bn_scale),
        Importance("lamp", "share of the squared norm among larger filters; needs no images", "nothing", True, lamp),
        Importance("fpgm", "distance to the other filters of a layer; needs no images", "nothing", False, fpgm),
        Importance("random", "chance, as a baseline; needs no images", "nothing", False, random),
    )
}
