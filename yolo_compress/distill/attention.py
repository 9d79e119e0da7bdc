# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Losses on where a model attends."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from yolo_compress.distill.answer import Answer, Pair, Scene, Side
from yolo_compress.distill.loss import DistillLoss, averaged
from yolo_compress.errors import UsageError
from yolo_compress.host.ultralytics import Attention


def spatial_attention(feature: torch.Tensor, temperature: float = 0.5) -> torch.Tensor:
    """Return `H W softmax_x(mean_c |f_cx| / T)`, (N, H, W), which averages to 1.

    Source: Yang et al. 2022, Focal and Global Knowledge Distillation for Detectors, equation 4.
    """
    n, _, h, w = feature.shape
    return (h * w * (feature.abs().mean(1).flatten(1) / temperature).softmax(1)).view(n, h, w)


def channel_attention(feature: torch.Tensor, temperature: float = 0.5) -> torch.Tensor:
    """Return `C softmax_c(mean_x |f_cx| / T)`, (N, C), which averages to 1.

    Source: Yang et al. 2022, Focal and Global Knowledge Distillation for Detectors, equation 5.
    """
    return feature.shape[1] * (feature.abs().mean((2, 3)) / temperature).softmax(1)


def map_distance(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 0.5) -> torch.Tensor:
    """Return the mean absolute distance of spatial attention, plus that of channel attention where widths agree.

    Source: Yang et al. 2022, Focal and Global Knowledge Distillation for Detectors, equation 8.

    Args:
        student: (N, C_s, H, W).
        teacher: (N, C_t, H, W).
        temperature: Of both softmaxes.

    Returns:
        (N,).
    """
    distance = (spatial_attention(student, temperature) - spatial_attention(teacher, temperature)).abs().mean((1, 2))
    if student.shape[1] == teacher.shape[1]:
        ours, theirs = (channel_attention(feature, temperature) for feature in (student, teacher))
        distance = distance + (ours - theirs).abs().mean(1)
    return distance


def energy_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return `|| Q_s / ||Q_s|| - Q_t / ||Q_t|| ||` per image, with `Q = sum_c f_c^2` over positions, (N,).

    Source: Zagoruyko and Komodakis 2017, Paying More Attention to Attention, equation 2.
    """
    maps = [F.normalize((feature**2).sum(1).flatten(1), dim=1) for feature in (student, teacher)]
    return ((maps[0] - maps[1]) ** 2).sum(1).clamp(min=1e-12).sqrt()  # the root has no gradient at zero


def attention_matrix(qkv: torch.Tensor, heads: int, key: int, value: int) -> torch.Tensor:
    """Return `log softmax(q^T k / sqrt(key))` of an attention block, (N, heads, positions, positions).

    Args:
        qkv: (N, heads * (2 key + value), H, W), by head, within it query, key, value.
        heads: How many.
        key: Channels of a query and of a key.
        value: Channels of a value.
    """
    query, keys, _ = qkv.flatten(2).unflatten(1, (heads, 2 * key + value)).split((key, key, value), 2)
    return (query.transpose(-2, -1) @ keys * key**-0.5).log_softmax(-1)


class AttentionMaps(DistillLoss):
    """Spatial and channel attention of the heads' inputs; the latter where widths agree."""

    default_temperature = 0.5

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Average over levels and images."""
        pairs = zip(student.features, teacher.features, strict=True)
        return averaged([map_distance(s.float(), t.float(), self.temperature) for s, t in pairs])


class AttentionTransfer(DistillLoss):
    """Energy maps of the heads' inputs, for any two widths."""

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Average over levels and images."""
        pairs = zip(student.features, teacher.features, strict=True)
        return averaged([energy_distance(s.float(), t.float()) for s, t in pairs])


class AttentionMatrix(DistillLoss):
    """Which position each position of an attention block looks at: `KL(teacher || student)`, a mean over rows."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        ours, theirs = (_blocks(side) for side in (pair.student, pair.teacher))
        shapes = [[block.num_heads for block in found.values()] for found in (ours, theirs)]
        if not ours or shapes[0] != shapes[1]:
            raise UsageError(
                f"psa compares attention blocks one by one; the student has blocks with {shapes[0]} heads and the "
                f"teacher with {shapes[1]}; give models of one family and of the same heads, or leave psa out"
            )
        self.student_taps, self.teacher_taps = tuple(ours), tuple(theirs)
        self._sizes = [
            [(block.num_heads, block.key_dim, block.head_dim) for block in found.values()] for found in (ours, theirs)
        ]

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Average over blocks, heads and positions; blocks belong to no level."""
        parts = []
        for index, names in enumerate(zip(self.student_taps, self.teacher_taps, strict=True)):
            taps = (student.taps[names[0]].float(), teacher.taps[names[1]].float())
            ours, theirs = (attention_matrix(tap, *sizes[index]) for tap, sizes in zip(taps, self._sizes, strict=True))
            divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
            parts.append(divergence.mean((1, 2)))
        return averaged(parts).sum(0, keepdim=True)


def _blocks(side: Side) -> dict[str, Attention]:
    """Return the attention blocks by the name of the layer that makes their query, key and value."""
    return {f"{name}.qkv": m for name, m in side.model.named_modules() if isinstance(m, Attention)}
