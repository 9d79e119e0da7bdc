# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How much of what this machine allows each layer gets: what is left to gain, and where.

The roofline model (Williams, Waterman and Patterson 2009, Roofline: An Insightful Visual Performance Model for
Multicore Architectures, Communications of the ACM 52(4)): with I = operations / bytes, the arithmetic intensity, a
layer does at most min(peak, bandwidth I) operations per second. So it takes at least max(operations / peak, bytes /
bandwidth) seconds, and its share is that over the time it took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from yolo_compress.bench.layer_work import BYTES, LayerWork, layer_work
from yolo_compress.bench.layers import layer_seconds
from yolo_compress.bench.paired import noise_image
from yolo_compress.bench.peaks import Peaks
from yolo_compress.bench.roof_layers import RoofLayer, Roofline
from yolo_compress.engines import engine_for
from yolo_compress.errors import EngineError

PROFILE_ROUNDS = 30


def roofline(
    path: Path, peaks: Peaks, *, precision: str, imgsz: int, threads: int | None = None, rounds: int = PROFILE_ROUNDS
) -> Roofline:
    """Profile an artifact and hold each of its layers to the roof.

    Args:
        path: An .onnx file or an OpenVINO folder.
        peaks: Of this machine, with the same threads.
        precision: That layers without quantizers compute in.
        imgsz: Side of the square input in pixels.
        threads: Of the runtime; all cores when not given.
        rounds: Profiled runs.

    Raises:
        UsageError: The runtime has no profile, or the file does not tell its layers.
        EngineError: The profile does not name the layers, or a peak is missing.
    """
    work = layer_work(path)
    nodes = engine_for(path).profile(path, noise_image(imgsz), rounds=rounds, threads=threads)
    return under_roof(work, nodes, peaks, precision=precision)


def under_roof(work: Sequence[LayerWork], nodes: Mapping[str, float], peaks: Peaks, *, precision: str) -> Roofline:
    """Hold layers to the roof.

    Args:
        work: What each layer has to do.
        nodes: Seconds of every node that the runtime executes.
        peaks: Of the machine.
        precision: That layers without quantizers compute in; int8 here means float32 for those.
    """
    floating = {"int8": "fp32", "fp16": "fp32"}.get(precision, precision)
    seconds = layer_seconds(nodes, [layer.name for layer in work])
    layers = tuple(
        _layer(layer.name, "int8" if layer.quantized else floating, layer.operations, layer.values, seconds, peaks)
        for layer in work
    )
    total, measured = sum(nodes.values()), sum(layer.seconds for layer in layers)
    operations, moved = sum(layer.operations for layer in layers), sum(layer.bytes for layer in layers)
    least = sum(layer.least_seconds for layer in layers)
    by_compute = sum(layer.least_seconds for layer in layers if layer.limit == "compute")
    whole = RoofLayer(
        name="whole",
        precision=precision,
        operations=operations,
        bytes=moved,
        intensity=operations / moved,
        seconds=max(total, measured),
        least_seconds=least,
        share=least / max(total, measured),
        limit="compute" if 2 * by_compute >= least else "memory",
    )
    other = max(total - measured, 0.0)
    return Roofline(layers, whole, other, dict(peaks.ops_per_s), peaks.bytes_per_s, dict(peaks.how))


def _layer(
    name: str, precision: str, operations: int, values: int, seconds: Mapping[str, float], peaks: Peaks
) -> RoofLayer:
    if precision not in peaks.ops_per_s:
        raise EngineError(f"'{name}' computes in {precision}, whose peak is {peaks.how.get(precision, 'not measured')}")
    moved = values * BYTES[precision]
    compute, memory = operations / peaks.ops_per_s[precision], moved / peaks.bytes_per_s
    least = max(compute, memory)
    limit = "compute" if compute >= memory else "memory"
    took = seconds[name]
    return RoofLayer(name, precision, operations, moved, operations / moved, took, least, least / took, limit)
