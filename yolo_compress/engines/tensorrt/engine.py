# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""TensorRT and TensorRT-RTX as engines: from a checkpoint or graph to a file that stock Ultralytics opens."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from yolo_compress.artifacts import EngineFile, atomic_write, sha256_path, size_bytes
from yolo_compress.engines.source import (
    check_file,
    check_float,
    check_precision,
    is_quantized,
    onnx_source,
    scheme_notes,
)
from yolo_compress.engines.tensorrt.builder import Built, build_engine
from yolo_compress.engines.tensorrt.calibration import Calibration, calibrated
from yolo_compress.engines.tensorrt.capability import Capabilities, capabilities, load_module
from yolo_compress.engines.tensorrt.cuda.probe import gpu_unusable
from yolo_compress.engines.tensorrt.decision import Decision, decide
from yolo_compress.engines.tensorrt.inspector import read_layers
from yolo_compress.engines.tensorrt.logger import logger_for
from yolo_compress.engines.tensorrt.plan import write_plan
from yolo_compress.errors import EngineError, MissingDependency, UsageError, require
from yolo_compress.recipe.tensorrt import TensorRtSection

if TYPE_CHECKING:
    from yolo_compress.engines.protocol import Session

RECORD_VERSION = 1
# asked in a process of its own: without a GPU, a Runtime ends the process that makes one
QUESTION = """
import sys
sys.path[:] = {path!r}
import {module} as trt
try:
    trt.Builder(trt.Logger(trt.Logger.ERROR))
except TypeError:
    sys.exit("its builder does not start; does the driver fit this version?")
"""


class TensorRt:
    """Builds and runs *.engine files for the GPU of this machine."""

    name = "tensorrt"
    module: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt"
    suffix = ".engine"
    precisions = ("fp32", "fp16", "int8")
    useless: tuple[str, ...] = ("compute",)
    why_useless = "TensorRT builds for the GPU that it measures on"

    def unavailable(self) -> str | None:
        """Return why TensorRT cannot be used here, or None; nothing of it is started in this process."""
        try:
            load_module(self.module)
        except MissingDependency as error:
            return str(error)
        return gpu_unusable() or gpu_unusable(question=QUESTION.format(path=sys.path, module=self.module))

    def calibrates(self) -> bool:
        """Tell whether the installed version chooses INT8 ranges itself.

        Raises:
            MissingDependency: None is installed.
        """
        return bool(capabilities(load_module(self.module)).calibrators)

    def build(
        self,
        source: Path,
        out_dir: Path,
        *,
        precision: str,
        imgsz: int,
        options: TensorRtSection | None = None,
        calibration: Calibration | None = None,
        stem: str | None = None,
    ) -> EngineFile:
        """Build an engine, and beside it `<stem>.build.json`: how it was built and what its layers are.

        Args:
            source: Checkpoint, float ONNX, or Q/DQ ONNX.
            out_dir: Folder of the result.
            precision: fp32, fp16 or int8.
            imgsz: Side of the square input in pixels.
            options: How; see `TensorRtSection`.
            calibration: Images and algorithm, for int8 from a float model with a version that calibrates.
            stem: Name of the result without suffix; the source's when not given.

        Raises:
            UsageError: An option that this runtime has no use for, or that does not fit the source or the device.
            MissingDependency: The runtime is not installed.
            DataError: The source, a calibration image or the calibration cache is missing or damaged.
            EngineError: There is no GPU to build on, or the runtime refuses the model; the message names the node.
        """
        options = options or TensorRtSection()
        check_precision(self.name, precision, self.precisions)
        self._check_options(options)
        trt = load_module(self.module)
        if source.suffix != ".pt":
            check_file(source, ".onnx")
        quantized = source.suffix != ".pt" and is_quantized(source)
        if precision == "int8" and source.suffix != ".pt" and not quantized:
            check_float(source)
        decision = decide(capabilities(trt), source, precision=precision, quantized=quantized, dla=options.dla)
        _check_calibration(decision, calibration, source)
        compute, notes = self._aim(trt, options)
        load = require("onnx", extra="onnx", purpose="TensorRT engines").load
        if source.suffix == ".pt":
            from yolo_compress.host.export import export_onnx  # torch, which a session does not need

            free = options.dynamic_batch is not None
            graph = export_onnx(source, out_dir / f"{source.stem}.onnx", imgsz=imgsz, free_batch=free)
        else:
            graph = onnx_source(source, out_dir, precision=precision if quantized else "fp32", imgsz=imgsz)
        notes += scheme_notes(self.name, graph)
        model = load(str(graph))
        _check_size(model, graph, imgsz)
        calibrator, keep = None, ()
        if decision.mode == "calibrate":
            assert calibration is not None
            many = model
            if source.suffix == ".pt" and not free:  # as many at a time as a calibration wants
                with tempfile.TemporaryDirectory() as place:
                    many = load(str(export_onnx(source, Path(place) / "many.onnx", imgsz=imgsz, free_batch=True)))
            calibrator, told = calibrated(trt, many, graph, decision, calibration, imgsz=imgsz, options=options)
            notes, keep = (*notes, *told), calibration.float_layers
        built = build_engine(
            trt,
            model,
            source,
            decision,
            imgsz=imgsz,
            options=options,
            compute=compute,
            calibrator=calibrator,
            keep=keep,
        )
        stem = stem or source.stem
        out = out_dir / f"{stem}{self.suffix}"
        text = self._inspect(trt, built)
        record = _record(capabilities(trt), decision, built, options, precision, text)
        write_plan(out, built.plan, _metadata(model, options, record))
        atomic_write(out_dir / f"{stem}.build.json", json.dumps(record, indent=1) + "\n")
        notes += (*built.notes, *_precision_note(precision, text))
        return EngineFile(out, self.name, precision, imgsz, size_bytes(out), sha256_path(out), notes)

    def load(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> Session:
        """Load an engine on a GPU."""
        check_file(path, self.suffix)
        from yolo_compress.engines.tensorrt.session import TensorRtSession  # CUDA, which a build need not have

        return TensorRtSession(path, self.module, device=device, threads=threads)

    def profile(self, path: Path, images: np.ndarray, *, rounds: int, threads: int | None = None) -> dict[str, float]:
        """Refuse: TensorRT fuses layers across modules, so that their times are of no module."""
        raise UsageError(f"{self.name} is not profiled; give a runtime whose nodes keep the names of modules: openvino")

    def _check_options(self, options: TensorRtSection) -> None:
        plain = TensorRtSection()
        if given := [name for name in self.useless if getattr(options, name) != getattr(plain, name)]:
            raise UsageError(f"{given[0]}= is not for engine={self.name}: {self.why_useless}; leave it out")

    def _aim(self, trt: ModuleType | Any, options: TensorRtSection) -> tuple[str | None, tuple[str, ...]]:
        """Return the compute capability to build for, None for this machine's GPU, and what to say about it."""
        if (why := self.unavailable()) is not None:
            raise EngineError(f"{self.name} engines are built on the GPU that runs them, and here {why}")
        return None, ()

    def _inspect(self, trt: ModuleType | Any, built: Built) -> str | None:
        """Ask the engine for its layers; an engine that cannot be loaded is told here and not by the first user."""
        logger = logger_for(trt)
        engine = trt.Runtime(logger).deserialize_cuda_engine(built.plan)
        if engine is None:
            raise EngineError(f"{self.name} does not load what it has built; see its own log, then build again")
        return engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)


class TensorRtRtx(TensorRt):
    """Builds *.rtx.engine files for GeForce and RTX GPUs, also where there is none."""

    name = "tensorrt_rtx"
    module: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt_rtx"
    suffix = ".rtx.engine"
    useless = ("dla", "timing_cache")
    why_useless = "TensorRT-RTX takes its types and ranges from the graph, compiles on the device and runs on GPUs only"

    def unavailable(self) -> str | None:
        """Return why engines cannot run here, or None; building takes the package alone."""
        try:
            load_module(self.module)
        except MissingDependency as error:
            return str(error)
        if (why := gpu_unusable()) is not None:
            return f"engines can be built here and not run: {why}"
        return None

    def _aim(self, trt: ModuleType | Any, options: TensorRtSection) -> tuple[str | None, tuple[str, ...]]:
        known = capabilities(trt).compute
        if options.compute is not None:
            return options.compute, (f"built for compute capability {_dotted(options.compute)} only",)
        if gpu_unusable() is None or not known:
            return None, ()
        told = f"built for compute capability {_dotted(known[-1])}, the newest that TensorRT-RTX knows, since there is "
        return known[-1], (f"{told}no GPU here; another one: compute={_dotted(known[0])}",)

    def _inspect(self, trt: ModuleType | Any, built: Built) -> str | None:
        return None  # what runs is compiled by the device, which alone could tell


def _check_calibration(decision: Decision, calibration: Calibration | None, source: Path) -> None:
    if decision.mode == "calibrate" and calibration is None:
        raise UsageError(f"'{source}' has no ranges, and images are needed to choose them on; give data=FILE.yaml")
    if decision.mode != "calibrate" and calibration is not None:
        holds = "holds its ranges" if decision.mode == "qdq" else "becomes a float engine"
        raise UsageError(f"calibration is for int8 from a float model, and '{source}' {holds}; leave calibrator= out")


def _check_size(model: Any, graph: Path, imgsz: int) -> None:
    height, width = (axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[2:])
    if {height, width} - {0, imgsz}:
        raise UsageError(f"'{graph}' takes {width}x{height} images and imgsz={imgsz} was asked for; give imgsz={width}")


def _metadata(model: Any, options: TensorRtSection, record: dict[str, Any]) -> dict[str, Any]:
    """Return what Ultralytics reads before an engine, with our facts beside its own."""
    found: dict[str, Any] = {item.key: item.value for item in model.metadata_props}
    facts = json.loads(found.get("yolo_compress", "{}"))
    kept = {name: record[name] for name in ("engine", "version", "precision", "mode", "strongly_typed", "compute")}
    found["yolo_compress"] = json.dumps(facts | {"build": kept})
    if options.dla is not None:
        found["dla"] = options.dla  # the runtime has to be told the core again
    return found


def _record(
    caps: Capabilities, decision: Decision, built: Built, options: TensorRtSection, precision: str, text: str | None
) -> dict[str, Any]:
    layers = vars(read_layers(text)) if text is not None else None
    return {
        "schema_version": RECORD_VERSION,
        "engine": caps.module,
        "version": caps.version,
        "precision": precision,
        "mode": decision.mode,
        "strongly_typed": decision.strong,
        "flags": list(decision.flags),
        "compute": built.compute,
        "options": options.model_dump(mode="json"),
        "gpu_layers": list(built.gpu_layers),
        "layers": layers,
        "inspector": json.loads(text) if text is not None else None,
    }


def _precision_note(precision: str, text: str | None) -> tuple[str, ...]:
    """Say it where INT8 was asked for and TensorRT found everything else faster."""
    layers = read_layers(text) if text is not None else None
    if precision != "int8" or layers is None or not layers.detailed or "int8" in layers.precisions:
        return ()
    return (f"int8 was asked for and no layer runs in it: {layers}",)


def _dotted(compute: str) -> str:
    return f"{compute[2:-1]}.{compute[-1]}"
