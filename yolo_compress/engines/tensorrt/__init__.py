# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""TensorRT: engines, calibration and its caches; nothing here imports TensorRT or CUDA until it is asked to."""
