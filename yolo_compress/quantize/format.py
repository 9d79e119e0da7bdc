# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What numbers a quantized model holds, which of them a target can run, and what is a simulation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from yolo_compress.engines.codes import TAKEN
from yolo_compress.errors import UsageError, entry_of, suggest
from yolo_compress.quantize.forms import WEIGHT_FORMS
from yolo_compress.quantize.ranges import HALF_BINS
from yolo_compress.quantize.scheme import SCHEMES, Scheme
from yolo_compress.quantize.weights import WeightForm
from yolo_compress.recipe import QuantizeSection

ACTIVATIONS = ("static", "dynamic", "none")
STORAGES = ("bytes", "packed")
LEAST_BINS_PER_LEVEL = 4  # below that the divergence of a histogram from its quantized form says nothing


@dataclass(frozen=True)
class NumberFormat:
    """The numbers of a quantized model.

    Attributes:
        scheme: Of the target.
        weights: Form of the weights.
        packed: Whether codes of weights are stored two to a byte.
        activations: `static` ranges from calibration, `dynamic` ones found at run time, or `none`: float.
        activation_bits: Of a static code.
    """

    scheme: Scheme
    weights: WeightForm
    packed: bool = False
    activations: str = "static"
    activation_bits: int = 8

    @property
    def static(self) -> bool:
        """Whether activations have ranges that calibration chooses."""
        return self.activations == "static"

    @property
    def int32_bias(self) -> bool:
        """Whether biases are codes: where the target wants that, and multiplies codes."""
        # packed weights have the biases of those in bytes, so that both compute the same
        bytes_ = multiplies_bytes(self.weights, self.activations, self.activation_bits)
        return self.scheme.int32_bias and self.static and bytes_

    @property
    def multiplies_bytes(self) -> bool:
        """Whether a runtime may multiply codes of eight bits by codes of eight bits."""
        return multiplies_bytes(self.weights, self.activations, self.activation_bits) and not self.packed

    @property
    def types(self) -> dict[str, str]:
        """The ONNX types of the codes of `weights` and of `activations`, as far as there are codes."""
        found = {}
        if not self.weights.entry.cast:
            sign = "U" if self.weights.kind == "codebook" else ""
            size = 4 if self.packed else 8 if sign or self.weights.in_bytes else 16
            found["weights"] = f"{sign}INT{size}"
        if self.static:
            wide = self.activation_bits > 8
            found["activations"] = ("" if self.scheme.signed or wide else "U") + ("INT16" if wide else "INT8")
        return found

    @property
    def precision(self) -> str:
        """What the layer table calls a quantized convolution: by the codes of its input, or by the weights alone."""
        return "weights" if self.activations == "none" else f"int{self.activation_bits}"

    def notes(self) -> Iterator[str]:
        """Say what is smaller or faster, and what is a simulation."""
        form, target = self.weights, self.scheme.name
        if self.packed:
            yield "weights are stored two to a byte, and runtimes make floats of them: smaller, computed in float"
        elif form.entry.cast:
            yield f"weights are stored as {form.entry.cast} and computed with in float: half the size, no faster"
        elif form.kind == "codebook":
            yield "weights are places in a table, in bytes, that become floats on loading: smaller, computed in float"
        elif not form.in_bytes:
            yield f"weights have {form.bits} bits and are stored in two bytes: a simulation, computed in float"
        elif form.kind != "uniform":
            yield f"weights are {form.kind} and stored in bytes: a simulation, no smaller and no faster than int8"
        elif form.bits < 8:
            yield f"weights have {form.bits} bits and are stored in bytes: a simulation, no smaller and no faster"
        if self.activations == "none":
            yield "activations stay in float, so convolutions are computed in float: smaller, and no faster"
        elif self.static and self.activation_bits != 8:
            yield f"activations have {self.activation_bits} bits: a simulation, whose convolutions run in float or int8"
        for what, kind in self.types.items():
            if kind not in getattr(TAKEN[target], what):
                yield f"{target} cannot run {what} of type {kind}, and no engine for it is built from this file"
        if self.scheme.avoid_overflow and not form.avoid_overflow and self.multiplies_bytes:
            yield "weights use all codes: on x86 CPUs without VNNI, sums saturate and accuracy is lost"


def number_format(
    *,
    target: str,
    weight_form: str = "uniform",
    weight_bits: int | None = None,
    weight_group: int | None = None,
    weight_storage: str = "bytes",
    activations: str = "static",
    activation_bits: int = 8,
    avoid_overflow: bool | None = None,
    range: str = "mse",
    rounding: str = "nearest",
) -> NumberFormat:
    """Return the numbers that a set of options asks for.

    Raises:
        UsageError: An option is unknown or out of range, two do not go together, or the target cannot run it.
    """
    scheme = entry_of(SCHEMES, "target", target)
    kind = entry_of(WEIGHT_FORMS, "weight_form", weight_form)
    for key, given, known in (
        ("weight_storage", weight_storage, STORAGES),
        ("activations", activations, ACTIVATIONS),
    ):
        if given not in known:
            raise UsageError(f"{key}={given} is not known; {suggest(given, known)}")
    bits = kind.default_bits if weight_bits is None else weight_bits
    if bits not in kind.bits:
        wanted = f"{kind.bits[0]} to {kind.bits[-1]}" if len(kind.bits) > 1 else f"{kind.bits[0]}, or leave it out"
        named = "" if weight_form == "uniform" else f" with weight_form={weight_form}"
        raise UsageError(f"weight_bits={bits} is not possible{named}; give {wanted}")
    form = WeightForm(bits, weight_group, kind=weight_form)
    saturates = scheme.avoid_overflow and multiplies_bytes(form, activations, activation_bits)
    form = replace(form, avoid_overflow=saturates if avoid_overflow is None else avoid_overflow)
    made = NumberFormat(scheme, form, weight_storage == "packed", activations, activation_bits)
    _check_weights(made, rounding)
    _check_activations(made, range)
    return made


def multiplies_bytes(form: WeightForm, activations: str, activation_bits: int) -> bool:
    """Tell whether both factors of a convolution are codes of at most eight bits."""
    return form.in_bytes and activations != "none" and activation_bits <= 8


def format_of(section: QuantizeSection) -> NumberFormat:
    """Return the numbers that a section of a recipe asks for.

    Raises:
        UsageError: Two options do not go together, or the target cannot run them.
    """
    return number_format(**format_options(section), range=section.range, rounding=section.rounding)


def format_options(section: QuantizeSection) -> dict[str, Any]:
    """Return the options of a section that say what numbers a model holds."""
    return {name: getattr(section, name) for name in FORMAT_OPTIONS}


FORMAT_OPTIONS = (
    "target",
    "weight_form",
    "weight_bits",
    "weight_group",
    "weight_storage",
    "activations",
    "activation_bits",
)


def _check_weights(made: NumberFormat, rounding: str) -> None:
    form, target = made.weights, made.scheme.name
    if form.entry.cast and form.group:
        raise UsageError(f"weight_form={form.kind} has no scales for weight_group={form.group} to divide; leave it out")
    if form.entry.cast and rounding != "nearest":
        raise UsageError(f"weight_form={form.kind} has no codes that rounding={rounding} could choose; leave it out")
    if not made.packed:
        return
    if form.entry.cast or not form.fits_int4:
        raise UsageError(
            f"weight_storage=packed holds codes of at most 4 bits, and {form.words(1)} weights have larger ones; give "
            "weight_bits=4 (3 for pow2), or weight_storage=bytes"
        )
    if "INT4" not in TAKEN[target].weights:
        raise UsageError(
            f"{target} cannot run convolutions with weights that are stored in 4 bits; give weight_storage=bytes, a "
            "simulation that computes the same"
        )


def _check_activations(made: NumberFormat, range: str) -> None:
    form, bits, target = made.weights, made.activation_bits, made.scheme.name
    if not 2 <= bits <= 16:
        raise UsageError(f"activation_bits={bits} is not possible; give 2 to 16")
    if not made.static and bits != 8:
        raise UsageError(f"activation_bits={bits} goes with activations=static, not {made.activations}; leave it out")
    if bits != 8 and range == "auto":
        raise UsageError(f"range=auto compares ranges of 8-bit codes, not of {bits}; give range=mse")
    if range == "entropy" and 2 ** (bits - 1) * LEAST_BINS_PER_LEVEL > HALF_BINS:
        raise UsageError(
            f"range=entropy looks at {HALF_BINS} bins, too few for codes of {bits} bits; give range=mse or range=minmax"
        )
    if made.activations != "dynamic":
        return
    if not TAKEN[target].dynamic:
        able = " or ".join(name for name in SCHEMES if TAKEN[name].dynamic)
        raise UsageError(
            f"{target} cannot multiply codes whose scale is found while the model runs; give activations=static, or "
            f"target={able}"
        )
    if made.packed or form.group or not form.in_bytes:
        raise UsageError(
            "activations=dynamic multiplies weights of at most 8 bits in bytes under one scale per output channel; "
            f"leave out weight_group and weight_storage, and give weight_form=uniform instead of {form.words(1)} where "
            "it has wider codes or none"
        )
