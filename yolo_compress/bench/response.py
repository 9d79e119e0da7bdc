# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How far detections move when a model is changed: a distance between two responses to the same images.

It has three terms per image, each a sum over the anchors of every branch of the head, weighted by p_t: the belief of
the full model that there is an object. With p its class probabilities, t its best class, d the distances to the four
sides of a box and a prime for the changed model:

* confidence: KL(p_t || p'_t) of the best class as a yes-or-no decision;
* discrimination: the same summed over all other classes;
* localisation: 1/2 sum_k ((d_k - d'_k) / (0.1 side_k))^2, with the width or height of the box as side. A tenth of a
  side is what mean average precision over IoU 0.5 to 0.95 tells apart.

Without p_t the thousands of anchors that see nothing would outweigh the few that do. No labels are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from yolo_compress.host.detect import Response

STEP = 0.1  # of a side
SMALLEST_SIDE = 1.0  # strides; a box below it would make localisation count without bound


@dataclass(frozen=True)
class OutputWeights:
    """How much each kind of change in the detections counts."""

    confidence: float = 1.0
    localisation: float = 1.0
    discrimination: float = 1.0


def distance(full: Sequence[Response], changed: Sequence[Response], weights: OutputWeights) -> torch.Tensor:
    """Return the distance between two responses of the same images, (N,)."""
    total = torch.zeros(len(full[0].scores), dtype=full[0].scores.dtype, device=full[0].scores.device)
    for ours, theirs in zip(full, changed, strict=True):
        p = ours.scores.sigmoid()
        best = p.argmax(1, keepdim=True)
        divergence = _binary_divergence(ours.scores, theirs.scores)
        confidence = divergence.gather(1, best)
        moved = (ours.distances - theirs.distances) / (STEP * sides(ours.distances))
        terms = (
            weights.confidence * confidence,
            weights.discrimination * (divergence.sum(1, keepdim=True) - confidence),
            weights.localisation * moved.square().sum(1, keepdim=True) / 2,
        )
        total = total + (p.gather(1, best) * sum(terms)).flatten(1).sum(1)
    return total


def sides(distances: torch.Tensor) -> torch.Tensor:
    """Return width, height, width, height of boxes (N, 4, anchors)."""
    sides = distances[:, :2] + distances[:, 2:]
    return torch.cat([sides, sides], 1).clamp(min=SMALLEST_SIDE)


def _binary_divergence(z: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return KL(sigmoid(z) || sigmoid(other)) per element.

    In float64 where the device has it: a small divergence is what is left of two terms that cancel, and the error of
    float32 in each of thousands of anchors adds up to more than rounding one layer moves.
    """
    softplus = nn.functional.softplus
    if z.device.type != "mps":
        z, other = z.double(), other.double()
    p = z.sigmoid()
    return p * (softplus(-other) - softplus(-z)) + (1 - p) * (softplus(other) - softplus(z))
