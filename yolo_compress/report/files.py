# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Names of the files beside a report."""

from __future__ import annotations

import re


def file_name(label: str) -> str:
    """Return a label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.") or "unnamed"
