# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A float ONNX and a calibration cache of TensorRT become one Q/DQ ONNX, which every version of TensorRT reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.engines.tensorrt.cache import CalibrationCache
from yolo_compress.errors import DataError
from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.format import number_format
from yolo_compress.quantize.graph import Parameters, float_parameters, nearest_parameters
from yolo_compress.quantize.grid import keep_codes
from yolo_compress.quantize.placement import Group, Placement, Wiring, place
from yolo_compress.quantize.result import Choices, QuantizeResult, write_result
from yolo_compress.quantize.source import read_float

if TYPE_CHECKING:
    import onnx

TARGET = "tensorrt"
NAMED = 20  # tensors that a message names


@dataclass(frozen=True)
class FromCache:
    """A Q/DQ ONNX at the scales of a cache, and the tensors of the cache that have no quantizer in it."""

    result: QuantizeResult
    unused: tuple[str, ...]


def quantize_from_cache(source: Path, out: Path, cache: CalibrationCache, *, keep: Sequence[str] = ()) -> FromCache:
    """Quantize a float ONNX at the scales of a calibration cache, in the form that TensorRT wants.

    TensorRT calibrates every tensor; a Q/DQ graph has fewer quantizers, and one scale for tensors that come together in
    a concatenation. There the largest of their scales is taken, which cuts off nothing that calibration wanted to keep.
    Weights that lie on INT8 codes already keep them; others are rounded to the nearest code, per output channel.

    Args:
        source: The graph that was calibrated: a detector exported by Ultralytics, float32.
        out: The Q/DQ ONNX to write.
        cache: Scales by tensor.
        keep: Layers left in float, by module name or prefix.

    Raises:
        DataError: The cache lacks tensors that are to be quantized, or the graph cannot be read.
        UsageError: The graph is quantized already, or `keep` names no layer.
        UnsupportedModel: Not a float detector of Ultralytics.
        OutputError: `out` cannot be written.
    """
    model, numbers = read_float(source), number_format(target=TARGET)
    placement = place(model.graph, numbers.scheme, keep=keep)
    quantizers, notes = _quantizers(placement, cache, source)
    parameters = nearest_parameters(model, placement, quantizers, numbers.weights, int32_bias=numbers.int32_bias)
    parameters, exact = _on_their_codes(model, parameters)
    if exact:
        notes.append(f"the weights of {exact} layers lie on INT8 codes already and keep them")
    wanted = {name for group in placement.groups for name in group.tensors}
    unused = tuple(name for name in cache.scales if name not in wanted)
    if unused:
        notes.append(f"{len(unused)} tensors of the cache have no quantizer, {_named(unused, 3)}")
    facts = {
        "target": TARGET,
        "range": "cache",
        "cache": f"TRT-{cache.version}-{cache.algorithm}",
        "keep": list(keep),
        "weight_bits": numbers.weights.bits,
        "weight_group": numbers.weights.group,
    }
    made = Choices(quantizers, dict.fromkeys(quantizers, "cache"), parameters)
    return FromCache(write_result(model, placement, numbers, made, out, facts=facts, images=0, notes=notes), unused)


def _quantizers(placement: Placement, cache: CalibrationCache, source: Path) -> tuple[dict[Group, Affine], list[str]]:
    wanted = [name for group in placement.groups for name in group.tensors]
    if missing := [name for name in wanted if name not in cache.scales]:
        raise DataError(
            f"the cache has no scale for {len(missing)} of the {len(wanted)} tensors of '{source}' that are quantized, "
            f"{_named(missing, NAMED)}; it was made from another graph, or with these in float: give the ONNX that was "
            "calibrated, or leave the layers that read them in float with keep=LAYER"
        )
    found, ratios = {}, []
    for group in placement.groups:
        scales = [cache.scales[name] for name in group.tensors]
        found[group] = Affine(np.float32(max(scales)), 0, signed=True)
        ratios.append(max(scales) / min(scales))
    shared = [ratio for ratio in ratios if ratio > 1]
    if not shared:
        return found, []
    return found, [
        f"{len(shared)} groups of tensors share one scale where the cache has several; the largest is taken, up to "
        f"{max(shared):.2f} times the smallest"
    ]


def _on_their_codes(model: onnx.ModelProto, parameters: dict[int, Parameters]) -> tuple[dict[int, Parameters], int]:
    """Return parameters with the codes that weights lie on already, and the number of layers that lie so as a whole."""
    wiring, found, whole = Wiring(model.graph), {}, 0
    for node, given in parameters.items():
        found[node] = given
        if given.weight is not None:
            weight, channels = keep_codes(float_parameters(wiring, node)[0], given.weight)
            found[node] = replace(given, weight=weight)
            whole += channels == len(weight.codes)
    return found, whole


def _named(names: Sequence[str], most: int) -> str:
    """Return names in a sentence, and how many are left out."""
    left = len(names) - most
    return f"{'such as ' if left > 0 else ''}{', '.join(names[:most])}{f' and {left} more' if left > 0 else ''}"
