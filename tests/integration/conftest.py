# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What training runs of tests have in common."""

from __future__ import annotations

import pytest


@pytest.fixture
def settings(tiny_data, tmp_path):
    return {
        "data": str(tiny_data),
        "epochs": 2,
        "imgsz": 64,
        "batch": 4,
        "nbs": 4,
        "project": str(tmp_path / "runs"),
        "plots": False,
        "device": "cpu",
        "optimizer": "SGD",
        "lr0": 0.01,
        "warmup_epochs": 0,
        "mosaic": 0.0,
        "seed": 3,
    }
