# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Ranges of activations for codes of other widths than eight bits, and for none at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_compress.quantize.choice import Ranges, choose_ranges
from yolo_compress.quantize.format import NumberFormat
from yolo_compress.quantize.histogram import Histogram
from yolo_compress.quantize.placement import Group, Placement
from yolo_compress.quantize.ranges import FUNCTIONS, RANGES, Form, RangeMethod

if TYPE_CHECKING:
    import onnx


def placed(placement: Placement, numbers: NumberFormat) -> Placement:
    """Return where quantizers go: without static activations, at the weights alone."""
    return placement if numbers.static else replace(placement, groups=(), reads=frozenset())


def choose_widths(
    model: onnx.ModelProto,
    placement: Placement,
    numbers: NumberFormat,
    method: RangeMethod,
    images: Sequence[Path],
    *,
    imgsz: int,
    seen: dict[Group, Histogram] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Ranges:
    """Choose the range of each group of tensors as `choose_ranges` does, for codes of any width.

    Codes of more than 8 bits are signed for every target: no runtime has kernels for them that would want others.
    """
    if not placement.groups:
        return Ranges({}, {}, {})
    bits, scheme = numbers.activation_bits, numbers.scheme
    begin = method if bits == 8 else RANGES["minmax"]
    found = choose_ranges(model, placement, scheme, begin, images, imgsz=imgsz, seen=seen, progress=progress)
    if bits == 8:
        return found
    form = Form(not numbers.types["activations"].startswith("U"), scheme.symmetric, bits)
    assert method.choose is not None
    quantizers = {
        group: form.quantizer(*(group.fixed or method.choose(histogram, form, FUNCTIONS.get(group.through))))
        for group, histogram in found.seen.items()
    }
    methods = {group: "fixed" if group.fixed else method.name for group in quantizers}
    return replace(found, quantizers=quantizers, methods=methods)
