# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which candidates are broken, and which cannot be compared at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from yolo_compress.bench.result import BenchRow, Candidate
from yolo_compress.engines.tensorrt.plan import read_plan
from yolo_compress.errors import UsageError
from yolo_compress.host.checkpoint import load_model, names
from yolo_compress.host.data import DataSpec
from yolo_compress.host.export import class_names, onnx_metadata, openvino_metadata

# what exporters and our own builds append to the name of the checkpoint
ENGINE_SUFFIX = re.compile(r"([_.](int8|fp32|fp16|bf16|half|openvino|onnxruntime|pytorch|tensorrt|rtx|model))+$")


def check_classes(candidates: Sequence[Candidate], engines: Sequence[str], data: DataSpec) -> tuple[str, ...]:
    """Return notes on candidates whose class names differ from the data's or are not known.

    Raises:
        UsageError: Two candidates have different class lists, or their number of classes is not the data's.
    """
    notes = []
    first: tuple[str, tuple[str, ...]] | None = None
    for candidate, engine in zip(candidates, engines, strict=True):
        found = _class_names(candidate.path, engine)
        if not found:
            notes.append(f"{candidate.label} carries no class names; taken to be those of '{data.path}'")
            continue
        if len(found) != len(data.names):
            raise UsageError(
                f"'{candidate.label}' has {len(found)} classes and data '{data.path}' has {len(data.names)}; "
                "give the data YAML that it was trained on"
            )
        if first is not None and found != first[1]:
            ours, theirs = next(pair for pair in zip(found, first[1], strict=True) if pair[0] != pair[1])
            raise UsageError(
                f"'{candidate.label}' and '{first[0]}' have different classes, '{ours}' and '{theirs}'; "
                "compare models that were trained on the same classes"
            )
        first = first or (candidate.label, found)
        if found != data.names:
            ours, theirs = next(pair for pair in zip(found, data.names, strict=True) if pair[0] != pair[1])
            notes.append(f"{candidate.label} calls a class '{ours}' that the data calls '{theirs}'; matched by number")
    return tuple(notes)


def refusals(rows: Sequence[BenchRow], candidates: Sequence[Candidate], share: float) -> list[BenchRow]:
    """Mark the rows whose accuracy says that the artifact is broken, so that no latency is published for them."""
    groups = [weights_of(candidate) for candidate in candidates]
    judged = []
    for row, candidate, group in zip(rows, candidates, groups, strict=True):
        floats = [
            other
            for other, theirs in zip(rows, groups, strict=True)
            if theirs == group and other.precision != "int8" and not other.images_not_finite
        ]
        known = [(other.map50_95, other.label) for other in floats]
        if candidate.float_map50_95 is not None:
            known.append((candidate.float_map50_95, "its float model"))
        reason = _reason(row, max(known, default=None), share)
        judged.append(replace(row, status="refused", reason=reason) if reason else row)
    return judged


def weights_of(candidate: Candidate) -> str:
    """Return what a candidate was made from: as stated, or its path without what exporters append."""
    if candidate.weights is not None:
        return candidate.weights
    stem = candidate.path.name if candidate.path.is_dir() else candidate.path.stem
    return str(candidate.path.parent / ENGINE_SUFFIX.sub("", stem))


def _reason(row: BenchRow, best: tuple[float, str] | None, share: float) -> str:
    if row.images_not_finite:
        return f"the output holds NaN or infinity on {row.images_not_finite} images"
    if not row.detections:
        return "nothing is detected on any image"
    if best is not None and row.map50_95 < share * best[0]:
        return (
            f"mAP50-95 of {100 * row.map50_95:.1f} is below {share:g} of the {100 * best[0]:.1f} that {best[1]} "
            "reaches with the same weights"
        )
    return ""


def _class_names(path: Path, engine: str) -> tuple[str, ...]:
    if engine == "pytorch":
        return names(load_model(path))
    if engine == "onnxruntime":
        return class_names(onnx_metadata(path))
    if engine == "openvino":
        return class_names(openvino_metadata(path))
    if engine.startswith("tensorrt"):
        return class_names(read_plan(path)[0])
    return ()
