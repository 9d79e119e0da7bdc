# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a runtime offers: build an artifact from a model, load one, run it, and say what it really does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from yolo_compress.artifacts import EngineFile


class Session(Protocol):
    """A loaded artifact."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return raw output for images (N, 3, H, W), float32 in 0 to 1.

        The output is (N, 4 + classes, anchors) with centre boxes in pixels and class scores, or (N, K, 6) from an
        end-to-end head: x1, y1, x2, y2, score, class.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return engine, precision as executed, runtime version, device, threads and notes."""
        ...

    def close(self) -> None:
        """Give memory and threads back; the session cannot run after this."""
        ...


class Engine(Protocol):
    """A runtime."""

    name: str
    precisions: tuple[str, ...]

    def unavailable(self) -> str | None:
        """Return why this runtime cannot be used here, or None when it can."""
        ...

    def build(self, source: Path, out_dir: Path, *, precision: str, imgsz: int) -> EngineFile:
        """Make the runtime's artifact from a checkpoint (.pt) or an ONNX file, float or Q/DQ.

        Raises:
            UsageError: The precision is not one of this runtime, or does not fit the source.
            MissingDependency: The runtime is not installed.
            EngineError: The runtime refused the model.
        """
        ...

    def load(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> Session:
        """Load an artifact.

        Raises:
            UsageError: The device is not one of this runtime.
            MissingDependency: The runtime is not installed.
            EngineError: The file is damaged, or of another kind.
        """
        ...

    def profile(self, path: Path, images: np.ndarray, *, rounds: int, threads: int | None = None) -> dict[str, float]:
        """Run an artifact and return the median seconds of each node that the runtime executes, by its name.

        Profiling slows a model down; nodes compare with each other, their sum is not the model's time.

        Raises:
            UsageError: This runtime has no profile.
            MissingDependency: The runtime is not installed.
            EngineError: The file is damaged, or of another kind.
        """
        ...
