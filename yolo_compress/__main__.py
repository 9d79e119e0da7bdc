# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m yolo_compress`, the same as `yolo-compress`."""

from __future__ import annotations

from yolo_compress.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
