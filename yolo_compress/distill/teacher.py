# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A frozen teacher whose raw head output the losses read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from yolo_compress.errors import UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.ultralytics import DetectionModel


class Teacher:
    """A detector in eval mode without gradients."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model = checkpoint.load_model(path)
        self.model.requires_grad_(False)
        # The head alone is told that it trains: it then returns raw boxes, scores and features without decoding them,
        # while its BatchNorm layers, which are modules of their own, stay in eval mode.
        self.model.model[-1].training = True

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> dict[str, Any]:
        """Return the raw head output for images (N, 3, H, W) in 0 to 1."""
        return self.model(images)

    def to(self, device: torch.device) -> Teacher:
        """Move to a device."""
        self.model.to(device)
        return self

    def class_index(self, student_names: Sequence[str]) -> tuple[int, ...]:
        """Return the teacher's class for each of the student's, matched by name.

        Raises:
            UsageError: The teacher does not know a class of the student.
        """
        known = {name.strip().lower(): index for index, name in enumerate(checkpoint.names(self.model))}
        missing = [name for name in student_names if name.strip().lower() not in known]
        if missing:
            raise UsageError(
                f"teacher '{self.path}' does not know {len(missing)} of the student's {len(student_names)} classes "
                f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); give a teacher that was trained on "
                "the same classes"
            )
        return tuple(known[name.strip().lower()] for name in student_names)

    def check_levels(self, student: DetectionModel) -> None:
        """Check that both heads predict at the same positions.

        Raises:
            UsageError: Their strides differ.
        """
        ours, theirs = student.stride.tolist(), self.model.stride.tolist()
        if ours != theirs:
            raise UsageError(
                f"teacher '{self.path}' predicts at strides {theirs} and the student at {ours}; give a teacher with "
                "the same detection levels"
            )


def head_channels(model: DetectionModel) -> tuple[int, ...]:
    """Return the channels of each feature map that enters a model's head."""
    first = (tower[0] for tower in model.model[-1].cv2)
    return tuple(conv.conv.in_channels for conv in first)
