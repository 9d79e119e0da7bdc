# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Tests on a real GPU; without one they are skipped, which a process of its own finds out."""

from __future__ import annotations

import pytest

from yolo_compress.engines.tensorrt.cuda import choose
from yolo_compress.engines.tensorrt.cuda.probe import gpu_unusable
from yolo_compress.errors import CompressError


@pytest.fixture(scope="session")
def gpu() -> None:
    """Skip without a usable GPU. The probe is a process: what asks a broken driver may not live to tell."""
    reason = gpu_unusable()
    if reason is not None:
        pytest.skip(f"no usable GPU: {reason}")


@pytest.fixture(params=["torch", "cuda-python", "pycuda"])
def cuda(request, gpu):
    """Return each way to CUDA that is installed."""
    try:
        return choose(request.param)
    except CompressError as error:
        pytest.skip(str(error))
