# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The embedded demonstration: a drawn detection set, two detectors trained on it, and the `edge-cpu` recipe on them."""

from __future__ import annotations

from yolo_compress.demo.dataset import write_demo_set
from yolo_compress.demo.models import DEMO_MODELS, DemoModel
from yolo_compress.demo.run import DemoResult, run_demo

__all__ = ("DEMO_MODELS", "DemoModel", "DemoResult", "run_demo", "write_demo_set")
