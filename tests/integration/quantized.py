# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What tests of quantized training have in common."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from yolo_compress.host import checkpoint
from yolo_compress.quantize import Learned
from yolo_compress.quantize.attachment import QuantizationAware
from yolo_compress.recipe import QatSection, QuantizeSection

QAT = {"qat": "int8", "quantize_target": "tensorrt", "quantize_images": 8}


def methods(made) -> set[str]:
    """Return how the ranges of the quantized layers were chosen."""
    return {row["method"] for row in made.tables["quantize"] if row["precision"] == "int8"}


def training_start(student, settings):
    """Return the ranges that calibration chooses on the same images."""
    trainer = SimpleNamespace(args=SimpleNamespace(imgsz=64, data=settings["data"]))
    attachment = QuantizationAware(QatSection(), QuantizeSection(target="tensorrt", images=8))
    return attachment._begin(trainer, checkpoint.load_model(student))[0].activations


def assert_same_scales(one: Path, other: Path) -> None:
    """Hold the ranges that two checkpoints have learned against each other."""
    ours, theirs = (Learned.read(checkpoint.load_model(file)).activations for file in (one, other))
    assert ours.keys() == theirs.keys()
    for names, affine in ours.items():
        assert theirs[names].scale == pytest.approx(float(affine.scale), rel=1e-4)
