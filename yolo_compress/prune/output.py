# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The score that follows from how far detections move (`bench.response`).

At the full model the distance and its gradient are zero, so what a small change costs is its Hessian, J^T A J, with J
the Jacobian of logits and distances and A diagonal: p_t p (1 - p) for logits z with class probabilities p,
p_t / (0.1 side)^2 for distances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import nn

from yolo_compress.bench.response import STEP, OutputWeights, sides
from yolo_compress.host.detect import Response, responses
from yolo_compress.prune.gradient import mask_gradients
from yolo_compress.prune.graph import ChannelGraph
from yolo_compress.prune.inputs import Batch, FloatArray, Inputs, Progress


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
            steps = (weights.localisation * belief).sqrt() / (STEP * sides(branch.distances))
            steps = steps * _signs(branch.distances, generator)
        total = total + (logits * branch.scores).sum() + (steps * branch.distances).sum()
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


def _signs(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, like.shape, generator=generator, device=like.device).to(like) * 2 - 1
