# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Options of a student that grows."""

from __future__ import annotations

from yolo_compress.recipe.options import Section, option


class GrowSection(Section):
    """Training with part of the channels first; the others join in steps."""

    start: float = option(
        0.5, "Share of the channels of each layer that train from the beginning, in (0, 1).", flag="grow", gt=0, lt=1
    )
    steps: int = option(4, "Steps in which the other channels join.", flag="grow_steps", ge=1)
    window: float = option(0.5, "Share of the epochs after which all channels train.", flag="grow_window", gt=0, le=1)
