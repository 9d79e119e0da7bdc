# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A PyTorch model made to compute what its Q/DQ graph will, so that training sees it.

Every `Conv` block gets a forward of its own, in which BatchNorm with its statistics as they are is folded into the
weight, as in an exported model, and quantizers stand where the graph has them. Residual additions whose inputs the
graph quantizes are replaced in the same way. The quantizers are one child of the model, `quantizers`, so that devices,
optimizers, averages and DDP find them; modules and their parameters stay what they are, and `remove` leaves no trace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from yolo_compress.errors import UnsupportedModel
from yolo_compress.host.ultralytics import SPPF, Bottleneck, Conv, PSABlock
from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.fake import ActivationQuantizer, WeightQuantizer
from yolo_compress.quantize.placement import Placement, Wiring
from yolo_compress.quantize.scheme import PASSING
from yolo_compress.quantize.weights import WeightForm

CHILD = "quantizers"


@dataclass(frozen=True)
class Site:
    """What is quantized around one convolution, by the number of the group; None where the graph has nothing.

    Attributes:
        source: What enters the convolution.
        output: What leaves it, before its activation.
        branch: What its output is added to a skip connection as.
        skip: The skip connection that its output is added to.
    """

    source: int | None = None
    output: int | None = None
    branch: int | None = None
    skip: int | None = None


def sites(wiring: Wiring, placement: Placement) -> dict[str, Site]:
    """Return the convolutions with something quantized around them by module name, groups numbered as in the placement.

    Convolutions in float are among them where they read what was quantized for others.
    """
    codes = _Codes(wiring, placement)
    residuals = _residuals(wiring, placement, codes)
    found = {}
    for layer in placement.layers:
        output = wiring.nodes[layer.node].output[0]
        behind = codes.group_of[output] if output in codes.read else None
        site = Site(codes.at(layer.node, 0), behind, *residuals.get(layer.name, (None, None)))
        if site != Site():
            found[layer.name] = site
    return found


class _Codes:
    """Which inputs of a graph's operations bring what codes stand for, and under which group's scale."""

    def __init__(self, wiring: Wiring, placement: Placement) -> None:
        self.wiring, self.placement = wiring, placement
        self.group_of = {name: index for index, group in enumerate(placement.groups) for name in group.tensors}
        self.read = {wiring.nodes[index].input[position] for index, position in placement.reads}

    def at(self, index: int, position: int) -> int | None:
        """Return the group of an input, which operations may have passed on; None where it is float."""
        name = self.wiring.nodes[index].input[position]
        if (index, position) in self.placement.reads:
            return self.group_of[name]
        maker = self.wiring.makers.get(name)
        if maker is None or self.wiring.nodes[maker].op_type not in PASSING:
            return None
        found = {self.at(maker, before) for before, _ in self.wiring.data_inputs(maker)}
        return found.pop() if len(found) == 1 else None


def _residuals(wiring: Wiring, placement: Placement, codes: _Codes) -> dict[str, tuple[int | None, int | None]]:
    """Return, by the convolution whose output is added, the groups of that output and of the skip, where they are."""
    names = {layer.node: layer.name for layer in placement.layers}
    found = {}
    for index, node in enumerate(wiring.nodes):
        if node.op_type != "Add":
            continue
        groups = {
            position: codes.at(index, position)
            for position, name in wiring.data_inputs(index)
            if wiring.nodes[wiring.makers.get(name, index)].op_type != "Conv"  # its own site has that
        }
        if all(group is None for group in groups.values()):
            continue
        # of two inputs, the branch is the one that is made later
        order = sorted(wiring.data_inputs(index), key=lambda entry: wiring.makers.get(entry[1], -1))
        (skip, _), (branch, made) = order
        found[names[_convolution_before(wiring, made)]] = (groups.get(branch), groups.get(skip))
    return found


def _convolution_before(wiring: Wiring, tensor: str) -> int:
    """Return the convolution that makes a tensor, through its activation."""
    index = wiring.makers[tensor]
    while wiring.nodes[index].op_type != "Conv":
        index = next(wiring.makers[name] for _, name in wiring.data_inputs(index) if name in wiring.makers)
    return index


@dataclass(frozen=True)
class Start:
    """What quantization of a model begins with, and what it has come to.

    Attributes:
        sites: Convolutions with something quantized around them, by module name.
        activations: The quantizer of each group.
        weights: Scales (output channels, blocks) of the quantized convolutions by module name.
        form: Of the weights.
    """

    sites: Mapping[str, Site]
    activations: Sequence[Affine]
    weights: Mapping[str, np.ndarray]
    form: WeightForm

    def plain(self) -> dict[str, Any]:
        """Return it as built-in types."""
        return {
            "sites": {name: asdict(site) for name, site in self.sites.items()},
            "activations": [(float(a.scale), a.zero_point, a.signed) for a in self.activations],
            "weights": {name: scales.tolist() for name, scales in self.weights.items()},
            "form": asdict(self.form),
        }

    @staticmethod
    def read(plain: Mapping[str, Any]) -> Start:
        """Take it up from built-in types."""
        return Start(
            {name: Site(**site) for name, site in plain["sites"].items()},
            [Affine(np.float32(scale), zero, signed) for scale, zero, signed in plain["activations"]],
            {name: np.asarray(scales, np.float32) for name, scales in plain["weights"].items()},
            WeightForm(**plain["form"]),
        )


def install(model: nn.Module, start: Start) -> None:
    """Make a model compute with quantizers, in place.

    Raises:
        UnsupportedModel: A module that has to be quantized is not where Ultralytics has it.
    """
    activations = nn.ModuleList(ActivationQuantizer(affine) for affine in start.activations)
    weights = nn.ModuleList(WeightQuantizer(scales, start.form) for scales in start.weights.values())
    device = next(model.parameters()).device
    model.add_module(CHILD, nn.ModuleDict({"activations": activations, "weights": weights}).to(device))
    _bind(model, start)


def remove(model: nn.Module) -> None:
    """Take out of a model what `install` put into it."""
    if hasattr(model, CHILD):
        delattr(model, CHILD)
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), _Forward):
            del module.forward


@contextmanager
def aside(model: nn.Module, start: Start) -> Iterator[None]:
    """Take quantizers, which were begun with `start`, out of a model for a while; the same ones come back."""
    child = getattr(model, CHILD)
    remove(model)
    try:
        yield
    finally:
        model.add_module(CHILD, child)
        _bind(model, start)


def current(model: nn.Module, start: Start) -> Start:
    """Return what the quantizers of a model, which were begun with `start`, have come to."""
    child = getattr(model, CHILD)
    with torch.no_grad():
        scales = {
            name: quantizer.scales(folded(model.get_submodule(name))[0])
            for name, quantizer in zip(start.weights, child["weights"], strict=True)
        }
    return replace(start, activations=[quantizer.affine() for quantizer in child["activations"]], weights=scales)


def digest(model: nn.Module) -> str:
    """Return a hash of a model's weights in half precision, as checkpoints hold them."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            found.update(name.encode() + value.detach().cpu().half().contiguous().numpy().tobytes())
    return found.hexdigest()


def folded(block: Conv) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of a `Conv` block with its BatchNorm folded in, differentiable in what both consist of."""
    conv, norm = block.conv, block.bn
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * gain
    if conv.bias is not None:
        bias = bias + conv.bias * gain
    return conv.weight * gain[:, None, None, None], bias


class _Forward:
    """What stands in for the forward of a module; an object, so that a copy of the model gets its own."""


class _Folded(_Forward):
    """A `Conv` block as an exported model computes it."""

    def __init__(
        self,
        block: Conv,
        source: ActivationQuantizer | None,
        weight: WeightQuantizer | None,
        output: ActivationQuantizer | None,
    ) -> None:
        self.block, self.source, self.weight, self.output = block, source, weight, output

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.block.conv
        weight, bias = folded(self.block)
        x = x if self.source is None else self.source(x)
        weight = weight if self.weight is None else self.weight(weight).to(weight.dtype)
        y = functional.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return self.block.act(y if self.output is None else self.output(y))


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


# by block, its branches by their last convolution
RESIDUALS = {
    Bottleneck: {"cv2": lambda block, x: block.cv2(block.cv1(x))},
    PSABlock: {"attn.proj": lambda block, x: block.attn(x), "ffn.1": lambda block, x: block.ffn(x)},
    SPPF: {"cv2": _pooled},
}


def _bind(model: nn.Module, start: Start) -> None:
    """Give modules the forwards that use the model's quantizers."""
    child, modules = getattr(model, CHILD), dict(model.named_modules())
    weights = dict(zip(start.weights, child["weights"], strict=True))

    def quantizer(index: int | None) -> ActivationQuantizer | None:
        return None if index is None else child["activations"][index]

    for name, module in modules.items():
        if isinstance(module, Conv):  # those in float as well: BatchNorm computes with the same statistics everywhere
            site = start.sites.get(name, Site())
            module.forward = _Folded(module, quantizer(site.source), weights.get(name), quantizer(site.output))
    if strange := [name for name in start.weights if not isinstance(modules.get(name), Conv)]:
        raise UnsupportedModel(f"'{strange[0]}' is no Conv block of Ultralytics; train this model without qat")
    added = {name for name, site in start.sites.items() if (site.branch, site.skip) != (None, None)}
    for name, module in modules.items():
        if type(module) in RESIDUALS and getattr(module, "add", False):
            ends = [f"{name}.{last}" for last in RESIDUALS[type(module)]]
            around = [start.sites.get(end, Site()) for end in ends]
            additions = [_Addition(quantizer(site.branch), quantizer(site.skip)) for site in around]
            module.forward = _Residual(module, additions)
            added.difference_update(ends)
    if added:
        raise UnsupportedModel(f"'{min(added)}' ends a residual branch that is not known; train without qat")
