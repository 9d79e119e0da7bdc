# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Knowledge distillation: teachers and the losses that follow them."""

from yolo_compress.distill.attachment import Distillation
from yolo_compress.distill.registry import LOSSES
from yolo_compress.distill.response import classic_distillation

__all__ = ("LOSSES", "Distillation", "classic_distillation")
