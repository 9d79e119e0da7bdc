# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""ONNX Runtime on CPUs: float graphs and Q/DQ graphs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from yolo_compress.artifacts import EngineFile, atomic_path, sha256_path, size_bytes
from yolo_compress.engines.source import (
    check_cpu,
    check_file,
    check_precision,
    is_quantized,
    onnx_source,
    scheme_notes,
)
from yolo_compress.errors import EngineError, MissingDependency, require

PURPOSE = "ONNX Runtime engines"
PROFILE_WARMUP = 3
KERNEL = "_kernel_time"  # how the trace marks what a node computes for


class OnnxRuntime:
    """Runs .onnx files."""

    name = "onnxruntime"
    precisions = ("fp32", "int8")

    def unavailable(self) -> str | None:
        """Return why ONNX Runtime cannot be used, or None."""
        try:
            require("onnxruntime", extra="onnx", purpose=PURPOSE)
            require("onnx", extra="onnx", purpose=PURPOSE)
        except MissingDependency as error:
            return str(error)
        return None

    def build(self, source: Path, out_dir: Path, *, precision: str, imgsz: int) -> EngineFile:
        """Put the graph into place; ONNX Runtime optimises it when it loads it."""
        check_precision(self.name, precision, self.precisions)
        require("onnxruntime", extra="onnx", purpose=PURPOSE)
        out = out_dir / f"{source.stem}.onnx"
        graph = onnx_source(source, out_dir, precision=precision, imgsz=imgsz)
        notes = scheme_notes(self.name, graph)
        if graph != out:
            with atomic_path(out) as temporary:
                shutil.copyfile(graph, temporary)
        self.load(out).close()  # a graph that does not load is no artifact
        return EngineFile(out, self.name, precision, imgsz, size_bytes(out), sha256_path(out), notes)

    def load(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> OnnxRuntimeSession:
        """Load a graph with every optimisation on."""
        check_cpu(self.name, device)
        check_file(path, ".onnx")
        return OnnxRuntimeSession(path, threads)

    def profile(self, path: Path, images: np.ndarray, *, rounds: int, threads: int | None = None) -> dict[str, float]:
        """Read the trace that the runtime writes."""
        check_file(path, ".onnx")
        with tempfile.TemporaryDirectory() as place:
            session = OnnxRuntimeSession(path, threads, trace=Path(place) / "trace")
            for _ in range(PROFILE_WARMUP + rounds):
                session.infer(images)
            events = json.loads(Path(session.session.end_profiling()).read_text(encoding="utf-8"))
            session.close()
        seen: dict[str, list[int]] = defaultdict(list)
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith(KERNEL):
                seen[event["name"].removesuffix(KERNEL)].append(event["dur"])
        return {name: float(np.median(micros[PROFILE_WARMUP:])) * 1e-6 for name, micros in seen.items()}


class OnnxRuntimeSession:
    """An inference session on the CPU provider."""

    def __init__(self, path: Path, threads: int | None, *, trace: Path | None = None) -> None:
        runtime = require("onnxruntime", extra="onnx", purpose=PURPOSE)
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(trace)
        self.precision = "int8" if is_quantized(path) else "fp32"
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises classes of its own C++ module
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"ONNX Runtime cannot load '{path}': {reason}; export it again") from error
        self.version, self.threads = runtime.__version__, threads
        self.input = self.session.get_inputs()[0].name

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Run the graph; see `Session.infer`."""
        return self.session.run(None, {self.input: images})[0]

    def describe(self) -> dict[str, Any]:
        """Say what runs."""
        return {
            "engine": "onnxruntime",
            "precision": self.precision,
            "version": self.version,
            "device": "cpu",
            "threads": self.threads or os.cpu_count(),
            "providers": self.session.get_providers(),
            "notes": [],
        }

    def close(self) -> None:
        """Drop the session."""
        del self.session
