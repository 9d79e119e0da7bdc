# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Ranges chosen by what they do to the detections, for the tensors where that matters.

The least squared error of a tensor is not the least change of what the detector says: in the first layers of a detector
a few large values decide little, and the steps between small ones much. Each group of tensors is quantized alone to see
where that moves the detections most. There other ranges are tried, with everything else quantized as it stands by then,
since errors of tensors add up or cancel: what is best for each alone need not be best together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.errors import require
from yolo_compress.host.data import image_batches
from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.answers import Answers, Asker, moved
from yolo_compress.quantize.graph import Names, insert
from yolo_compress.quantize.placement import Group, Placement, Wiring
from yolo_compress.quantize.ranges import Form

if TYPE_CHECKING:
    import onnx

COVERED = 0.9  # of the sum of all changes; the groups that make up the rest keep their range
SHARES = (0.35, 0.5, 0.6, 0.7, 0.85, 1.2)  # of the first range, that are tried beside what other methods choose
ALIKE = 0.03  # ranges nearer to each other than this share are tried once


def search(
    model: onnx.ModelProto,
    placement: Placement,
    tried: Mapping[Group, Mapping[str, Affine]],
    form: Form,
    images: Sequence[Path],
    *,
    first: str,
    imgsz: int,
    progress: Callable[[str], None] | None = None,
) -> dict[Group, tuple[Affine, str]]:
    """Return the quantizer of each group and how it was chosen.

    Args:
        model: The float model.
        placement: Where quantizers go.
        tried: The quantizers of each group by the name of the method; one alone is not questioned.
        form: Of the quantizers.
        images: Calibration images that detections are compared on.
        first: The method that groups keep where nothing else is better.
        imgsz: Side of the square input in pixels.
        progress: Takes a line now and then.
    """
    wiring = Wiring(model.graph)
    batches = list(image_batches(images, imgsz, batch=1))
    wanted = Asker(model, wiring, imgsz)(batches)
    start = {group: next(iter(found)) if len(found) == 1 else first for group, found in tried.items()}
    chosen = {group: (tried[group][name], name) for group, name in start.items()}
    quantizers = {group: quantizer for group, (quantizer, _) in chosen.items()}
    alone = {}
    for group in (group for group, found in tried.items() if len(found) > 1):
        one = {group: quantizers[group]}
        alone[group] = _Free(model, wiring, placement, one, imgsz).change(one, batches, wanted)
    together = _Free(model, wiring, placement, quantizers, imgsz)
    before = best = together.change(quantizers, batches, wanted)
    for number, group in enumerate(_costly(alone), 1):
        for name, quantizer in _others(tried[group], first, form):
            found = together.change({**quantizers, group: quantizer}, batches, wanted, limit=best)
            if found < best:
                best, chosen[group] = found, (quantizer, name)
        quantizers[group] = chosen[group][0]
        if progress:
            progress(
                f"looking for ranges: {number}. {group.tensors[0]}: {chosen[group][1]}, detections move by {best:.3g} "
                f"instead of {before:.3g}"
            )
    return chosen


def _costly(changes: Mapping[Group, float]) -> list[Group]:
    """Return the groups that make up most of the sum of changes, the largest first."""
    found, left = [], COVERED * sum(changes.values())
    for group in sorted(changes, key=changes.__getitem__, reverse=True):
        if left <= 0:
            break
        found.append(group)
        left -= changes[group]
    return found


def _others(found: Mapping[str, Affine], first: str, form: Form) -> list[tuple[str, Affine]]:
    """Return the ranges to try beside the first one, no two alike."""
    seen, kept = [float(found[first].scale)], []
    scaled = {f"{share:g} x {first}": _scaled(found[first], share, form) for share in SHARES}
    for name, quantizer in {**found, **scaled}.items():
        if all(abs(float(quantizer.scale) / other - 1) > ALIKE for other in seen):
            seen.append(float(quantizer.scale))
            kept.append((name, quantizer))
    return kept


def _scaled(quantizer: Affine, share: float, form: Form) -> Affine:
    """Return a share of a range: of its larger end where the other is held by the activation, else of both."""
    if form.symmetric:
        return replace(quantizer, scale=np.float32(quantizer.scale * share))
    low, high = quantizer.limits
    return form.quantizer(*((low, high * share) if high > -low else (low * share, high)))


class _Free:
    """The float model with some groups of tensors quantized, whose scales and zero points are inputs."""

    def __init__(
        self,
        model: onnx.ModelProto,
        wiring: Wiring,
        placement: Placement,
        like: Mapping[Group, Affine],
        imgsz: int,
    ) -> None:
        """Prepare for quantizers whose codes are of the types of `like`."""
        onnx = require("onnx", extra="onnx", purpose="quantization")
        kinds = onnx.TensorProto
        of_tensor = {tensor: group for group in like for tensor in group.tensors}
        reads = {read for read in placement.reads if wiring.nodes[read[0]].input[read[1]] in of_tensor}
        made = insert(model, Placement((), tuple(like), frozenset(reads)), like, {}, int32_bias=False)
        self.names: dict[Group, list[Names]] = {group: [] for group in like}
        free = {}
        for tensor in sorted({wiring.nodes[index].input[position] for index, position in reads}):
            group, names = of_tensor[tensor], Names.of(tensor)
            self.names[group].append(names)
            free[names.scale] = kinds.FLOAT
            free[names.zero_point] = kinds.INT8 if like[group].signed else kinds.UINT8
        constants = [value for value in made.graph.initializer if value.name not in free]
        del made.graph.initializer[:]
        made.graph.initializer.extend(constants)
        made.graph.input.extend(onnx.helper.make_tensor_value_info(name, kind, ()) for name, kind in free.items())
        self.asker = Asker(made, wiring, imgsz)

    def change(
        self,
        quantizers: Mapping[Group, Affine],
        batches: Sequence[np.ndarray],
        wanted: Answers,
        *,
        limit: float = math.inf,
    ) -> float:
        """Return how far detections move with these quantizers, or infinity as soon as it is further than a limit."""
        feeds = {}
        for group, quantizer in quantizers.items():
            for names in self.names[group]:
                feeds[names.scale] = np.array(quantizer.scale, np.float32)
                feeds[names.zero_point] = np.array(quantizer.zero_point, quantizer.dtype)
        total = 0.0
        for batch, exact in zip(batches, wanted, strict=True):
            total += moved([exact], self.asker([batch], feeds)) / len(batches)
            if total > limit:
                return math.inf
        return total
