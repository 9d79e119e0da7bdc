# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Losses on what a head answers: class scores and boxes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from yolo_compress.distill.answer import Answer, Branch, Pair, Scene
from yolo_compress.distill.loss import DistillLoss
from yolo_compress.errors import UsageError

BEST = 100  # anchors of an image that a one-to-one branch is compared at: each model's best


def binary_response(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compare class scores as independent binary decisions, weighted by how far apart they are.

    `|p_t - p_s| * BCE(p_s, p_t) / sum_a max_c p_t`: every class of every anchor counts by the gap it still has, and the
    sum is normalised by the teacher's confident anchors, as detection losses are by their positives. Detectors are
    multi-label, so there is no softmax across classes.

    Source: Yang et al. 2023, Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection
    (binary classification distillation loss).

    Args:
        student: Class logits (N, classes, anchors).
        teacher: Class logits (N, classes, anchors).

    Returns:
        (N, anchors), which sums to the loss.
    """
    target = teacher.sigmoid()
    gap = (target - student.detach().sigmoid()).abs()
    loss = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    return (gap * loss).sum(1) / target.amax(1).sum().clamp(min=1.0)


def distribution_divergence(
    student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Compare the distributions of the four sides' distances.

    `T^2 / 4 * sum_side KL(softmax(t / T) || softmax(s / T)) * w / sum_a w`.

    Source: Zheng et al. 2022, Localization Distillation for Dense Object Detection, equation 3; there the weight is the
    set of positive anchors.

    Args:
        student: (N, 4 * bins, anchors) logits.
        teacher: (N, 4 * bins, anchors) logits.
        weight: (N, anchors), at least 0.
        temperature: T.

    Returns:
        (N, anchors), which sums to the loss.
    """
    logs = [(box.unflatten(1, (4, -1)) / temperature).log_softmax(2) for box in (student, teacher)]
    divergence = F.kl_div(logs[0], logs[1], reduction="none", log_target=True).sum(2).mean(1)
    return divergence * temperature**2 * weight / weight.sum().clamp(min=1e-9)


def overlap_distance(
    student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor, stride: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Compare boxes at the same anchor by their overlap and by the distance of their sides.

    `(1 - IoU + mean_side |s - t| * stride / image side) * w / sum_a w`.

    Source: the overlap is that of Yang et al. 2023, Bridging Cross-task Protocol Inconsistency for Distillation in
    Dense Object Detection (IoU-based localization distillation loss).

    Args:
        student: (N, 4, anchors) distances to the left, top, right and bottom side, in strides.
        teacher: (N, 4, anchors).
        weight: (N, anchors), at least 0.
        stride: (anchors,) in pixels.
        size: Height and width of the image in pixels.

    Returns:
        (N, anchors), which sums to the loss.
    """
    low, high = torch.minimum(student, teacher), torch.maximum(student, teacher)
    both = (low[:, 0] + low[:, 2]).clamp(min=0) * (low[:, 1] + low[:, 3]).clamp(min=0)
    areas = [(box[:, 0] + box[:, 2]).clamp(min=0) * (box[:, 1] + box[:, 3]).clamp(min=0) for box in (student, teacher)]
    overlap = both / (areas[0] + areas[1] - both).clamp(min=1e-9)
    sides = torch.tensor(size[::-1] * 2).to(student)
    apart = ((high - low) * stride / sides.view(1, 4, 1)).mean(1)
    return (1 - overlap + apart) * weight / weight.sum().clamp(min=1e-9)


def classic_distillation(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, alpha: float, temperature: float
) -> torch.Tensor:
    """Return `alpha * CE(s, y) + (1 - alpha) * T^2 * KL(softmax(t / T) || softmax(s / T))`, a mean over samples.

    For a head that chooses one class of several. A detector's does not: its classes are independent decisions, for
    which there is `binary_response`, so no recipe names this loss.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, section 2.

    Args:
        student: (N, classes) logits.
        teacher: (N, classes) logits.
        labels: (N,) class indices.
        alpha: Share of the labels, in 0 to 1.
        temperature: T.
    """
    logs = [(logits / temperature).log_softmax(1) for logits in (student, teacher)]
    soft = F.kl_div(logs[0], logs[1], reduction="batchmean", log_target=True)
    return alpha * F.cross_entropy(student, labels) + (1 - alpha) * temperature**2 * soft


class HeadLoss(DistillLoss):
    """A loss on the head's answer, each branch from the same branch of the teacher."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        self.strides = pair.student.strides

    def by_level(self, parts: list[torch.Tensor], answer: Answer) -> torch.Tensor:
        """Turn per branch parts (N, anchors) into (levels, N), a mean over the branches."""
        mean = sum(parts[1:], parts[0]) / len(parts)
        return torch.stack([level.sum(1) for level in mean.split(answer.lengths(), 1)])

    def anchor_strides(self, answer: Answer) -> torch.Tensor:
        """Return the stride of each anchor."""
        pairs = zip(answer.lengths(), self.strides, strict=True)
        return torch.cat([torch.full((n,), stride) for n, stride in pairs]).to(answer.dense.scores.device)


class ClassResponse(HeadLoss):
    """Class scores as binary decisions."""

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Sum over anchors and classes."""
        parts = []
        for ours, theirs, sparse in student.branches(teacher):
            part = binary_response(ours.scores.float(), theirs.scores.float())
            parts.append(part * best_of_both(ours.scores, theirs.scores) if sparse else part)
        return self.by_level(parts, student)


class Distribution(HeadLoss):
    """LD on the sides of boxes, weighted by the teacher's best score."""

    default_temperature = 10.0

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        bins = [side.head.reg_max for side in (pair.student, pair.teacher)]
        if min(bins) == 1 or bins[0] != bins[1]:
            raise UsageError(
                f"ld compares distributions of box sides, and the student's head has {bins[0]} bins and the teacher's "
                f"{bins[1]}; give iou, which compares the boxes, or box, which chooses between the two"
            )

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Average over the sides of the boxes, anchors weighted."""
        parts = [
            distribution_divergence(ours.boxes.float(), theirs.boxes.float(), box_weight(theirs, s), self.temperature)
            for ours, theirs, s in student.branches(teacher)
        ]
        return self.by_level(parts, student)


class Overlap(HeadLoss):
    """IoU and L1 to the teacher's decoded boxes, weighted by the teacher's best score; for any two heads."""

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Average over anchors, weighted."""
        stride = self.anchor_strides(student)
        parts = [
            overlap_distance(ours.distances(), theirs.distances(), box_weight(theirs, s), stride, scene.size)
            for ours, theirs, s in student.branches(teacher)
        ]
        return self.by_level(parts, student)


def box_loss(pair: Pair) -> Distribution | Overlap:
    """Build `ld` where both heads have distributions of the same bins, `iou` otherwise."""
    bins = [side.head.reg_max for side in (pair.student, pair.teacher)]
    return Distribution(pair) if min(bins) > 1 and bins[0] == bins[1] else Overlap(pair)


def box_weight(teacher: Branch, sparse: bool) -> torch.Tensor:
    """Return the teacher's best score of each anchor; of a one-to-one branch only its best anchors count."""
    scores = teacher.scores.float()
    weight = scores.sigmoid().amax(1)
    return weight * best_anchors(scores) if sparse else weight


def best_anchors(scores: torch.Tensor) -> torch.Tensor:
    """Return 1 for the best anchors of each image by their best class, 0 for the others, (N, anchors)."""
    best = scores.detach().float().amax(1)
    chosen = best.topk(min(BEST, best.shape[1]), 1).indices
    return torch.zeros_like(best).scatter(1, chosen, 1.0)


def best_of_both(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return 1 where either model has one of its best anchors: also what the student alone finds is to be unlearned."""
    return torch.maximum(best_anchors(student), best_anchors(teacher))
