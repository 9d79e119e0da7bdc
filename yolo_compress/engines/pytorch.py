# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""PyTorch: the checkpoint itself, fused, in float32 or under bfloat16 autocast."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolo_compress.artifacts import EngineFile, atomic_path, sha256_path, size_bytes
from yolo_compress.engines.source import check_file, check_precision
from yolo_compress.errors import UsageError
from yolo_compress.host.checkpoint import facts, load_model, set_facts, write_model
from yolo_compress.host.cpu import bf16_units, usable_cores
from yolo_compress.host.detect import answer_densely

PRECISION_FACT = "inference_precision"


class PyTorch:
    """Runs checkpoints in this process."""

    name = "pytorch"
    precisions = ("fp32", "bf16")

    def unavailable(self) -> str | None:
        """Return None: torch is what everything here stands on."""
        return None

    def build(self, source: Path, out_dir: Path, *, precision: str, imgsz: int) -> EngineFile:
        """Copy a checkpoint; for bf16 the copy says so, and `load` follows it."""
        check_precision(self.name, precision, self.precisions)
        if source.suffix != ".pt":
            raise UsageError(f"the pytorch engine is built from a checkpoint, and '{source}' is none; give a .pt file")
        model = load_model(source)
        out = out_dir / f"{source.stem}.pt"
        if precision == "fp32":
            with atomic_path(out) as temporary:
                shutil.copyfile(source, temporary)
        else:
            set_facts(model, {**facts(model), PRECISION_FACT: precision})
            write_model(model, out)
        notes = () if precision == "fp32" or bf16_units() else ("bf16 is emulated: this CPU has no bfloat16 units",)
        return EngineFile(out, self.name, precision, imgsz, size_bytes(out), sha256_path(out), notes)

    def load(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> PyTorchSession:
        """Load and fuse a checkpoint."""
        check_file(path, ".pt")
        return PyTorchSession(path, device, threads)

    def profile(self, path: Path, images: np.ndarray, *, rounds: int, threads: int | None = None) -> dict[str, float]:
        """Refuse: what is pruned for a latency runs on another runtime."""
        raise UsageError("pytorch is not profiled; give a runtime that a model is shipped with, such as openvino:fp32")


class ModelSession:
    """A model in memory, fused, in eval mode; the one that is given stays as it is."""

    def __init__(self, model: torch.nn.Module, *, device: str = "cpu", threads: int | None = None) -> None:
        try:
            self.device = torch.device(f"cuda:{device}" if device.isdigit() else device)
            copy = deepcopy(model)
            answer_densely(copy)  # before fusing, which takes the other head out
            copy = copy.fuse(verbose=False).to(self.device).eval()
        except RuntimeError as error:
            raise UsageError(f"device={device} cannot be used ({error}); give device=cpu") from error
        self.model: torch.nn.Module | None = copy
        self.precision = facts(copy).get(PRECISION_FACT, "fp32")
        self.threads = threads or usable_cores()

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Run the model; see `Session.infer`."""
        if self.model is None:
            raise RuntimeError("the session is closed")
        before = torch.get_num_threads()
        if self.threads != before:
            torch.set_num_threads(self.threads)
        try:
            bf16 = self.precision == "bf16"
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                output = self.model(torch.from_numpy(images).to(self.device))
            raw = output[0] if isinstance(output, tuple) else output
            return raw.float().cpu().numpy()
        finally:
            if self.threads != before:
                torch.set_num_threads(before)

    def describe(self) -> dict[str, Any]:
        """Say what runs."""
        emulated = self.precision == "bf16" and self.device.type == "cpu" and not bf16_units()
        return {
            "engine": "pytorch",
            "precision": self.precision,
            "version": torch.__version__,
            "device": str(self.device),
            "threads": self.threads,
            "notes": ["bf16 is emulated: this CPU has no bfloat16 units"] if emulated else [],
        }

    def close(self) -> None:
        """Drop the model."""
        self.model = None


class PyTorchSession(ModelSession):
    """A checkpoint, loaded and fused."""

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        super().__init__(load_model(path), device=device, threads=threads)
