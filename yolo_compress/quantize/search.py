# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Ranges chosen by what they do to the detections, for the tensors where that matters.

The least squared error of a tensor is not the least change of what the detector says: in the first layers of a detector
a few large values decide little, and the steps between small ones much. Each group of tensors is quantized alone, and
where that moves the detections most, other ranges are tried in its place.
"""

from __future__ import annotations

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
    doubted = [group for group, found in tried.items() if len(found) > 1]
    changes = {}
    for group in doubted:
        quantizer = tried[group][first]
        changes[group] = _Alone(model, wiring, placement, group, quantizer, imgsz).change(quantizer, batches, wanted)
    left = total = sum(changes.values())
    for number, group in enumerate(sorted(doubted, key=changes.__getitem__, reverse=True), 1):
        if left <= (1 - COVERED) * total:
            break
        left -= changes[group]
        alone, best = _Alone(model, wiring, placement, group, tried[group][first], imgsz), changes[group]
        for name, quantizer in _others(tried[group], first, form):
            found = alone.change(quantizer, batches, wanted)
            if found < best:
                best, chosen[group] = found, (quantizer, name)
        if progress:
            progress(
                f"looking for ranges: {number}. {group.tensors[0]}: {chosen[group][1]}, detections move by {best:.3g} "
                f"instead of {changes[group]:.3g}"
            )
    before = {group: tried[group][name] for group, name in start.items()}
    after = {group: quantizer for group, (quantizer, _) in chosen.items()}
    ways = [
        moved(wanted, Asker(insert(model, placement, quantizers, {}, int32_bias=False), wiring, imgsz)(batches))
        for quantizers in (before, after)
    ]
    if progress:
        progress(f"looking for ranges: all together, detections move by {ways[1]:.3g} instead of {ways[0]:.3g}")
    if ways[1] >= ways[0]:  # what is best for each alone need not be best together
        return {group: (tried[group][name], name) for group, name in start.items()}
    return chosen


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


class _Alone:
    """The float model with one group of tensors quantized, whose scale and zero point are inputs."""

    def __init__(
        self, model: onnx.ModelProto, wiring: Wiring, placement: Placement, group: Group, like: Affine, imgsz: int
    ) -> None:
        """Prepare for quantizers whose codes are of the type of `like`."""
        onnx = require("onnx", extra="onnx", purpose="quantization")
        kinds = onnx.TensorProto
        reads = {read for read in placement.reads if wiring.nodes[read[0]].input[read[1]] in group.tensors}
        made = insert(model, Placement((), (group,), frozenset(reads)), {group: like}, {}, int32_bias=False)
        self.names = [Names.of(tensor) for tensor in sorted({wiring.nodes[i].input[j] for i, j in reads})]
        free = {names.scale: kinds.FLOAT for names in self.names}
        free |= {names.zero_point: kinds.INT8 if like.signed else kinds.UINT8 for names in self.names}
        constants = [value for value in made.graph.initializer if value.name not in free]
        del made.graph.initializer[:]
        made.graph.initializer.extend(constants)
        made.graph.input.extend(onnx.helper.make_tensor_value_info(name, kind, ()) for name, kind in free.items())
        self.asker = Asker(made, wiring, imgsz)

    def change(self, quantizer: Affine, batches: Sequence[np.ndarray], wanted: Answers) -> float:
        """Return how far detections move with a quantizer."""
        feeds = {names.scale: np.array(quantizer.scale, np.float32) for names in self.names}
        feeds |= {names.zero_point: np.array(quantizer.zero_point, quantizer.dtype) for names in self.names}
        return moved(wanted, self.asker(batches, feeds))
