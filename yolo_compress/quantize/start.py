# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What quantization-aware training begins with: what quantization without training would choose."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from yolo_compress.host.checkpoint import write_model
from yolo_compress.host.export import export_onnx
from yolo_compress.host.ultralytics import unwrap_model
from yolo_compress.quantize.emulation import Quantizers, set_folded_
from yolo_compress.quantize.format import format_of
from yolo_compress.quantize.placement import Wiring, place
from yolo_compress.quantize.ptq import choose_all
from yolo_compress.quantize.sites import sites
from yolo_compress.quantize.source import read_float
from yolo_compress.quantize.widths import placed
from yolo_compress.recipe import QuantizeSection


def repairs(form: QuantizeSection) -> bool:
    """Tell whether codes and biases are fitted to images before training begins."""
    return form.rounding != "nearest" or form.bias_correction


def starting_point(
    model: nn.Module,
    form: QuantizeSection,
    images: Sequence[Path],
    imgsz: int,
    *,
    progress: Callable[[str], None] | None = None,
) -> tuple[Quantizers, tuple[tuple[str, ...], ...], int]:
    """Choose what quantization without training would on the same images, as quantizers of the PyTorch model.

    Where codes and biases are repaired, the model gets the weights that the codes stand for, in place: nearest rounding
    under the same scales finds the codes again, and training moves on from there.

    Args:
        model: A float detector of Ultralytics.
        form: What form the quantized model has.
        images: Calibration images.
        imgsz: Side of the square input in pixels, a multiple of the largest stride.
        progress: Takes a line now and then.

    Returns:
        The quantizers; the tensors of each group by their names in the exported graph; and how many convolutions the
        graph has, quantized or not.

    Raises:
        UsageError: A layer to keep does not exist, or an option is out of range.
        UnsupportedModel: The model has blocks that are not known.
    """
    numbers = format_of(form)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "start.pt"
        write_model(model, file)
        graph = read_float(export_onnx(file, Path(folder) / "start.onnx", imgsz=imgsz))
    placement = placed(place(graph.graph, numbers.scheme, keep=form.keep), numbers)
    chosen = choose_all(
        graph,
        placement,
        numbers,
        images,
        imgsz=imgsz,
        range=form.range,
        rounding=form.rounding,
        bias_correction=form.bias_correction,
        repair_images=form.repair_images,
        foreground=form.foreground,
        progress=progress,
    )
    if repairs(form):
        for layer in placement.layers:
            found = chosen.parameters[layer.node]
            if found.weight is not None:
                assert found.bias is not None  # BatchNorm leaves one in every block that is quantized
                set_folded_(unwrap_model(model), layer.name, found.weight.values, found.bias)
    weights = {layer.name: chosen.parameters[layer.node].weight for layer in placement.layers}
    scales = {name: known.scales for name, known in weights.items() if known is not None}
    tables = {name: known.table for name, known in weights.items() if known is not None and known.table is not None}
    activations = [chosen.quantizers[group] for group in placement.groups]
    start = Quantizers(sites(Wiring(graph.graph), placement), activations, scales, numbers.weights, tables)
    return start, tuple(group.tensors for group in placement.groups), len(placement.layers)
