# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What quantization-aware training leaves in a checkpoint, and how a float graph of it is quantized."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from yolo_compress.errors import UnsupportedModel, UsageError
from yolo_compress.host.checkpoint import facts
from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.emulation import Quantizers
from yolo_compress.quantize.format import FORMAT_OPTIONS, format_of
from yolo_compress.quantize.graph import Parameters, float_parameters
from yolo_compress.quantize.placement import Group, Placement, Wiring, place
from yolo_compress.quantize.result import Choices, QuantizeResult, write_result
from yolo_compress.quantize.source import read_float
from yolo_compress.quantize.weights import WeightForm, with_scales
from yolo_compress.quantize.widths import placed
from yolo_compress.recipe import QuantizeSection

if TYPE_CHECKING:
    import onnx

FACT = "qat"  # among the facts of a model
STORED = "weight_storage"  # the one option of the form that can still be chosen, since it changes no value
FORM = ("keep", *(name for name in FORMAT_OPTIONS if name != STORED))  # options that training has settled
REPAIR = ("rounding", "bias_correction", "repair_images", "foreground")
SETTLED = (*FORM, "range", *REPAIR, "max_drop", "latency")  # and what scales were begun with


@dataclass(frozen=True)
class Learned:
    """Scales that training has learned.

    Attributes:
        options: The options of quantization that the run had.
        activations: Scale and zero point of each group, by the names of its tensors.
        weights: Scales (output channels, blocks) by module name.
        tables: Values of a codebook, in scales, by module name; empty without codebooks.
        form: Of the weights.
        digest: Of the weights that they were learned with.
    """

    options: QuantizeSection
    activations: Mapping[tuple[str, ...], Affine]
    weights: Mapping[str, np.ndarray]
    tables: Mapping[str, np.ndarray]
    form: WeightForm
    digest: str

    @staticmethod
    def of(model: nn.Module, now: Quantizers, groups: Sequence[tuple[str, ...]], options: QuantizeSection) -> Learned:
        """Take down what the quantizers of a model, which is without them now, have come to."""
        activations = dict(zip(groups, now.activations, strict=True))
        return Learned(options, activations, now.weights, now.tables, now.form, digest(model))

    def plain(self) -> dict[str, Any]:
        """Return it as built-in types."""
        return {
            **Quantizers({}, list(self.activations.values()), self.weights, self.form, self.tables).plain(),
            "groups": [list(names) for names in self.activations],
            "options": self.options.model_dump(mode="json"),
            "digest": self.digest,
        }

    @staticmethod
    def read(model: nn.Module) -> Learned | None:
        """Return what a model from a checkpoint carries, None where it carries nothing."""
        plain = facts(model).get(FACT)
        if not plain:
            return None
        start = Quantizers.read(plain)
        activations = dict(zip((tuple(names) for names in plain["groups"]), start.activations, strict=True))
        options = QuantizeSection.model_validate(plain["options"])
        return Learned(options, activations, start.weights, start.tables, start.form, plain["digest"])

    def fits(self, model: nn.Module) -> bool:
        """Tell whether a model has the weights that the scales were learned with."""
        return digest(model) == self.digest

    def check(self, given: QuantizeSection) -> None:
        """Refuse options that say otherwise than training did.

        Raises:
            UsageError: There is such an option.
        """
        for name in sorted(given.model_fields_set.intersection(SETTLED)):
            wanted, trained = getattr(given, name), getattr(self.options, name)
            if name == "weight_bits":  # None stands for what the kind of the weights has when nothing is said
                wanted, trained = (self.form.bits if bits is None else bits for bits in (wanted, trained))
            if wanted != trained:
                raise UsageError(
                    f"the checkpoint was trained for {name}={trained} and {name}={wanted} was given; leave it out, or "
                    "give learned=False to choose everything anew"
                )

    def quantizers(self, placement: Placement) -> dict[Group, Affine]:
        """Return the quantizer of each group of a graph of the model.

        Raises:
            UnsupportedModel: The graph has other groups than the one that was trained.
        """
        strange = {group.tensors for group in placement.groups}.symmetric_difference(self.activations)
        if strange:
            raise UnsupportedModel(
                f"the graph of this checkpoint does not have the tensors that it was trained with, such as "
                f"{next(iter(strange))[0]}: another version of Ultralytics exports it; give learned=False"
            )
        return {group: self.activations[group.tensors] for group in placement.groups}

    def parameters(self, model: onnx.ModelProto, placement: Placement) -> dict[int, Parameters]:
        """Return the parameters of every convolution of a graph, weights on the learned scales."""
        wiring, found = Wiring(model.graph), {}
        for layer in placement.layers:
            weight, bias = float_parameters(wiring, layer.node)
            codes = None
            if not layer.why:
                codes = with_scales(weight, self.weights[layer.name], self.form, self.tables.get(layer.name))
            found[layer.node] = Parameters(codes, bias)
        return found


def digest(model: nn.Module) -> str:
    """Return a hash of a model's weights in half precision, as checkpoints hold them."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            found.update(name.encode() + value.detach().cpu().half().contiguous().numpy().tobytes())
    return found.hexdigest()


def quantize_learned(source: Path, out: Path, learned: Learned, *, weight_storage: str = "bytes") -> QuantizeResult:
    """Quantize the float ONNX of a model that was trained for it, on the scales that training has learned.

    Args:
        source: The float ONNX.
        out: The Q/DQ ONNX to write.
        learned: What training has left.
        weight_storage: `bytes`, or `packed` for codes of at most 4 bits, two to a byte.

    Raises:
        DataError: There is no such file, or it cannot be read.
        UnsupportedModel: It is not a graph of the model that was trained.
        UsageError: The codes cannot be packed, or the target cannot run that.
        OutputError: `out` cannot be written.
    """
    numbers = format_of(learned.options.model_copy(update={STORED: weight_storage}))
    model = read_float(source)
    placement = placed(place(model.graph, numbers.scheme, keep=learned.options.keep), numbers)
    quantizers = learned.quantizers(placement)
    methods = dict.fromkeys(quantizers, "learned")
    made = Choices(quantizers, methods, learned.parameters(model, placement))
    notes = ["scales are those that training has learned; no images were looked at"]
    facts_ = {name: getattr(learned.options, name) for name in FORM}
    facts_ |= {"weight_bits": learned.form.bits, STORED: weight_storage, "range": "learned"}
    return write_result(model, placement, numbers, made, out, facts=facts_, images=0, notes=notes)
