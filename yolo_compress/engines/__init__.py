# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Runtimes behind one protocol: one file each, one line here each."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from yolo_compress.engines.protocol import Engine, Session
from yolo_compress.errors import UsageError, suggest

__all__ = ("ENGINES", "Engine", "EngineEntry", "Session", "engine_for", "get_engine")


@dataclass(frozen=True)
class EngineEntry:
    """A runtime by name; its module is imported when it is first used."""

    name: str
    description: str
    suffix: str
    home: str

    def load(self) -> Engine:
        """Import the engine; the vendor's package is only needed to build or run."""
        module, _, cls = self.home.rpartition(".")
        return getattr(importlib.import_module(module), cls)()


ENGINES = {
    entry.name: entry
    for entry in (
        EngineEntry(
            "pytorch",
            "The checkpoint itself, fused; the reference for accuracy.",
            ".pt",
            "yolo_compress.engines.pytorch.PyTorch",
        ),
        EngineEntry(
            "onnxruntime",
            "ONNX Runtime on a float or Q/DQ graph.",
            ".onnx",
            "yolo_compress.engines.onnxruntime.OnnxRuntime",
        ),
        EngineEntry(
            "openvino",
            "OpenVINO on Intel and AMD CPUs.",
            "_openvino_model",
            "yolo_compress.engines.openvino.OpenVino",
        ),
        EngineEntry(
            "tensorrt",
            "TensorRT 8.5 to 11 on NVIDIA GPUs and Jetsons.",
            ".engine",
            "yolo_compress.engines.tensorrt.engine.TensorRt",
        ),
        EngineEntry(
            "tensorrt_rtx",
            "TensorRT-RTX on GeForce and RTX GPUs; builds without one.",
            ".rtx.engine",
            "yolo_compress.engines.tensorrt.engine.TensorRtRtx",
        ),
    )
}

# made of engines, so that nothing builds it from a model
CASCADE = EngineEntry(
    "cascade",
    "A cheap engine, and a precise one for the images that it is unsure about.",
    ".cascade.json",
    "yolo_compress.engines.cascade.Cascade",
)


def get_engine(name: str) -> Engine:
    """Return a runtime by its name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in ENGINES:
        raise UsageError(f"'{name}' is not an engine; {suggest(name, ENGINES)}")
    return ENGINES[name].load()


def engine_for(path: str | Path) -> Engine:
    """Return the runtime that loads a file or folder, by its name's longest known ending.

    Raises:
        UsageError: No runtime loads such a file.
    """
    loaders = (*ENGINES.values(), CASCADE)
    for entry in sorted(loaders, key=lambda entry: -len(entry.suffix)):  # *.rtx.engine is an *.engine too
        if str(path).rstrip("/\\").endswith(entry.suffix):
            return entry.load()
    endings = ", ".join(f"*{entry.suffix}" for entry in loaders)
    raise UsageError(f"no engine loads '{path}'; give one of {endings}")
