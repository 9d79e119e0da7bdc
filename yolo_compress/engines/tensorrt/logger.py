# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What TensorRT says while it works, kept so that errors can repeat it."""

from __future__ import annotations

from collections import deque
from types import ModuleType
from typing import Any

KEPT = 50  # messages; the last ones tell why something failed
_LOGGERS: dict[Any, Any] = {}  # TensorRT keeps a pointer to its logger, so that none may ever go


def logger_for(trt: ModuleType | Any) -> Any:
    """Return the process's one logger of a module; its `messages` are (severity name, text), newest last."""
    if trt not in _LOGGERS:
        _LOGGERS[trt] = _make(trt)
    return _LOGGERS[trt]


def last_error(logger: Any) -> str:
    """Return the last error that was logged, or the last warning, or nothing."""
    for wanted in (("INTERNAL_ERROR", "ERROR"), ("WARNING",)):
        for severity, text in reversed(logger.messages):
            if severity in wanted:
                return " ".join(text.split())[:400]
    return ""


def _make(trt: ModuleType | Any) -> Any:
    class Logger(trt.ILogger):
        """Keeps warnings and errors, prints nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # without it the binding's half of the object does not exist
            self.messages: deque[tuple[str, str]] = deque(maxlen=KEPT)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                self.messages.append((severity.name, msg))

    return Logger()
