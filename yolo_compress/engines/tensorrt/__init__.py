# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""TensorRT: engines built where they run, by what the installed version can do."""
