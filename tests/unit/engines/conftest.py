# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Graphs of tiny detectors, float and quantized for TensorRT."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import tiny_model, write_data
from yolo_compress.host.checkpoint import save_model
from yolo_compress.host.data import read_data
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx


@pytest.fixture(scope="session")
def graphs(tmp_path_factory) -> Path:
    """Return checkpoint, `*_float.onnx` and `*_qdq.onnx` of two families, and `yolov8n_free.onnx` of any batch."""
    folder = tmp_path_factory.mktemp("graphs")
    images = read_data(write_data(folder / "data")).train
    for family in ("yolov8n", "yolo26n"):
        source, out = folder / f"{family}_float.onnx", folder / f"{family}_qdq.onnx"
        save_model(tiny_model(family), folder / f"{family}.pt")
        export_onnx(folder / f"{family}.pt", source, imgsz=64)
        quantize_onnx(source, out, images=images, imgsz=64, target="tensorrt")
    export_onnx(folder / "yolov8n.pt", folder / "yolov8n_free.onnx", imgsz=64, free_batch=True)
    return folder
