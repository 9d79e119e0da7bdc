# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A PyTorch model made to compute what its Q/DQ graph will, so that training sees it.

Every `Conv` block gets a forward of its own, in which BatchNorm is folded into the weight as in an exported model, and
quantizers stand where the graph has them. What BatchNorm multiplies an output channel by, its gain over its running
deviation, multiplies the scales of that channel as well: they are kept without it, so that they fit the folded weights
however the statistics move, and the codes are those of the weights before folding. While a BatchNorm module is
training, it normalizes by the statistics of the batch. Residual additions whose inputs the graph quantizes are replaced
in the same way. The quantizers are one child of the model, `quantizers`, so that devices, optimizers, averages and DDP
find them; modules and their parameters stay what they are, and `remove` leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from yolo_compress.errors import UnsupportedModel
from yolo_compress.host.ultralytics import SPPF, Bottleneck, Conv, DWConv, PSABlock
from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.fake import ActivationQuantizer, Quantizer
from yolo_compress.quantize.sites import Site
from yolo_compress.quantize.straight import weight_quantizer
from yolo_compress.quantize.weights import WeightForm

CHILD = "quantizers"
SMALLEST_GAIN = 1e-6
NO_BLOCK = "'{}' is in no Conv block of Ultralytics; train this model without qat"


@dataclass(frozen=True)
class Quantizers:
    """The quantizers of a model: where they stand and what they hold, at the beginning or later.

    Attributes:
        sites: Convolutions with something quantized around them, by module name.
        activations: The quantizer of each group.
        weights: Scales (output channels, blocks) of the quantized convolutions by module name.
        form: Of the weights.
        tables: Values of codebooks by module name, where the form has them.
    """

    sites: Mapping[str, Site]
    activations: Sequence[Affine]
    weights: Mapping[str, np.ndarray]
    form: WeightForm
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return it as built-in types."""
        return {
            "sites": {name: asdict(site) for name, site in self.sites.items()},
            "activations": [(float(a.scale), a.zero_point, a.signed, a.bits) for a in self.activations],
            "weights": {name: scales.tolist() for name, scales in self.weights.items()},
            "tables": {name: table.tolist() for name, table in self.tables.items()},
            "form": asdict(self.form),
        }

    @staticmethod
    def read(plain: Mapping[str, Any]) -> Quantizers:
        """Take it up from built-in types."""
        return Quantizers(
            {name: Site(**site) for name, site in plain["sites"].items()},
            # checkpoints from before there were other widths leave the bits out, and have no tables
            [Affine(np.float32(scale), zero, signed, *bits) for scale, zero, signed, *bits in plain["activations"]],
            {name: np.asarray(scales, np.float32) for name, scales in plain["weights"].items()},
            WeightForm(**plain["form"]),
            {name: np.asarray(table, np.float32) for name, table in plain.get("tables", {}).items()},
        )


def install(model: nn.Module, quantizers: Quantizers) -> None:
    """Make a model compute with quantizers, in place.

    Raises:
        UnsupportedModel: A module that has to be quantized is not where Ultralytics has it.
    """
    activations = nn.ModuleList(ActivationQuantizer(affine) for affine in quantizers.activations)
    weights, modules = nn.ModuleList(), dict(model.named_modules())
    for name, scales in quantizers.weights.items():
        if type(modules.get(name)) in FOLDED:  # anything else is refused below
            scales = _unfolded(modules[name], scales, quantizers.form)
        weights.append(weight_quantizer(scales, quantizers.form, quantizers.tables.get(name)))
    device = next(model.parameters()).device
    model.add_module(CHILD, nn.ModuleDict({"activations": activations, "weights": weights}).to(device))
    _bind(model, quantizers)


def remove(model: nn.Module) -> None:
    """Take out of a model what `install` put into it."""
    if hasattr(model, CHILD):
        delattr(model, CHILD)
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), _Forward):
            del module.forward


@contextmanager
def aside(model: nn.Module, quantizers: Quantizers) -> Iterator[None]:
    """Take the quantizers that began as these out of a model for a while; the same ones come back."""
    child = getattr(model, CHILD)
    remove(model)
    try:
        yield
    finally:
        model.add_module(CHILD, child)
        _bind(model, quantizers)


def current(model: nn.Module, quantizers: Quantizers) -> Quantizers:
    """Return what the quantizers of a model, which were begun with these, have come to."""
    child = getattr(model, CHILD)
    with torch.no_grad():
        of_weights = dict(zip(quantizers.weights, child["weights"], strict=True))
        scales = {name: _scales(model.get_submodule(name), found) for name, found in of_weights.items()}
        tables = {name: table for name, found in of_weights.items() if (table := found.values_of_table()) is not None}
        activations = [quantizer.affine() for quantizer in child["activations"]]
    return replace(quantizers, activations=activations, weights=scales, tables=tables)


def hold_statistics(model: nn.Module) -> None:
    """Make every BatchNorm keep and use the statistics that it has, until the model is told to train again."""
    for module in model.modules():
        if type(module) in FOLDED:
            module.bn.eval()


def set_folded_(model: nn.Module, name: str, weight: np.ndarray, bias: np.ndarray) -> None:
    """Give a `Conv` block what makes its folded convolution have these parameters, in place.

    Channels that BatchNorm multiplies by nothing keep their weights: no value of theirs would show.

    Args:
        name: Of the block.
        weight: (outputs, inputs, height, width), folded.
        bias: (outputs,), folded.

    Raises:
        UnsupportedModel: It is no `Conv` block.
    """
    block = model.get_submodule(name)
    if type(block) not in FOLDED:
        raise UnsupportedModel(NO_BLOCK.format(name))
    with torch.no_grad():
        gain, now = _gain(block.bn), block.conv.weight
        alive = (gain.abs() >= SMALLEST_GAIN)[:, None, None, None]
        wanted = torch.from_numpy(weight).to(now) / torch.where(alive, gain[:, None, None, None], 1.0)
        now.copy_(torch.where(alive, wanted, now))
        block.bn.bias += torch.from_numpy(bias).to(now) - _bias(block, gain)


def _gain(norm: nn.BatchNorm2d) -> torch.Tensor:
    return norm.weight / torch.sqrt(norm.running_var + norm.eps)


def _sign(gain: torch.Tensor) -> torch.Tensor:
    """Return 1 or -1 for each output channel, for weights (outputs, inputs, height, width); codes may lie lopsided."""
    return torch.where(gain < 0, -1.0, 1.0)[:, None, None, None]


def _unfolded(block: Conv, scales: np.ndarray, form: WeightForm) -> np.ndarray:
    """Return the scales of folded weights (outputs, blocks) without what BatchNorm multiplies a channel by."""
    if form.entry.cast:
        return scales
    gain = _gain(block.bn).detach().abs().cpu().float().numpy()[:, None]
    peaks = block.conv.weight.detach().abs().amax((1, 2, 3)).cpu().float().numpy()[:, None]
    dead = gain < SMALLEST_GAIN  # the folded weights say nothing of the ones that training may bring back
    return np.where(dead, np.maximum(peaks, SMALLEST_GAIN) / form.highest, scales / np.maximum(gain, SMALLEST_GAIN))


def _scales(block: Conv, quantizer: Quantizer) -> np.ndarray:
    """Return the scales (outputs, blocks) of the folded weights of a block."""
    gain = _gain(block.bn)
    found = quantizer.scales(block.conv.weight * _sign(gain))
    return found if quantizer.absolute else found * gain.abs().cpu().numpy()[:, None].astype(np.float32)


def _bias(block: Conv, gain: torch.Tensor) -> torch.Tensor:
    bias = block.bn.bias - block.bn.running_mean * gain
    return bias if block.conv.bias is None else bias + block.conv.bias * gain


class _Forward:
    """What stands in for the forward of a module; an object, so that a copy of the model gets its own."""


class _Folded(_Forward):
    """A `Conv` block as an exported model computes it."""

    def __init__(
        self,
        block: Conv,
        source: ActivationQuantizer | None,
        weight: Quantizer | None,
        output: ActivationQuantizer | None,
    ) -> None:
        self.block, self.source, self.weight, self.output = block, source, weight, output

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        conv, norm = self.block.conv, self.block.bn
        x = x if self.source is None else self.source(x)
        if norm.training:
            weight, bias = self._weight(None), conv.bias
        else:
            gain = _gain(norm)
            weight, bias = self._weight(gain), _bias(self.block, gain)
        y = functional.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        y = norm(y) if norm.training else y
        return self.block.act(y if self.output is None else self.output(y))

    def _weight(self, gain: torch.Tensor | None) -> torch.Tensor:
        """Return the quantized weight, folded with a gain where one is given."""
        weight = self.block.conv.weight
        if self.weight is None or self.weight.absolute:
            weight = weight if gain is None else weight * gain[:, None, None, None]
            return weight if self.weight is None else self.weight(weight).to(weight.dtype)
        sign = _sign(_gain(self.block.bn).detach() if gain is None else gain)
        after = sign if gain is None else gain.abs()[:, None, None, None]
        return (self.weight(weight * sign) * after).to(weight.dtype)


class _Addition:
    """A residual addition whose inputs are quantized where the graph has it so."""

    def __init__(self, branch: ActivationQuantizer | None, skip: ActivationQuantizer | None) -> None:
        self.branch, self.skip = branch, skip

    def __call__(self, skip: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        skip = skip if self.skip is None else self.skip(skip)
        return skip + (branch if self.branch is None else self.branch(branch))


class _Residual(_Forward):
    """A block that adds its input to the output of its branch, or of one after the other."""

    def __init__(self, block: nn.Module, additions: Sequence[_Addition]) -> None:
        self.block, self.additions = block, list(additions)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for addition, branch in zip(self.additions, RESIDUALS[type(self.block)].values(), strict=True):
            x = addition(x, branch(self.block, x))
        return x


def _pooled(block: SPPF, x: torch.Tensor) -> torch.Tensor:
    levels = [block.cv1(x)]
    for _ in range(getattr(block, "n", 3)):
        levels.append(block.m(levels[-1]))
    return block.cv2(torch.cat(levels, 1))


FOLDED = (Conv, DWConv)  # by exact type: a subclass may compute something else
# by block, its branches by their last convolution
RESIDUALS = {
    Bottleneck: {"cv2": lambda block, x: block.cv2(block.cv1(x))},
    PSABlock: {"attn.proj": lambda block, x: block.attn(x), "ffn.1": lambda block, x: block.ffn(x)},
    SPPF: {"cv2": _pooled},
}


def _bind(model: nn.Module, quantizers: Quantizers) -> None:
    """Give modules the forwards that use the model's quantizers."""
    child, modules = getattr(model, CHILD), dict(model.named_modules())
    weights = dict(zip(quantizers.weights, child["weights"], strict=True))

    def quantizer(index: int | None) -> ActivationQuantizer | None:
        return None if index is None else child["activations"][index]

    blocks = {name: module for name, module in modules.items() if type(module) in FOLDED}
    loose = {name for name, module in modules.items() if isinstance(module, nn.BatchNorm2d)}
    loose -= {f"{name}.bn" for name in blocks}
    if strange := sorted(loose | {name for name in quantizers.weights if name not in blocks}):
        raise UnsupportedModel(NO_BLOCK.format(strange[0]))
    for name, block in blocks.items():  # those in float as well: BatchNorm has the same statistics everywhere
        site = quantizers.sites.get(name, Site())
        block.forward = _Folded(block, quantizer(site.source), weights.get(name), quantizer(site.output))
    added = {name for name, site in quantizers.sites.items() if (site.branch, site.skip) != (None, None)}
    for name, module in modules.items():
        if type(module) in RESIDUALS and getattr(module, "add", False):
            ends = [f"{name}.{last}" for last in RESIDUALS[type(module)]]
            around = [quantizers.sites.get(end, Site()) for end in ends]
            additions = [_Addition(quantizer(site.branch), quantizer(site.skip)) for site in around]
            module.forward = _Residual(module, additions)
            added.difference_update(ends)
    if added:
        raise UnsupportedModel(f"'{min(added)}' ends a residual branch that is not known; train without qat")
