# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How much the detections change: a distance between two responses, and the score that follows from it.

The distance between what the full model says and what a masked one says has three terms per image, each a sum over the
anchors of every branch of the head, weighted by p_t: the belief of the full model that there is an object. With p its
class probabilities, t its best class, z logits, d the distances to the four sides of a box and a prime for the masked
model:

* confidence: KL(p_t || p'_t) of the best class as a yes-or-no decision;
* discrimination: the same summed over all other classes;
* localisation: 1/2 sum_k ((d_k - d'_k) / (0.1 side_k))^2, with the width or height of the box as side. A tenth of a
  side is what mean average precision over IoU 0.5 to 0.95 tells apart.

Without p_t the thousands of anchors that see nothing would outweigh the few that do. No labels are needed. At the full
model the distance and its gradient are zero, so what a small change costs is its Hessian, J^T A J, with J the Jacobian
of logits and distances and A diagonal: p_t p (1 - p) for logits, p_t / (0.1 side)^2 for distances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import nn

from yolo_compress.host.detect import Response, responses
from yolo_compress.prune.gradient import mask_gradients
from yolo_compress.prune.graph import ChannelGraph
from yolo_compress.prune.inputs import Batch, FloatArray, Inputs, OutputWeights, Progress

STEP = 0.1  # of a side
SMALLEST_SIDE = 1.0  # strides; a box below it would make localisation count without bound


def distance(full: Sequence[Response], masked: Sequence[Response], weights: OutputWeights) -> torch.Tensor:
    """Return the distance between two responses of the same images, (N,)."""
    total = torch.zeros(len(full[0].scores), dtype=full[0].scores.dtype, device=full[0].scores.device)
    for ours, theirs in zip(full, masked, strict=True):
        p = ours.scores.sigmoid()
        best = p.argmax(1, keepdim=True)
        divergence = _binary_divergence(ours.scores, theirs.scores)
        confidence = divergence.gather(1, best)
        moved = (ours.distances - theirs.distances) / (STEP * _sides(ours.distances))
        terms = (
            weights.confidence * confidence,
            weights.discrimination * (divergence.sum(1, keepdim=True) - confidence),
            weights.localisation * moved.square().sum(1, keepdim=True) / 2,
        )
        total = total + (p.gather(1, best) * sum(terms)).flatten(1).sum(1)
    return total


def probe(found: Sequence[Response], weights: OutputWeights, generator: torch.Generator) -> torch.Tensor:
    """Return a scalar whose squared derivatives are, on average over random signs, the diagonal of the Hessian.

    It is sum_o s_o sqrt(A_o) o over all logits and distances o, with signs s. What it squares to by a quantity that one
    image owns averages to the diagonal of J^T A J, since the signs of different outputs cancel.
    """
    total = found[0].scores.new_zeros(())
    for branch in found:
        with torch.no_grad():
            p = branch.scores.sigmoid()
            best = p.argmax(1, keepdim=True)
            share = torch.full_like(p, weights.discrimination).scatter_(1, best, weights.confidence)
            belief = p.gather(1, best)
            logits = (belief * share * p * (1 - p)).sqrt() * _signs(p, generator)
            sides = (weights.localisation * belief).sqrt() / (STEP * _sides(branch.distances))
            sides = sides * _signs(branch.distances, generator)
        total = total + (logits * branch.scores).sum() + (sides * branch.distances).sum()
    return total


def output(model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
    """Score by how much the detections change when channels are masked, to second order, summed over images.

    Masking a set S of channels costs D_S = 1/2 sum over images n of (sum over c in S of dP_n/dm_nc)^2 for the `probe` P
    of this module, whose average over signs is the second-order change of the distance, interactions included:
    what many channels do together, such as the mean they carry, is more than the sum of what each does alone. Within a
    group, channels are ordered by what each costs alone, and a score is what D_S grows by when its turn comes, evened
    out so that it rises along the order. Label-free; it costs one training step per batch.

    Raises:
        DataError: There is not one image.
    """
    like = next(model.parameters())
    generator = torch.Generator(device=like.device).manual_seed(inputs.seed)

    def objective(masked: nn.Module, batch: Batch) -> torch.Tensor:
        return probe(responses(masked, batch["img"]), inputs.weights, generator)

    pictures = ({"img": images} for images in inputs.pictures("output", like))
    gradients = np.concatenate(list(mask_gradients(model, graph, pictures, objective, progress)))
    scores = np.zeros(graph.channels)
    for group in graph.groups:
        own = gradients[:, group]
        order = np.argsort(np.square(own).sum(0), kind="stable")
        together = np.square(np.cumsum(own[:, order], axis=1)).sum(0) / 2
        steps = isotonic_regression(np.diff(together, prepend=0.0)).x.clip(min=0)
        scores[group[order]] = steps * (1 + 1e-9 * np.arange(len(order)))  # equal steps keep their order
    return scores


def _binary_divergence(z: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return KL(sigmoid(z) || sigmoid(other)) per element."""
    softplus = nn.functional.softplus
    p = z.sigmoid()
    return p * (softplus(-other) - softplus(-z)) + (1 - p) * (softplus(other) - softplus(z))


def _sides(distances: torch.Tensor) -> torch.Tensor:
    """Return width, height, width, height of boxes (N, 4, anchors)."""
    sides = distances[:, :2] + distances[:, 2:]
    return torch.cat([sides, sides], 1).clamp(min=SMALLEST_SIDE)


def _signs(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, like.shape, generator=generator, device=like.device).to(like) * 2 - 1
