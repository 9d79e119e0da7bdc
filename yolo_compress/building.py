# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""One engine from one model: what has to happen before it can be built, and who chooses its INT8 ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from yolo_compress import recipe as recipes
from yolo_compress.artifacts import EngineFile
from yolo_compress.calibrate import choose, write_manifest
from yolo_compress.context import context_for
from yolo_compress.engines import get_engine
from yolo_compress.engines.source import is_quantized
from yolo_compress.engines.tensorrt.calibration import Calibration
from yolo_compress.engines.tensorrt.engine import TensorRt
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host.data import read_data
from yolo_compress.quantizing import carries_scales, quantize_checkpoint
from yolo_compress.recipe import BenchSection, PruneSection, QuantizeSection, TensorRtSection

PROJECT = Path("runs/compress")
# options of TensorRT's own calibration, and what they are called where it is done
CALIBRATING = {
    "calibrator": "algorithm",
    "cache": "cache",
    "calibration_batch": "batch",
    "float_layers": "float_layers",
}
SectionType = TypeVar("SectionType", PruneSection, QuantizeSection, BenchSection, TensorRtSection)


def build(
    model: str | Path,
    *,
    engine: str = "openvino",
    precision: str = "fp32",
    data: str | Path | None = None,
    imgsz: int = 640,
    calibrator: str | None = None,
    cache: str | Path | None = None,
    calibration_batch: int | None = None,
    float_layers: str | Path | None = None,
    section: QuantizeSection | None = None,
    tensorrt: TensorRtSection | None = None,
    project: str | Path = PROJECT,
    name: str | None = None,
    progress: Callable[[str], None] = print,
    **options: Any,
) -> EngineFile:
    """Build an engine; an INT8 one from a checkpoint is quantized or calibrated first, which takes data.

    A TensorRT that calibrates does that itself, unless quantization options are given or the checkpoint was trained
    quantized; others build from a quantized graph.

    Args:
        model: Checkpoint, float ONNX or Q/DQ ONNX.
        engine: Runtime; see `yolo-compress list engines`.
        precision: What it computes in.
        data: Data YAML, for INT8 from a float model.
        imgsz: Side of the square input in pixels.
        calibrator: Algorithm of a TensorRT that calibrates: entropy (the default), minmax, percentile or legacy.
        cache: Its calibration cache: read where it fits model, images and TensorRT, else written. Without data, one
            that was made from a quantized graph.
        calibration_batch: Most images that it looks at together, 8 to 32; 16 when not given.
        float_layers: File that names, line by line, layers that it leaves in half precision.
        section: Quantization options as one object.
        tensorrt: Options of TensorRT engines as one object.
        project: Folder that holds results.
        name: Folder name of this one; the model's name with runtime and precision when not given.
        progress: Takes a line now and then.
        options: Quantization and TensorRT options one by one; see `QuantizeSection` and `TensorRtSection`.

    Raises:
        UsageError: No such engine or precision, or INT8 without data.
        MissingDependency: The runtime is not installed.
        EngineError: The runtime refused the model.
    """
    runtime = get_engine(engine)
    source = Path(model)
    folder = Path(project) / (name or f"{source.stem}_{engine}_{precision}")
    given = {key: options.pop(key) for key in TensorRtSection.model_fields if key in options}
    own = (calibrator, cache, calibration_batch, float_layers)
    calibrating = {key: value for key, value in zip(CALIBRATING, own, strict=True) if value is not None}
    if isinstance(runtime, TensorRt):
        how = read_section(TensorRtSection, "tensorrt", tensorrt, given)
        quantizing = read_section(
            QuantizeSection, "quantize", section, options if section else {"target": "tensorrt", **options}
        )
        asked = (*options, *(["section"] if section else []))
        order = _Order(source, folder, precision, data, imgsz, how, quantizing, calibrating, asked, progress)
        return _build_tensorrt(runtime, order)
    if needless := [*given, *calibrating, *(["tensorrt"] if tensorrt else [])]:
        raise UsageError(f"{needless[0]}= is for engine=tensorrt, and engine={engine} was given; leave it out")
    if precision == "int8" and source.suffix == ".pt":
        if data is None:
            raise UsageError("an int8 engine needs images to choose ranges on; give data=FILE.yaml")
        scheme = {"target": engine if engine in ("openvino", "onnxruntime") else "openvino"}
        quantizing = read_section(QuantizeSection, "quantize", section, options if section else {**scheme, **options})
        context = context_for(source, data, imgsz=imgsz, device="cpu", run_dir=folder, progress=progress)
        source = quantize_checkpoint(source, folder / "qdq", context, quantizing).outputs["qdq"]
    elif options or section:
        raise UsageError("quantization options only go with precision=int8 and a checkpoint; leave them out")
    return runtime.build(source, folder, precision=precision, imgsz=imgsz)


@dataclass(frozen=True)
class _Order:
    """What is to be built, and which of the options were given: by them goes who chooses INT8 ranges."""

    source: Path
    folder: Path
    precision: str
    data: str | Path | None
    imgsz: int
    how: TensorRtSection
    quantizing: QuantizeSection
    calibrating: dict[str, Any]
    quantize_options: tuple[str, ...]
    progress: Callable[[str], None]


def _build_tensorrt(runtime: TensorRt, order: _Order) -> EngineFile:
    source, calibrating = order.source, order.calibrating
    choosing = [key for key in order.quantize_options if key != "images"]  # how ranges are chosen, by us
    floating = source.suffix == ".pt" or (source.is_file() and not is_quantized(source))
    if order.precision != "int8" or not floating:
        if needless := [*order.quantize_options, *calibrating]:
            raise UsageError(f"{needless[0]}= only goes with precision=int8 and a float model; leave it out")
        return runtime.build(source, order.folder, precision=order.precision, imgsz=order.imgsz, options=order.how)
    calibrates, learned = runtime.calibrates(), carries_scales(source)
    if calibrating:
        _check_calibrating(runtime, next(iter(calibrating)), choosing, source, calibrates=calibrates, learned=learned)
    if order.data is None and "cache" not in calibrating:
        raise UsageError("an int8 engine needs images to choose ranges on; give data=FILE.yaml")
    return (_by_tensorrt if calibrates and not choosing and not learned else _by_us)(runtime, order)


def _check_calibrating(
    runtime: TensorRt, given: str, choosing: Sequence[str], source: Path, *, calibrates: bool, learned: bool
) -> None:
    """Refuse options of TensorRT's own calibration where something else chooses the ranges."""
    if not calibrates:
        raise UsageError(
            f"{given}= is for a TensorRT that calibrates, and this {runtime.name} does not; leave it out, and ranges "
            "are chosen by range=, such as range=entropy"
        )
    if choosing:
        raise UsageError(f"{choosing[0]}= lets yolo-compress choose ranges and {given}= lets TensorRT; give one")
    if learned:
        raise UsageError(f"'{source}' was trained quantized and carries its ranges; leave {given}= out")


def _by_tensorrt(runtime: TensorRt, order: _Order) -> EngineFile:
    """Let TensorRT choose INT8 ranges, or take them from a cache."""
    calibration = _calibration(order.calibrating)
    if order.data is not None:
        images = choose(read_data(order.data), order.quantizing.images)
        write_manifest(images, order.folder / "calibration.json")
        calibration = replace(calibration, images=images)
    place = {"precision": "int8", "imgsz": order.imgsz, "options": order.how}
    return runtime.build(order.source, order.folder, calibration=calibration, **place)  # type: ignore[arg-type]


def _by_us(runtime: TensorRt, order: _Order) -> EngineFile:
    """Write ranges that we choose, or that training has learned, into the graph."""
    assert order.data is not None
    context = context_for(
        order.source, order.data, imgsz=order.imgsz, device="cpu", run_dir=order.folder, progress=order.progress
    )
    free = order.how.dynamic_batch is not None
    made = quantize_checkpoint(order.source, order.folder / "qdq", context, order.quantizing, free_batch=free)
    told = {"precision": "int8", "imgsz": order.imgsz, "options": order.how, "stem": order.source.stem}
    built = runtime.build(made.outputs["qdq"], order.folder, **told)  # type: ignore[arg-type]
    return replace(built, notes=(*made.notes, *built.notes))


def _calibration(given: dict[str, Any]) -> Calibration:
    """Read what was given for TensorRT's own calibration."""
    options: dict[str, Any] = {CALIBRATING[key]: value for key, value in given.items()}
    if "cache" in options:
        options["cache"] = Path(options["cache"])
    if "float_layers" in options:
        file = Path(options["float_layers"])
        if not file.is_file():
            raise DataError(f"float_layers '{file}' does not exist; give the file that yolo-compress cache wrote")
        names = file.read_text(encoding="utf-8").splitlines()
        options["float_layers"] = tuple(name for name in names if name)
    return Calibration(None, **options)


def read_section(
    cls: type[SectionType], name: str, section: SectionType | None, options: dict[str, Any]
) -> SectionType:
    """Return the options of a command as one object, however they were given.

    Raises:
        UsageError: Both ways at once, or an option that is out of range.
    """
    if section is not None and any(options.values()):
        raise UsageError(f"give the {name} options as one object or one by one, not both: {', '.join(options)}")
    if section is not None:
        return section
    made = recipes.validate_section(name, options, source="the command")
    assert isinstance(made, cls)
    return made
