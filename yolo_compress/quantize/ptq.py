# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantization without training: a float ONNX becomes one Q/DQ ONNX in the form that a runtime wants."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from yolo_compress.artifacts import atomic_write
from yolo_compress.errors import DataError, UnsupportedModel, UsageError, require
from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.auto import best_by_output
from yolo_compress.quantize.calibration import observe
from yolo_compress.quantize.graph import Parameters, insert, nearest_parameters, source_tensor
from yolo_compress.quantize.histogram import Histogram
from yolo_compress.quantize.placement import Group, Placement, Wiring, place
from yolo_compress.quantize.ranges import FUNCTIONS, RANGES, Form, RangeMethod, relative_error
from yolo_compress.quantize.repair import repair_layers
from yolo_compress.quantize.rounding import ROUNDINGS
from yolo_compress.quantize.scheme import SCHEMES, Scheme
from yolo_compress.quantize.weights import WeightForm

if TYPE_CHECKING:
    import onnx

REPAIR_IMAGES = 64  # of the calibration set; each is looked at at many positions
TRIAL_IMAGES = 16  # of them, that ranges are compared on where layers decide
FEW_IMAGES = 100  # below this, ranges depend visibly on which images were drawn
Entry = TypeVar("Entry")
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger")


@dataclass(frozen=True)
class LayerRow:
    """What became of one convolution.

    Attributes:
        name: Module name, such as model.2.cv1.
        precision: `int8` or `fp32`.
        weight: Form of the weight.
        activation: Range of its input that codes stand for, None in float.
        method: How that range was chosen.
        error: Energy of its input's quantization error as a share of the input's energy, None in float.
        output_error: The same of its output behind the activation, before and after repair, None without repair.
        why: What keeps it in float, empty where it is quantized.
    """

    name: str
    precision: str
    weight: str
    activation: tuple[float, float] | None
    method: str
    error: float | None
    output_error: tuple[float, float] | None
    why: str


@dataclass(frozen=True)
class QuantizeResult:
    """A Q/DQ ONNX and how it came about; `images` counts the calibration images."""

    path: Path
    layers: tuple[LayerRow, ...]
    notes: tuple[str, ...]
    images: int


@dataclass(frozen=True)
class Ranges:
    """The quantizer of each group of tensors, the method that chose it, and what was seen of the group."""

    quantizers: Mapping[Group, Affine]
    methods: Mapping[Group, str]
    seen: Mapping[Group, Histogram]


def quantize_onnx(
    source: Path,
    out: Path,
    *,
    images: Sequence[Path],
    imgsz: int,
    target: str = "openvino",
    range: str = "mse",
    keep: Sequence[str] = (),
    weight_bits: int = 8,
    weight_group: int | None = None,
    rounding: str = "nearest",
    bias_correction: bool = False,
    avoid_overflow: bool | None = None,
    seen: dict[Group, Histogram] | None = None,
    progress: Callable[[str], None] | None = None,
) -> QuantizeResult:
    """Quantize a float ONNX to INT8 and write it with the metadata that it had.

    Args:
        source: A detector exported by Ultralytics, float32, BatchNorm folded.
        out: The Q/DQ ONNX to write.
        images: Calibration images; they must not be the ones that accuracy is measured on.
        imgsz: Side of the square input in pixels.
        target: Runtime whose scheme is followed; see `SCHEMES`.
        range: How activation ranges are chosen; see `RANGES`.
        keep: Layers left in float, by module name or prefix.
        weight_bits: Of a weight's code, 2 to 8. Codes of fewer than 8 bits are stored in bytes all the same.
        weight_group: Input channels that share a weight scale; a whole output channel has one when not given, and in
            layers whose inputs it does not divide.
        rounding: How codes of weights are chosen; see `ROUNDINGS`.
        bias_correction: Add to biases by how much outputs are too low on the images, layer by layer.
        avoid_overflow: Scale weights so that CPUs without VNNI cannot saturate; the scheme decides when not given, not
            the CPU that quantizes, since files travel.
        seen: What earlier calls with the same model, images and size have seen of groups of tensors; added to.
        progress: Takes a line now and then.

    Raises:
        UsageError: Unknown target, range, rounding or layer to keep, bits out of range, a group that divides no layer,
            another image size, or a model that is quantized already.
        DataError: No images, an unreadable one, or no such model.
        UnsupportedModel: Not a float detector of Ultralytics, or activations that are not finite.
        OutputError: `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    scheme = entry_of(SCHEMES, "target", target)
    method = entry_of(RANGES, "range", range)
    adaptive = entry_of(ROUNDINGS, "rounding", rounding).adaptive
    if not 2 <= weight_bits <= 8:
        raise UsageError(f"weight_bits={weight_bits} is not possible; give 2 to 8")
    model = read_float(source)
    placement = place(model.graph, scheme, keep=keep)
    chosen = choose_ranges(model, placement, scheme, method, images, imgsz=imgsz, seen=seen, progress=progress)
    quantizers = chosen.quantizers
    safe = scheme.avoid_overflow if avoid_overflow is None else avoid_overflow
    weights = WeightForm(weight_bits, weight_group, safe)
    parameters = nearest_parameters(model, placement, quantizers, weights, int32_bias=scheme.int32_bias)
    _check_group(weights, parameters)
    errors: dict[int, tuple[float, float]] = {}
    if adaptive or bias_correction:
        parameters, errors = repair_layers(
            model,
            placement,
            quantizers,
            parameters,
            images[:REPAIR_IMAGES],
            imgsz=imgsz,
            form=weights,
            rounding=adaptive,
            bias=bias_correction,
            int32_bias=scheme.int32_bias,
            progress=progress,
        )
    result = insert(model, placement, quantizers, parameters, int32_bias=scheme.int32_bias)
    facts = {
        "target": target,
        "range": range,
        "images": len(images),
        "keep": list(keep),
        "weight_bits": weight_bits,
        "weight_group": weight_group,
        "rounding": rounding,
        "bias_correction": bias_correction,
        "avoid_overflow": safe,
    }
    entry = result.metadata_props.add()
    entry.key, entry.value = "yolo_compress", json.dumps(facts)
    atomic_write(out, result.SerializeToString())
    rows = _rows(model, placement, chosen, parameters, errors, weights)
    return QuantizeResult(out, rows, tuple(_notes(len(images), rows, scheme, weights)), len(images))


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
    decided: dict[Group, str] = {}
    if method.choose is None:
        decided = best_by_output(model, placement, tried, images[:TRIAL_IMAGES], imgsz=imgsz, progress=progress)
    # what no quantized layer reads is decided by the tensor itself
    methods = {group: decided.get(group) or _least_error(group, seen[group], tried[group]) for group in seen}
    return Ranges({group: tried[group][name] for group, name in methods.items()}, methods, seen)


def _tried(group: Group, seen: Histogram, form: Form, method: RangeMethod) -> dict[str, Affine]:
    """Return the quantizers that a group may get, by the name of the method: one, unless layers are to decide."""
    if group.fixed:
        return {"fixed": form.quantizer(*group.fixed)}
    through = FUNCTIONS.get(group.through)
    entries = [method] if method.choose else RANGES.values()
    return {entry.name: form.quantizer(*entry.choose(seen, form, through)) for entry in entries if entry.choose}


def _least_error(group: Group, seen: Histogram, tried: Mapping[str, Affine]) -> str:
    through = FUNCTIONS.get(group.through)
    return min(tried, key=lambda name: relative_error(seen, tried[name], through))


def _check_group(form: WeightForm, parameters: Mapping[int, Parameters]) -> None:
    widths = sorted({p.weight.codes.shape[1] for p in parameters.values() if p.weight is not None})
    if form.group and not any(form.blocks(width) > 1 for width in widths):
        raise UsageError(
            f"weight_group={form.group} divides the inputs of no layer; they have {', '.join(map(str, widths))}: "
            "give 16 or 32, or leave it out for one scale per output channel"
        )


def entry_of(registry: Mapping[str, Entry], key: str, name: str) -> Entry:
    """Return what a registry holds under a name.

    Raises:
        UsageError: It holds nothing of that name.
    """
    if name not in registry:
        close = difflib.get_close_matches(name, registry, n=1)
        hint = f"did you mean {key}={close[0]}?" if close else f"choose from {', '.join(registry)}"
        raise UsageError(f"{key}={name} is not known; {hint}")
    return registry[name]


def read_float(path: Path) -> onnx.ModelProto:
    """Read a detector that Ultralytics exported to float ONNX.

    Raises:
        DataError: There is no such file, or it cannot be read.
        UsageError: It is quantized already.
        UnsupportedModel: It is something else.
    """
    onnx = require("onnx", extra="onnx", purpose="quantization")
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; export one with: yolo export format=onnx")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker have hierarchies of their own
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"'{path}' is not a readable ONNX file ({reason}); export it again") from error
    kinds = {node.op_type for node in model.graph.node}
    task = next((item.value for item in model.metadata_props if item.key == "task"), None)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if found := sorted(kinds.intersection(QUANTIZED)):
        raise UsageError(
            f"'{path}' is quantized already (it has {found[0]} nodes); give the float ONNX or the checkpoint"
        )
    if task != "detect":
        raise UnsupportedModel(
            f"'{path}' says task={task} in its metadata; give a detector from: yolo export format=onnx"
        )
    if model.graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UnsupportedModel(f"'{path}' does not take float32 images; export it without quantize=16")
    if "BatchNormalization" in kinds:
        raise UnsupportedModel(f"'{path}' has unfolded BatchNorm layers; export it with: yolo export format=onnx")
    if opset < 13:
        raise UnsupportedModel(f"'{path}' uses opset {opset}, before weights had a scale per channel; export opset=17")
    return model


def _rows(
    model: onnx.ModelProto,
    placement: Placement,
    chosen: Ranges,
    parameters: Mapping[int, Parameters],
    errors: Mapping[int, tuple[float, float]],
    form: WeightForm,
) -> tuple[LayerRow, ...]:
    wiring = Wiring(model.graph)
    groups = {name: group for group in chosen.quantizers for name in group.tensors}
    rows = []
    for layer in placement.layers:
        weight = parameters[layer.node].weight
        if weight is None:
            rows.append(LayerRow(layer.name, "fp32", "fp32", None, "", None, None, layer.why))
            continue
        group = groups[source_tensor(wiring, wiring.nodes[layer.node].input[0], groups)]
        error = relative_error(chosen.seen[group], chosen.quantizers[group])
        words = form.words(weight.scales.shape[1])
        limits, after = chosen.quantizers[group].limits, errors.get(layer.node)
        rows.append(LayerRow(layer.name, "int8", words, limits, chosen.methods[group], error, after, ""))
    return tuple(rows)


def _notes(images: int, rows: Sequence[LayerRow], scheme: Scheme, form: WeightForm) -> list[str]:
    floating = sum(row.precision == "fp32" for row in rows)
    notes = [f"{len(rows) - floating} of {len(rows)} convolutions are int8, {floating} stay in float"]
    if images < FEW_IMAGES:
        notes.append(f"ranges come from {images} images; from {FEW_IMAGES} on they hardly depend on which ones")
    if form.bits < 8:
        notes.append(f"weights have {form.bits} bits and are stored in bytes: a simulation, no smaller and no faster")
    if scheme.avoid_overflow and not form.avoid_overflow:
        notes.append("weights use all codes: on x86 CPUs without VNNI, sums saturate and accuracy is lost")
    return notes
