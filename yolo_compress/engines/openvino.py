# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""OpenVINO on CPUs: float, compressed, bfloat16 and Q/DQ INT8 models."""

from __future__ import annotations

import ast
import io
import os
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from yolo_compress.artifacts import EngineFile, atomic_path, sha256_path, size_bytes
from yolo_compress.engines.rewrite import rewritten
from yolo_compress.engines.source import check_cpu, check_file, check_precision, onnx_source, scheme_notes
from yolo_compress.errors import EngineError, MissingDependency, require

PURPOSE = "OpenVINO engines"
SUFFIX = "_openvino_model"
LITERALS = ("stride", "batch", "imgsz", "names", "args", "channels", "end2end")  # not text in Ultralytics' sidecar
PROFILE_WARMUP = 3
NO_BF16 = "bf16 was asked for and this CPU has no bfloat16 units, so it runs in float32"


class OpenVino:
    """Runs *_openvino_model folders."""

    name = "openvino"
    precisions = ("fp32", "fp16", "bf16", "int8")

    def unavailable(self) -> str | None:
        """Return why OpenVINO cannot be used, or None."""
        try:
            require("openvino", extra="openvino", purpose=PURPOSE)
        except MissingDependency as error:
            return str(error)
        return None

    def build(self, source: Path, out_dir: Path, *, precision: str, imgsz: int) -> EngineFile:
        """Convert a graph, rewritten into fewer steps; see `rewritten`.

        fp16 compresses the weights, bf16 is a request that `load` makes of the runtime.
        """
        # here, so that a process that only runs an artifact never loads torch
        from yolo_compress.host.export import onnx_metadata, write_openvino_metadata

        check_precision(self.name, precision, self.precisions)
        ov = require("openvino", extra="openvino", purpose=PURPOSE)
        onnx = require("onnx", extra="onnx", purpose="ONNX files")
        graph = onnx_source(source, out_dir, precision=precision, imgsz=imgsz)
        notes = scheme_notes(self.name, graph)
        metadata = onnx_metadata(graph)
        try:
            model = ov.convert_model(io.BytesIO(rewritten(onnx.load(str(graph))).SerializeToString()))
        except Exception as error:  # the converter raises classes of its own C++ module
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"OpenVINO cannot convert '{graph}': {reason}") from error
        model.set_rt_info("YOLO", ["model_info", "model_type"])
        model.set_rt_info(precision, ["yolo_compress", "precision"])
        out = out_dir / f"{source.stem}{SUFFIX}"
        with atomic_path(out) as temporary:
            temporary.mkdir()
            ov.save_model(model, str(temporary / f"{source.stem}.xml"), compress_to_fp16=precision == "fp16")
            sidecar = {key: ast.literal_eval(v) if key in LITERALS else v for key, v in metadata.items()}
            write_openvino_metadata(temporary, sidecar)
        if precision == "bf16" and not _has_bf16():
            notes = (*notes, NO_BF16)
        return EngineFile(out, self.name, precision, imgsz, size_bytes(out), sha256_path(out), notes)

    def load(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> OpenVinoSession:
        """Compile a model for the least latency of one stream."""
        check_cpu(self.name, device)
        check_file(path, SUFFIX)
        return OpenVinoSession(path, threads)

    def profile(self, path: Path, images: np.ndarray, *, rounds: int, threads: int | None = None) -> dict[str, float]:
        """Read the runtime's counters after each run."""
        check_file(path, SUFFIX)
        session = OpenVinoSession(path, threads, profile=True)
        seen: dict[str, list[float]] = defaultdict(list)
        for index in range(PROFILE_WARMUP + rounds):
            session.infer(images)
            for node in session.request.profiling_info if index >= PROFILE_WARMUP else ():
                seen[node.node_name].append(node.real_time.total_seconds())
        session.close()
        return {name: float(np.median(seconds)) for name, seconds in seen.items()}


class OpenVinoSession:
    """A compiled model with one inference request."""

    def __init__(self, path: Path, threads: int | None, *, profile: bool = False) -> None:
        ov = require("openvino", extra="openvino", purpose=PURPOSE)
        file = next(iter(sorted(path.glob("*.xml"))), None)
        if file is None:
            raise EngineError(f"'{path}' holds no .xml model; build it again")
        core = process_core()
        try:
            model = core.read_model(str(file))
            # Builds without our mark, native ones among them, run in float32 where nothing is quantized: left alone,
            # the runtime would take bfloat16 by itself where the CPU has it, and a float32 row would not be one.
            wanted = (
                model.get_rt_info(["yolo_compress", "precision"]).astype(str)
                if model.has_rt_info(["yolo_compress", "precision"])
                else "fp32"
            )
            settings: dict[str, Any] = {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
                "INFERENCE_PRECISION_HINT": "bf16" if wanted == "bf16" and _has_bf16() else "f32",
            }
            if threads is not None:
                settings["INFERENCE_NUM_THREADS"] = threads
            if profile:
                settings["PERF_COUNT"] = "YES"
            self.compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"OpenVINO cannot load '{path}': {reason}; build it again") from error
        self.request = self.compiled.create_infer_request()
        inputs, output = self.compiled.input(0), self.compiled.output(0)  # prototypes of masks are not read
        static = inputs.partial_shape.is_static and output.partial_shape.is_static
        self._in = inputs.element_type.to_dtype()
        self._out = (tuple(output.shape), output.element_type.to_dtype()) if static else None
        self._tensor = ov.Tensor
        self._held: tuple[np.ndarray, ...] = ()
        self.version = ov.__version__
        self.wanted, self.threads = wanted, threads
        self.executed = self._executed_precisions()

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Run the model; see `Session.infer`."""
        if self._out is None:
            shared = self.request.infer([images], share_inputs=True, share_outputs=True)
            return np.array(next(iter(shared.values())))  # the runtime writes the next output over this one
        # The runtime reads and writes our memory, so that nothing is copied; `infer` would do the same with its
        # arguments, but sorts them out in Python first.
        images, raw = np.require(images, self._in, ("C", "W")), np.empty(*self._out)
        self.request.set_input_tensor(0, self._tensor(images, shared_memory=True))
        self.request.set_output_tensor(0, self._tensor(raw, shared_memory=True))
        self._held = images, raw  # the request keeps their addresses and not the arrays, and reading them would crash
        self.request.start_async()
        self.request.wait()
        return raw

    def describe(self) -> dict[str, Any]:
        """Say what runs, by the precisions of the convolutions that the runtime executes."""
        int8 = sum(count for name, count in self.executed.items() if name in ("i8", "u8"))
        precision = (
            "int8" if int8 else "bf16" if "bf16" in self.executed else "fp16" if self.wanted == "fp16" else "fp32"
        )
        return {
            "engine": "openvino",
            "precision": precision,
            "version": self.version,
            "device": "cpu",
            "threads": self.threads or os.cpu_count(),
            "convolutions": dict(self.executed),
            "notes": [NO_BF16] if self.wanted == "bf16" and not _has_bf16() else [],
        }

    def close(self) -> None:
        """Drop the compiled model."""
        del self.request, self.compiled

    def _executed_precisions(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for node in self.compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            if "layerType" in info and "Convolution" in info["layerType"].astype(str):
                found[info["runtimePrecision"].astype(str).lower()] += 1
        return found


@cache
def process_core() -> Any:
    """Return the process's one core, which is never let go; nothing else here may make one.

    On CPUs with AMX each core gives the thread a signal stack, and puts back the one before when it goes. Of two cores
    the one that goes last puts back the other's, which is unmapped by then: the next signal that Python handles, such
    as the end of a data loader, ends the process.
    """
    return require("openvino", extra="openvino", purpose=PURPOSE).Core()


def _has_bf16() -> bool:
    from yolo_compress.host.cpu import bf16_units  # torch, which every other precision does without

    return bool(bf16_units())
