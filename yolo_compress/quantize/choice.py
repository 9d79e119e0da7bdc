# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which range each tensor gets: by one method, or by what ranges of several do to the detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.calibration import observe
from yolo_compress.quantize.histogram import Histogram
from yolo_compress.quantize.placement import Group, Placement
from yolo_compress.quantize.ranges import FUNCTIONS, RANGES, Form, RangeMethod
from yolo_compress.quantize.scheme import Scheme
from yolo_compress.quantize.search import search

if TYPE_CHECKING:
    import onnx


TRIAL_IMAGES = 16  # of the calibration set, that ranges are compared on where detections decide
START = "mse"  # where they begin


@dataclass(frozen=True)
class Ranges:
    """The quantizer of each group of tensors, the method that chose it, and what was seen of the group."""

    quantizers: Mapping[Group, Affine]
    methods: Mapping[Group, str]
    seen: Mapping[Group, Histogram]


def choose_ranges(
    model: onnx.ModelProto,
    placement: Placement,
    scheme: Scheme,
    method: RangeMethod,
    images: Sequence[Path],
    *,
    imgsz: int,
    seen: dict[Group, Histogram] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Ranges:
    """Run the float model over calibration images and choose the range of each group of tensors.

    Groups in `seen` are not looked at again, and it takes those that are.
    """
    known = {} if seen is None else seen
    if missing := [group for group in placement.groups if group not in known]:
        known.update(observe(model, missing, images, imgsz=imgsz, progress=progress))
    seen = {group: known[group] for group in placement.groups}
    form = Form(scheme.signed, scheme.symmetric)
    tried = {group: _tried(group, histogram, form, method) for group, histogram in seen.items()}
    if method.choose is None:
        found = search(
            model, placement, tried, form, images[:TRIAL_IMAGES], first=START, imgsz=imgsz, progress=progress
        )
    else:
        found = {group: next((quantizer, name) for name, quantizer in one.items()) for group, one in tried.items()}
    methods = {group: name for group, (_, name) in found.items()}
    return Ranges({group: quantizer for group, (quantizer, _) in found.items()}, methods, seen)


def _tried(group: Group, seen: Histogram, form: Form, method: RangeMethod) -> dict[str, Affine]:
    """Return the quantizers that a group may get, by the name of the method: one, unless detections are to decide."""
    if group.fixed:
        return {"fixed": form.quantizer(*group.fixed)}
    through = FUNCTIONS.get(group.through)
    entries = [method] if method.choose else RANGES.values()
    return {entry.name: form.quantizer(*entry.choose(seen, form, through)) for entry in entries if entry.choose}
