# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""From sections of a recipe to measurements: what is measured beside our engines, and one benchmark of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from yolo_compress.bench import BenchResult, Candidate, run_bench
from yolo_compress.bench.cascade import fit_rule
from yolo_compress.bench.peaks import Peaks, measured_peaks
from yolo_compress.bench.robustness import Conditions
from yolo_compress.context import Context
from yolo_compress.engines import engine_for
from yolo_compress.engines.cascade import SUFFIX, write_cascade
from yolo_compress.host.data import image_batches, sample
from yolo_compress.host.export import export_native
from yolo_compress.recipe import BenchSection
from yolo_compress.report import Limits
from yolo_compress.report.drawing import Witness
from yolo_compress.timing import cache_folder

NATIVE_EXPORTS: dict[str, tuple[str, int | None, str]] = {
    "native:fp32": ("openvino", None, "native_fp32_openvino_model"),
    "native:int8": ("openvino", 8, "native_int8_openvino_model"),
    "native:onnx-fp32": ("onnx", None, "native_fp32.onnx"),
    "native:onnx-int8": ("onnx", 8, "native_int8.onnx"),
}
CASCADE_IMAGES = 256  # of the training set, that the rule of a cascade is fitted on


def measured(
    candidates: Sequence[Candidate],
    context: Context,
    section: BenchSection,
    *,
    witness: Witness | None = None,
    run: Callable[..., BenchResult] = run_bench,
) -> BenchResult:
    """Measure candidates as a section says, and keep with the result what a recommended one has to keep to.

    Args:
        candidates: The first is what ratios refer to.
        context: Data, image size, device and progress.
        section: How.
        witness: Takes what is drawn afterwards.
        run: What measures.

    Raises:
        UsageError, DataError, EngineError: As `run_bench` does.
    """
    result = run(
        candidates,
        context.data,
        imgsz=context.imgsz,
        device=context.device,
        rounds=section.rounds,
        margin=section.margin,
        patience=section.patience,
        warmup=section.warmup,
        threads=section.threads,
        images=section.images,
        batch=section.batch,
        streams=section.streams,
        robustness=conditions(section),
        power=section.power,
        power_seconds=section.power_seconds,
        witness=witness,
        peaks=_peaks(section),
        progress=context.progress,
    )
    return _with_limits(result, section)


def native_export(context: Context, name: str, folder: Path) -> Path:
    """Make one native candidate from the given model."""
    format, quantize, file = NATIVE_EXPORTS[name]
    context.progress(f"native: exporting {name}")
    options: dict[str, Any] = {"format": format, "quantize": quantize, "imgsz": context.imgsz}
    return export_native(context.model, folder / file, data=context.data.path, **options)


def make_cascade(context: Context, cheap: Path, precise: Path, *, share: float, threads: int | None = None) -> Path:
    """Fit, on training images, when the answer of a cheap engine is not enough, and write the cascade.

    Raises:
        UsageError: The share is out of range.
    """
    images = sample(context.data.train, CASCADE_IMAGES, seed=0)
    context.progress(f"cascade: fitting {cheap.name} and {precise.name} on {len(images)} images")
    with ExitStack() as stack:
        sessions = []
        for path in (cheap, precise):
            sessions.append(engine_for(path).load(path, device=context.device, threads=threads))
            stack.callback(sessions[-1].close)
        inputs = image_batches(images, context.imgsz, batch=1)
        rule = fit_rule(sessions[0].infer, sessions[1].infer, inputs, share=share)
    out = context.run_dir / f"{cheap.stem}-{precise.stem}{SUFFIX}"
    write_cascade(out, cheap, precise, rule, imgsz=context.imgsz)
    context.progress(
        f"cascade: {100 * rule.share:.0f} % of the images go on; doubt and differing boxes correlate by "
        f"{rule.correlation:.2f}"
    )
    return out


def conditions(section: BenchSection) -> Conditions | None:
    """Return the corruptions that a benchmark measures accuracy under, or None."""
    if not section.corrupted:
        return None
    return Conditions(section.corrupted, section.severities, section.robustness_images)


def _peaks(section: BenchSection) -> Peaks | None:
    """Return what this machine computes and copies at most, where a roofline is asked for."""
    if not section.roofline:
        return None
    return measured_peaks(threads=section.threads, folder=cache_folder().parent / "peaks")


def _with_limits(result: BenchResult, section: BenchSection) -> BenchResult:
    """Keep beside the measurement what a recommended candidate has to keep to."""
    limits = Limits(section.latency, section.size, section.max_drop)
    given = {key: value for key, value in asdict(limits).items() if value is not None}
    return replace(result, settings={**result.settings, "limits": given}) if given else result
