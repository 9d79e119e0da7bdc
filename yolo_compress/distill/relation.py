# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Losses on how images, and objects in them, relate to each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torchvision.ops import nms, roi_align

from yolo_compress.distill.answer import Answer, Pair, Scene
from yolo_compress.distill.loss import DistillLoss, averaged
from yolo_compress.host.detect import decoded_boxes

OBJECTS = 64  # of a batch, drawn evenly, so that the matrix of their likeness stays small
CONFIDENT = 0.3  # the teacher's score from which its own boxes count as objects, where labels are not used
REGION = 3  # positions per side that an object is pooled to
ANGLE, LIKENESS = 2.0, 1.0  # weights against the distances; the paper's for angles


def distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compare the distances between embeddings, each divided by the mean distance of its own model.

    `sum_{i != j} huber(|s_i - s_j| / mu_s, |t_i - t_j| / mu_t) / (N (N - 1))`.

    Source: Park et al. 2019, Relational Knowledge Distillation, equations 5 to 7.

    Args:
        student: (N, C_s).
        teacher: (N, C_t).

    Returns:
        A scalar; zero below two embeddings.
    """
    n = len(student)
    if n < 2:
        return student.sum() * 0
    rows, columns = torch.triu_indices(n, n, 1).to(student.device)
    found = []
    for embedding in (student, teacher):
        distance = (embedding[rows] - embedding[columns]).norm(dim=1)
        found.append(distance / distance.mean().clamp(min=1e-12))
    return F.smooth_l1_loss(*found)


def angle_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compare the cosines of the angles that each three embeddings form.

    `mean_{i, j, k all different} huber(cos(i j k)_s, cos(i j k)_t)`, the angle at j.

    Source: Park et al. 2019, Relational Knowledge Distillation, equations 8 and 9.

    Args:
        student: (N, C_s).
        teacher: (N, C_t).

    Returns:
        A scalar; zero below three embeddings.
    """
    n = len(student)
    if n < 3:
        return student.sum() * 0
    index = torch.arange(n, device=student.device)
    i, j, k = torch.meshgrid(index, index, index, indexing="ij")
    different = (i < k) & (i != j) & (k != j)  # the angle is the same with i and k exchanged
    found = []
    for embedding in (student, teacher):
        towards = F.normalize(embedding[:, None] - embedding[None], dim=2)  # [a, j] from j to a
        cosines = torch.einsum("ijc,kjc->ijk", towards, towards)
        found.append(cosines[different])
    return F.smooth_l1_loss(*found)


def likeness_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compare the cosine likeness of all pairs of embeddings, a mean of squares.

    Source: Tung and Mori 2019, Similarity-Preserving Knowledge Distillation; there rows have norm 1, here embeddings.

    Args:
        student: (N, C_s).
        teacher: (N, C_t).

    Returns:
        A scalar; zero below two embeddings.
    """
    if len(student) < 2:
        return student.sum() * 0
    grams = [unit @ unit.T for unit in (F.normalize(embedding, dim=1) for embedding in (student, teacher))]
    return F.mse_loss(*grams)


class Relation(DistillLoss):
    """Distances and angles between images, and likeness between objects, level by level."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        self.strides = pair.teacher.strides

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Average over levels; what relates images to each other belongs to no single one."""
        regions = objects(teacher, scene, self.strides)
        parts = []
        for stride, *features in zip(self.strides, student.features, teacher.features, strict=True):
            images = [feature.float().mean((2, 3)) for feature in features]
            pooled = [roi_align(f.float(), regions, REGION, 1 / stride, 2).flatten(1) for f in features]
            total = distance_loss(*images) + ANGLE * angle_loss(*images) + LIKENESS * likeness_loss(*pooled)
            parts.append(total[None])
        return averaged(parts)


def objects(teacher: Answer, scene: Scene, strides: tuple[float, ...]) -> torch.Tensor:
    """Return the objects of a batch, (boxes, 5): image, x1, y1, x2, y2 in pixels.

    They are the labelled ones, or without labels those that the teacher is confident of, one box each.
    """
    if scene.boxes is not None and scene.owner is not None:
        size = torch.tensor(scene.size[::-1] * 2).to(scene.boxes)
        centre, half = scene.boxes[:, :2], scene.boxes[:, 2:] / 2
        found = torch.cat(
            [scene.owner.view(-1, 1).to(scene.boxes), torch.cat([centre - half, centre + half], 1) * size], 1
        )
    else:
        branch = teacher.sparse or teacher.dense
        corners = decoded_boxes(branch.distances(), [f.shape[-2:] for f in teacher.features], strides)
        scores = branch.scores.float().sigmoid().amax(1)
        kept = []
        for image, (box, score) in enumerate(zip(corners, scores, strict=True)):
            sure = (score > CONFIDENT).nonzero()[:, 0]
            sure = sure[nms(box[:, sure].T, score[sure], 0.5)]
            kept.append(torch.cat([torch.full((len(sure), 1), image).to(box), box[:, sure].T], 1))
        found = torch.cat(kept)
    step = max(1, -(-len(found) // OBJECTS))
    return found[::step].float()
