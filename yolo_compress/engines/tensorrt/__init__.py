# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""TensorRT and TensorRT-RTX: what is built, calibrated, kept and run there."""
