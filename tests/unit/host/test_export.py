# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Exports leave the process as it was."""

from __future__ import annotations

import torch
from ultralytics.utils import NUM_THREADS

from yolo_compress.host.export import export_onnx

THREADS = NUM_THREADS + 1  # not what Ultralytics takes


def test_torch_computes_on_as_many_cores_as_before(make_checkpoint, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        export_onnx(make_checkpoint(), tmp_path / "model.onnx", imgsz=64)
        assert torch.get_num_threads() == THREADS
    finally:
        torch.set_num_threads(before)
