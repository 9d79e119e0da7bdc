# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantization without training: a float ONNX becomes one Q/DQ ONNX in the form that a runtime wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_compress.errors import UsageError, entry_of
from yolo_compress.quantize.format import NumberFormat, number_format
from yolo_compress.quantize.graph import Parameters, nearest_parameters
from yolo_compress.quantize.histogram import Histogram
from yolo_compress.quantize.placement import Group, Placement, place
from yolo_compress.quantize.ranges import RANGES
from yolo_compress.quantize.repair import repair_layers
from yolo_compress.quantize.result import Choices, QuantizeResult, calibration_notes, write_result
from yolo_compress.quantize.rounding import ROUNDINGS
from yolo_compress.quantize.source import read_float
from yolo_compress.quantize.weights import WeightForm
from yolo_compress.quantize.widths import choose_widths, placed

if TYPE_CHECKING:
    import onnx

REPAIR_IMAGES = 64  # of the calibration set; each is looked at at many positions


def quantize_onnx(
    source: Path,
    out: Path,
    *,
    images: Sequence[Path],
    imgsz: int,
    target: str = "openvino",
    range: str = "mse",
    keep: Sequence[str] = (),
    weight_form: str = "uniform",
    weight_bits: int | None = None,
    weight_group: int | None = None,
    weight_storage: str = "bytes",
    activations: str = "static",
    activation_bits: int = 8,
    rounding: str = "nearest",
    bias_correction: bool = False,
    repair_images: int = REPAIR_IMAGES,
    foreground: float = 0.0,
    avoid_overflow: bool | None = None,
    seen: dict[Group, Histogram] | None = None,
    progress: Callable[[str], None] | None = None,
) -> QuantizeResult:
    """Quantize a float ONNX, to INT8 when nothing else is said, and write it with the metadata that it had.

    Args:
        source: A detector exported by Ultralytics, float32, BatchNorm folded.
        out: The Q/DQ ONNX to write.
        images: Calibration images; they must not be the ones that accuracy is measured on. None are looked at where
            activations have no static ranges and nothing is repaired.
        imgsz: Side of the square input in pixels.
        target: Runtime whose scheme is followed; see `SCHEMES`.
        range: How activation ranges are chosen; see `RANGES`.
        keep: Layers left in float, by module name or prefix.
        weight_form: Kind of the weights; see `WEIGHT_FORMS`.
        weight_bits: Of a weight's code: 2 to 16 for `uniform`, 8 when not given, and what `WEIGHT_FORMS` says else.
        weight_group: Input channels that share a weight scale; a whole output channel has one when not given, and in
            layers whose inputs it does not divide.
        weight_storage: `bytes`, or `packed` for codes of at most 4 bits, two to a byte.
        activations: `static`: ranges are chosen on the images; `dynamic`: found while the model runs; `none`: float.
        activation_bits: Of the code of a static activation, 2 to 16; other than 8 a simulation.
        rounding: How codes of weights are chosen; see `ROUNDINGS`.
        bias_correction: Add to biases by how much outputs are too low on the images, layer by layer.
        repair_images: Of the images, how many rounding and bias correction look at, from the first on; all feature maps
            of them that are still needed are held in memory.
        foreground: Share of the positions looked at that is drawn where the float model detects something; see
            `foreground.Places`.
        avoid_overflow: Scale weights so that CPUs without VNNI cannot saturate; the scheme decides when not given, not
            the CPU that quantizes, since files travel.
        seen: What earlier calls with the same model, images and size have seen of groups of tensors; added to.
        progress: Takes a line now and then.

    Raises:
        UsageError: Unknown target, range, form, rounding or layer to keep, bits out of range, options that do not go
            together or that the target cannot run, a group that divides no layer, another image size, or a model that
            is quantized already.
        DataError: No images, an unreadable one, or no such model.
        UnsupportedModel: Not a float detector of Ultralytics, or activations that are not finite.
        OutputError: `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    options = {
        "target": target,
        "weight_form": weight_form,
        "weight_bits": weight_bits,
        "weight_group": weight_group,
        "weight_storage": weight_storage,
        "activations": activations,
        "activation_bits": activation_bits,
    }
    numbers = number_format(**options, avoid_overflow=avoid_overflow, range=range, rounding=rounding)
    model = read_float(source)
    placement = placed(place(model.graph, numbers.scheme, keep=keep), numbers)
    made = choose_all(
        model,
        placement,
        numbers,
        images,
        imgsz=imgsz,
        range=range,
        rounding=rounding,
        bias_correction=bias_correction,
        repair_images=repair_images,
        foreground=foreground,
        seen=seen,
        progress=progress,
    )
    looked = len(images) if numbers.static or made.errors else 0
    facts = {
        **options,
        "range": range,
        "images": looked,
        "keep": list(keep),
        "weight_bits": numbers.weights.bits,
        "rounding": rounding,
        "bias_correction": bias_correction,
        "repair_images": min(repair_images, len(images)) if made.errors else 0,
        "foreground": float(foreground),
        "avoid_overflow": numbers.weights.avoid_overflow,
    }
    notes = calibration_notes(len(images)) if numbers.static else []
    return write_result(model, placement, numbers, made, out, facts=facts, images=looked, notes=notes)


def choose_all(
    model: onnx.ModelProto,
    placement: Placement,
    numbers: NumberFormat,
    images: Sequence[Path],
    *,
    imgsz: int,
    range: str = "mse",
    rounding: str = "nearest",
    bias_correction: bool = False,
    repair_images: int = REPAIR_IMAGES,
    foreground: float = 0.0,
    seen: dict[Group, Histogram] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Choices:
    """Choose the ranges, codes and biases of a float model's quantized form.

    Args:
        model: The float model.
        placement: Where quantizers go.
        numbers: What values and weights become.
        images: Calibration images, letterboxed to `imgsz`.
        imgsz: Side of the square input in pixels.
        range: How activation ranges are chosen; see `RANGES`.
        rounding: How codes of weights are chosen; see `ROUNDINGS`.
        bias_correction: Add to biases by how much outputs are too low on the images, layer by layer.
        repair_images: Of the images, how many rounding and bias correction look at, from the first on; all feature maps
            of them that are still needed are held in memory.
        foreground: Share of the positions looked at that is drawn where the float model detects something; see
            `foreground.Places`.
        seen: As in `quantize_onnx`.
        progress: Takes a line now and then.

    Raises:
        UsageError: Unknown range or rounding, a share or number of images that cannot be, or a group of weights that
            divides no layer.
        DataError: No images, or an unreadable one.
        UnsupportedModel: Activations that are not finite.
    """
    if not 0 <= foreground <= 1:
        raise UsageError(f"foreground={foreground:g} is not possible; give a share from 0 to 1")
    if repair_images < 1:
        raise UsageError(f"repair_images={repair_images} is not possible; give 1 or more, such as {REPAIR_IMAGES}")
    method = entry_of(RANGES, "range", range)
    rounder = entry_of(ROUNDINGS, "rounding", rounding).choose
    chosen = choose_widths(model, placement, numbers, method, images, imgsz=imgsz, seen=seen, progress=progress)
    quantizers, form = chosen.quantizers, numbers.weights
    parameters = nearest_parameters(model, placement, quantizers, form, int32_bias=numbers.int32_bias)
    _check_group(form, parameters)
    errors: dict[int, tuple[float, float]] = {}
    if rounder or bias_correction:
        parameters, errors = repair_layers(
            model,
            placement,
            quantizers,
            parameters,
            images[:repair_images],
            imgsz=imgsz,
            form=form,
            rounder=rounder,
            bias=bias_correction,
            foreground=foreground,
            int32_bias=numbers.int32_bias,
            progress=progress,
        )
    return Choices(quantizers, chosen.methods, parameters, chosen.seen, errors)


def _check_group(form: WeightForm, parameters: Mapping[int, Parameters]) -> None:
    widths = sorted({p.weight.codes.shape[1] for p in parameters.values() if p.weight is not None})
    if form.group and not any(form.blocks(width) > 1 for width in widths):
        raise UsageError(
            f"weight_group={form.group} divides the inputs of no layer; they have {', '.join(map(str, widths))}: "
            "give 16 or 32, or leave it out for one scale per output channel"
        )
