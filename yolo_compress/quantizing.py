# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantizing one model: who chooses its ranges, which of its layers stay in float, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import MEGABYTE
from yolo_compress.calibrate import calibration_set, write_manifest
from yolo_compress.context import Context, StageResult, accuracy_of
from yolo_compress.engines.tensorrt.cache import CalibrationCache
from yolo_compress.engines.tensorrt.key import check_graph
from yolo_compress.errors import UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.cpu import use_all_cores
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import (
    Learned,
    QuantizeResult,
    onnx_sensitivity,
    quantize_from_cache,
    quantize_learned,
    quantize_onnx,
)
from yolo_compress.quantize.format import format_options
from yolo_compress.quantize.mixed import Mixed, fewest_in_float
from yolo_compress.quantize.precision import check_runtime, precision_map, wants_time
from yolo_compress.recipe import QuantizeSection
from yolo_compress.timing import cache_folder


def quantize_checkpoint(
    source: Path, folder: Path, context: Context, section: QuantizeSection, *, free_batch: bool = False
) -> StageResult:
    """Quantize a checkpoint, or a float ONNX, on the training images of a data set.

    Args:
        source: What is quantized.
        folder: Folder of the graphs.
        context: Data, image size and progress.
        section: How.
        free_batch: The graph of a checkpoint takes any number of images, else one at a time.
    """
    check_runtime(section)  # before anything slow is done
    floating = _floating(source, folder, context.imgsz, free_batch=free_batch)
    notes: tuple[str, ...] = ()
    if source.suffix == ".pt" and section.learned:
        model = checkpoint.load_model(source)
        learned = Learned.read(model)
        if learned is not None and learned.fits(model):
            learned.check(section)
            made = quantize_learned(floating, folder / "int8.onnx", learned, weight_storage=section.weight_storage)
            return _quantized(made, floating)
        if learned is not None:
            notes = ("weights have changed since quantization-aware training, so ranges were chosen anew",)
    images, manifest, told = _calibration(folder, context, section)
    notes = (*notes, *told)
    seen: dict[Any, Any] = {}  # so that images are run once, however often layers are chosen anew

    def quantized(extra: Sequence[str], *, repaired: bool = True) -> QuantizeResult:
        return quantize_onnx(
            floating,
            folder / "int8.onnx",
            images=images,
            imgsz=context.imgsz,
            range=section.range,
            keep=(*section.keep, *extra),
            **format_options(section),
            rounding=section.rounding if repaired else "nearest",
            bias_correction=section.bias_correction and repaired,
            repair_images=section.repair_images,
            foreground=section.foreground,
            seen=seen,
            progress=context.progress,
        )

    if wants_time(section):
        use_all_cores()
        made = precision_map(
            section,
            floating,
            quantized,
            accuracy=lambda path: accuracy_of(context, path),
            images=images,
            imgsz=context.imgsz,
            cache=cache_folder(),
            progress=context.progress,
        )
        found = _quantized(made.result, floating, manifest, (*notes, *made.notes))
        return replace(found, metrics={**found.metrics, **made.metrics})
    kept: tuple[str, ...] = ()
    if section.max_drop is not None:
        mixed = _mixed(floating, context, section, images, quantized)
        notes, kept = (*notes, mixed.note), mixed.keep
    return _quantized(quantized(kept), floating, manifest, notes)


def quantize_from_cache_file(
    source: Path, folder: Path, cache: Path, section: QuantizeSection, *, imgsz: int
) -> StageResult:
    """Quantize a checkpoint, or a float ONNX, at the scales of a calibration cache of TensorRT.

    Raises:
        UsageError: An option is given that the cache settles, or it belongs to another model.
        DataError: The cache is damaged, or lacks tensors.
    """
    settled = sorted(section.model_fields_set - {"target", "keep"})
    if "target" in section.model_fields_set and section.target != "tensorrt":
        raise UsageError(f"a calibration cache holds scales for target=tensorrt, and target={section.target} was given")
    if settled:
        raise UsageError(f"a calibration cache settles how ranges are chosen; leave out {', '.join(settled)}")
    scales = CalibrationCache.read(cache)
    floating = _floating(source, folder, imgsz)
    notes: tuple[str, ...] = ()
    if not check_graph(cache, floating):
        notes = (f"nothing says which weights '{cache.name}' was calibrated with; only its names were compared",)
    made = quantize_from_cache(floating, folder / "int8.onnx", scales, keep=section.keep)
    result = _quantized(made.result, floating, notes=notes)
    return replace(result, metrics={}, tables={**result.tables, "unused": list(made.unused)})


def carries_scales(source: Path) -> bool:
    """Tell whether a checkpoint was trained quantized, so that its own scales are better than any calibration."""
    if source.suffix != ".pt":
        return False
    model = checkpoint.load_model(source)
    learned = Learned.read(model)
    return learned is not None and learned.fits(model)


def _calibration(
    folder: Path, context: Context, section: QuantizeSection
) -> tuple[Sequence[Path], Path | None, tuple[str, ...]]:
    """Choose calibration images and write down which, with what there is to say; none where they decide nothing."""
    repaired = section.rounding != "nearest" or section.bias_correction
    ranked = section.max_drop is not None or section.latency is not None
    if section.activations != "static" and not repaired and not ranked:
        told = f"no image is looked at with activations={section.activations}, so calibration= has no part in this"
        return (), None, (told,) if section.calibration is not None else ()
    chosen = calibration_set(context.data, section.images, section.calibration)
    write_manifest(chosen, folder / "calibration.json")
    return chosen.images, folder / "calibration.json", chosen.notes


def _floating(source: Path, folder: Path, imgsz: int, *, free_batch: bool = False) -> Path:
    """Return the float ONNX to quantize, exported from a checkpoint where that is what was given."""
    folder.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".pt":
        return export_onnx(source, folder / "float.onnx", imgsz=imgsz, free_batch=free_batch)
    if source.suffix != ".onnx":
        raise UsageError(f"'{source}' cannot be quantized; give a checkpoint (.pt) or a float .onnx")
    return source


def _quantized(
    result: QuantizeResult,
    floating: Path,
    calibration: Path | None = None,
    notes: Sequence[str] = (),
) -> StageResult:
    tables = {"quantize": [asdict(row) for row in result.layers]}
    outputs = {"float_onnx": floating, "qdq": result.path}
    if calibration is not None:
        outputs["calibration"] = calibration
    metrics = {
        "calibration_images": result.images,
        "size_mb": result.size_bytes / MEGABYTE,
        "float_size_mb": result.float_size_bytes / MEGABYTE,
    }
    return StageResult(outputs, metrics, (*result.notes, *notes), tables)


def _mixed(
    floating: Path,
    context: Context,
    section: QuantizeSection,
    images: Sequence[Path],
    quantized: Callable[[Sequence[str]], QuantizeResult],
) -> Mixed:
    """Find the layers that have to stay in float for a section's drop to be met."""
    assert section.max_drop is not None
    full = accuracy_of(context, floating)

    def ranking() -> list[str]:
        rows = onnx_sensitivity(
            floating,
            images=images,
            imgsz=context.imgsz,
            range=section.range,
            progress=context.progress,
            **format_options(section),
        )
        return [r.layer for r in rows if not any(r.layer == k or r.layer.startswith(f"{k}.") for k in section.keep)]

    return fewest_in_float(
        lambda extra: 100 * (full - accuracy_of(context, quantized(extra).path)),
        ranking,
        max_drop=section.max_drop,
        progress=context.progress,
    )
