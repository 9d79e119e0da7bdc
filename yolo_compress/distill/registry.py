# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The losses that recipes can name. A new one is a file here beside the others, and a line in this registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from yolo_compress.distill.answer import Pair
from yolo_compress.distill.attention import AttentionMaps, AttentionMatrix, AttentionTransfer
from yolo_compress.distill.crosskd import CrossHead
from yolo_compress.distill.features import ChannelWise, ForegroundBackground, MaskedGeneration, Mimic
from yolo_compress.distill.loss import DistillLoss
from yolo_compress.distill.relation import Relation
from yolo_compress.distill.response import ClassResponse, Distribution, Overlap, box_loss


@dataclass(frozen=True)
class LossEntry:
    """A loss that recipes can name."""

    name: str
    description: str
    source: str
    build: Callable[[Pair], DistillLoss]


LOSSES = {
    entry.name: entry
    for entry in (
        LossEntry(
            "cwd",
            "Channel-wise divergence of standardised features.",
            "Shu et al. 2021; Cao et al. 2022",
            ChannelWise,
        ),
        LossEntry(
            "mimic",
            "Squared distance of features, weighted by the teacher's scores; what distill_model= of Ultralytics does.",
            "Ultralytics 8.4",
            Mimic,
        ),
        LossEntry(
            "mgd",
            "The teacher's features generated from the student's with most positions masked.",
            "Yang et al. 2022, MGD",
            MaskedGeneration,
        ),
        LossEntry(
            "fgd",
            "Squared distance of features, foreground and background apart, where the teacher attends.",
            "Yang et al. 2022, FGD",
            ForegroundBackground,
        ),
        LossEntry(
            "attention",
            "Distance of spatial and of channel attention.",
            "Yang et al. 2022, FGD",
            AttentionMaps,
        ),
        LossEntry(
            "at",
            "Distance of normalised energy maps; needs no projector.",
            "Zagoruyko and Komodakis 2017",
            AttentionTransfer,
        ),
        LossEntry(
            "psa",
            "Divergence of the attention matrices of C2PSA blocks; for models with the same heads.",
            "Jiao et al. 2020, TinyBERT",
            AttentionMatrix,
        ),
        LossEntry(
            "relation",
            "Distances and angles between images, and likeness between objects.",
            "Park et al. 2019",
            Relation,
        ),
        LossEntry(
            "response",
            "Per-class binary divergence of class scores, weighted by the gap to the teacher.",
            "Yang et al. 2023, BCKD",
            ClassResponse,
        ),
        LossEntry("box", "ld where both heads have distributions, iou otherwise.", "see ld and iou", box_loss),
        LossEntry(
            "ld",
            "Divergence of the distributions of box sides, where the teacher is confident.",
            "Zheng et al. 2022, LD",
            Distribution,
        ),
        LossEntry(
            "iou",
            "Overlap with the teacher's boxes and distance of their sides, where the teacher is confident.",
            "Yang et al. 2023, BCKD",
            Overlap,
        ),
        LossEntry(
            "crosskd",
            "The student's tower features through the rest of the teacher's head, against the teacher's answer.",
            "Wang et al. 2024, CrossKD",
            CrossHead,
        ),
    )
}
