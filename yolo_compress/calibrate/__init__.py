# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which images activation ranges are chosen on, written down so that the choice can be repeated and checked."""

from __future__ import annotations

from yolo_compress.calibrate.choose import METHODS, Choice, Selection, calibration_set, choose, choose_measured
from yolo_compress.calibrate.manifest import CalibrationSet, read_manifest, write_manifest

__all__ = (
    "METHODS",
    "CalibrationSet",
    "Choice",
    "Selection",
    "calibration_set",
    "choose",
    "choose_measured",
    "read_manifest",
    "write_manifest",
)
