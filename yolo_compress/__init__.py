# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Make an Ultralytics YOLO detector small and fast on the device where it runs, and prove it.

`enable()` makes the flags legal in `YOLO(...).train(...)`; `yolo_compress.api` has one function per mode.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ("__version__", "disable", "enable")


def enable() -> None:
    """Make flags such as prune=0.3 and teacher="yolov8s.pt" legal in `YOLO(...).train(...)` in this process.

    Without any of them, training stays what it was.
    """
    from yolo_compress import train  # imports torch and Ultralytics, which `import yolo_compress` must not

    train.enable()


def disable() -> None:
    """Undo `enable`."""
    from yolo_compress import train

    train.disable()
