# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The only door to Ultralytics: everything below its public API passes through this package."""
