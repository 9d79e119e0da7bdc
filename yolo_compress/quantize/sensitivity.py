# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What quantizing each layer alone costs: its input and its weights as codes, everything else in float."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_compress.errors import entry_of
from yolo_compress.host.data import image_batches
from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.answers import Asker, moved
from yolo_compress.quantize.dynamic import insert_dynamic
from yolo_compress.quantize.format import NumberFormat, number_format
from yolo_compress.quantize.graph import Parameters, insert, nearest_parameters, source_tensor
from yolo_compress.quantize.placement import Group, Layer, Placement, Wiring, place
from yolo_compress.quantize.ranges import RANGES
from yolo_compress.quantize.source import read_float
from yolo_compress.quantize.widths import choose_widths, placed

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class QuantizeSensitivityRow:
    """One layer, quantized alone.

    Attributes:
        layer: Module name, such as `model.4.m.0.cv1`.
        output_change: Mean distance of the detections to those of the float model, by `bench.response.distance`.
        map_drop_points: mAP50-95 below the float model, None where it was not measured.
        map50_95: Of the model with this layer alone quantized, a share, None where it was not measured.
        ms_saved: By the runtime's profiles of the float and of the whole quantized model, None without a runtime and
            for a layer that its profile does not name.
        change_per_saving: `map_drop_points`, or `output_change` without it, per millisecond where those are known, and
            as it is otherwise; infinite where nothing is saved, and 0 for a layer that the profile does not name. What
            ranks: the higher, the better a layer to keep.
    """

    layer: str
    output_change: float
    map_drop_points: float | None
    map50_95: float | None
    ms_saved: float | None
    change_per_saving: float


def onnx_sensitivity(
    source: Path,
    *,
    images: Sequence[Path],
    imgsz: int,
    target: str = "openvino",
    range: str = "mse",
    compared: int = 16,
    ms_saved: Callable[[onnx.ModelProto, Placement], Mapping[str, float]] | None = None,
    accuracy: Callable[[onnx.ModelProto], float] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> list[QuantizeSensitivityRow]:
    """Quantize each layer of a float ONNX alone and compare the detections; the most costly layers first.

    Args:
        source: A detector exported by Ultralytics, float32, BatchNorm folded.
        images: Calibration images, which choose the ranges.
        imgsz: Side of the square input in pixels.
        target: Runtime whose scheme is followed; see `SCHEMES`.
        range: How activation ranges are chosen; see `RANGES`.
        compared: Images, the first of them, that detections are compared on.
        ms_saved: Returns, for the float model and where quantizers go in it, the milliseconds that quantization saves
            by layer; it may leave some out.
        accuracy: Returns mAP50-95 of a graph as a share.
        progress: Takes a line per layer.
        options: Other numbers than INT8, by the options of `number_format`.

    Raises:
        UsageError: Unknown target or range, options that do not go together, another image size, or a model that is
            quantized already.
        DataError: No images, an unreadable one, or no such model.
        UnsupportedModel: Not a float detector of Ultralytics, or activations that are not finite.
    """
    method = entry_of(RANGES, "range", range)
    numbers = number_format(target=target, range=range, **options)
    model = read_float(source)
    placement, wiring = placed(place(model.graph, numbers.scheme), numbers), Wiring(model.graph)
    quantizers = choose_widths(model, placement, numbers, method, images, imgsz=imgsz, progress=progress).quantizers
    parameters = nearest_parameters(model, placement, quantizers, numbers.weights, int32_bias=False)
    layers = [layer for layer in placement.layers if not layer.why]
    times = None if ms_saved is None else ms_saved(model, placement)
    batches = list(image_batches(images[:compared], imgsz, batch=1))
    wanted = Asker(model, wiring, imgsz)(batches)
    dense = accuracy(model) if accuracy is not None else None
    rows = []
    for number, layer in enumerate(layers, 1):
        single = only(model, wiring, layer, numbers, quantizers, parameters)
        change = moved(wanted, Asker(single, wiring, imgsz)(batches))
        measured = accuracy(single) if accuracy is not None else None
        drop = 100 * (dense - measured) if dense is not None and measured is not None else None
        saved = None if times is None else times.get(layer.name)
        rank = _rank(change if drop is None else drop, saved, timed=times is not None)
        rows.append(QuantizeSensitivityRow(layer.name, change, drop, measured, saved, rank))
        progress(f"sensitivity: {layer.name}, {number} of {len(layers)}")
    return sorted(rows, key=lambda row: -row.change_per_saving)


def _rank(loss: float, saved: float | None, *, timed: bool) -> float:
    if saved is None:
        return 0.0 if timed else loss
    return loss / saved if saved > 0 else float("inf")


def only(
    model: onnx.ModelProto,
    wiring: Wiring,
    layer: Layer,
    numbers: NumberFormat,
    quantizers: Mapping[Group, Affine],
    parameters: Mapping[int, Parameters],
) -> onnx.ModelProto:
    """Return the float model with quantizers at one convolution alone; its bias stays in float.

    Weights are stored in bytes, which compute the same as packed ones.
    """
    given = {layer.node: parameters[layer.node]}
    if not numbers.static:
        alone = Placement((layer,), (), frozenset())
        if numbers.activations == "dynamic":
            return insert_dynamic(model, alone, given)
        return insert(model, alone, {}, given, int32_bias=False)
    by_tensor = {name: quantizer for group, quantizer in quantizers.items() for name in group.tensors}
    tensor = wiring.nodes[layer.node].input[0]
    group = Group((tensor,), (tensor,))
    placement = Placement((layer,), (group,), frozenset({(layer.node, 0)}))
    quantizer = by_tensor[source_tensor(wiring, tensor, by_tensor)]
    return insert(model, placement, {group: quantizer}, given, int32_bias=False)
