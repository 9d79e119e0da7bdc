# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The interpreter that replays a model on channel variables, and the primitives that block rules are written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from yolo_compress.errors import UnsupportedModel

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Feature:
    """A feature map: one variable per channel, and its size in pixels."""

    channels: IntArray
    height: int
    width: int

    def with_channels(self, channels: IntArray) -> Feature:
        """Return a map of the same size with other channels."""
        return Feature(channels, self.height, self.width)


Value = Feature | list[Feature]
Rule = Callable[..., Value]  # (tracer, name, module, value) -> value


@dataclass(frozen=True)
class Convolution:
    """A convolution and the channels it reads and writes.

    Attributes:
        name: Of the `nn.Conv2d` inside the model.
        layer: What reports call it: the block around it where there is one.
        inputs: Variables while tracing, channel numbers in a finished graph; so are `outputs`.
        norm: Name of the BatchNorm that directly follows, or None.
        depthwise: Each filter reads the one channel that it writes, so `inputs` equals `outputs`.
        groups: Of a grouped convolution, which is kept whole; else 1.
        area: Kernel height times width.
        positions: Output height times width at the image size of the graph.
        stride: Of rows; columns have the same in every supported block.
        size: (height, width) of the input at the image size of the graph.
    """

    name: str
    layer: str
    inputs: IntArray
    outputs: IntArray
    norm: str | None
    depthwise: bool
    groups: int
    area: int
    positions: int
    bias: bool
    stride: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Norm:
    """A BatchNorm and its channels."""

    name: str
    channels: IntArray
    affine: bool


@dataclass(frozen=True)
class WidthAttribute:
    """A number that a block keeps beside its weights and that must follow them, such as `C2f.c`."""

    module: str
    attribute: str
    channels: IntArray


@dataclass
class Tracer:
    """State of one symbolic execution of a model at `imgsz` pixels."""

    model: nn.Module
    imgsz: int
    rules: Mapping[type[nn.Module], Rule]
    convolutions: list[Convolution] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    attributes: list[WidthAttribute] = field(default_factory=list)
    ties: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    bundles: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    products: list[tuple[IntArray, int]] = field(default_factory=list)
    frozen: dict[int, str] = field(default_factory=dict)
    fixed_ops: int = 0
    _parents: list[int] = field(default_factory=list)
    _whole: dict[str, list[str]] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)

    def trace(self) -> None:
        """Run the layers in the order and with the inputs that Ultralytics' own forward uses."""
        first = next(m for m in self.model.modules() if isinstance(m, nn.Conv2d))
        image = Feature(self.fresh(first.in_channels), self.imgsz, self.imgsz)
        self.freeze(image.channels, "image channels")
        outputs: list[Value] = []
        value: Value = image
        for layer in self.model.model:
            sources = [layer.f] if isinstance(layer.f, int) else layer.f
            given = [value if source == -1 else outputs[source] for source in sources]
            value = self.run(f"model.{layer.i}", layer, given[0] if isinstance(layer.f, int) else given)
            outputs.append(value)

    def run(self, name: str, module: nn.Module, value: Value) -> Value:
        """Apply the rule of a module's class; a class without one is kept whole."""
        rule = self.rules.get(type(module))
        if rule is None:
            return self.opaque(name, module, value, "not a block that the channel graph knows")
        return rule(self, name, module, value)

    def map(self, name: str, module: nn.Module, value: Value) -> Feature:
        """Run a module that takes and gives one feature map."""
        result = self.run(name, module, value)
        if not isinstance(result, Feature):
            raise UnsupportedModel(f"'{name}' ({type(module).__name__}) gives several feature maps where one is used")
        return result

    @property
    def variables(self) -> int:
        """How many variables exist."""
        return len(self._parents)

    def fresh(self, count: int) -> IntArray:
        """Make variables."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def root(self, variable: int) -> int:
        """Return the representative of everything united with a variable."""
        while self._parents[variable] != variable:
            self._parents[variable] = self._parents[self._parents[variable]]
            variable = self._parents[variable]
        return variable

    def unite(self, one: Feature, other: Feature) -> Feature:
        """Add two feature maps: their channels become the same, pair by pair."""
        for a, b in zip(one.channels.tolist(), other.channels.tolist(), strict=True):
            low, high = sorted((self.root(a), self.root(b)))
            self._parents[high] = low
        return one

    def freeze(self, channels: IntArray, why: str) -> None:
        """Let no channel of these go; the first reason given is the one reported."""
        for channel in channels.tolist():
            self.frozen.setdefault(channel, why)

    def tie(self, one: IntArray, other: IntArray) -> None:
        """Let both lose the same number of channels, each its own choice."""
        self.ties.append((one, other))

    def bundle(self, lead: IntArray, following: IntArray) -> None:
        """Let (rows, columns) channels go by the row, and each row of `following` with that of `lead`."""
        self.bundles.append((lead, following))

    def multiply(self, channels: IntArray, ops: int) -> None:
        """Count operations per channel outside of convolutions."""
        self.products.append((channels, ops))

    def width(self, module: str, attribute: str, channels: IntArray) -> None:
        """Record a width that a block keeps as a number."""
        self.attributes.append(WidthAttribute(module, attribute, channels))

    def convolve(self, name: str, conv: nn.Conv2d, x: Feature, *, layer: str, norm: str | None = None) -> Feature:
        """Give the outputs fresh variables, or pass variables through a depthwise convolution."""
        if id(conv) in self._seen:
            raise UnsupportedModel(f"'{name}' is used in two places; a model with shared layers cannot be pruned")
        self._seen.add(id(conv))
        depthwise = conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels
        out = x.channels if depthwise else self.fresh(conv.out_channels)
        if conv.groups > 1 and not depthwise:
            self.note_whole(name, "grouped convolution")
            self.freeze(np.concatenate([x.channels, out]), "grouped convolution")
        image, kernel = torch.zeros(1, 1, x.height, x.width), torch.zeros(1, 1, *conv.kernel_size)
        height, width = functional.conv2d(image, kernel, None, conv.stride, conv.padding, conv.dilation).shape[-2:]
        self.convolutions.append(
            Convolution(
                name=name,
                layer=layer,
                inputs=x.channels,
                outputs=out,
                norm=norm,
                depthwise=depthwise,
                groups=1 if depthwise else conv.groups,
                area=int(np.prod(conv.kernel_size)),
                positions=height * width,
                bias=conv.bias is not None,
                stride=int(conv.stride[0]),
                size=(x.height, x.width),
            )
        )
        return Feature(out, height, width)

    def normalise(self, name: str, norm: nn.BatchNorm2d, x: Feature) -> Feature:
        """Pass variables through a BatchNorm."""
        self.norms.append(Norm(name, x.channels, norm.affine))
        return x

    def resize(self, module: nn.Module, x: Feature) -> Feature:
        """Pass variables through a module that changes the size alone and maps zeros to zeros."""
        height, width = module(torch.zeros(1, 1, x.height, x.width)).shape[-2:]
        return Feature(x.channels, height, width)

    def activate(self, name: str, module: nn.Module, x: Feature) -> Feature:
        """Pass variables through an activation, which must map 0 to 0 for a channel to vanish without trace."""
        per_channel = any(True for _ in module.parameters())
        if per_channel or float(module(torch.zeros(1))) != 0:
            why = f"activation {type(module).__name__} has parameters or does not map 0 to 0"
            self.note_whole(name, why)
            self.freeze(x.channels, why)
        return x

    def opaque(self, name: str, module: nn.Module, value: Value, why: str) -> Value:
        """Keep a module whole with everything that touches it; its output shape comes from running it once."""
        given = value if isinstance(value, list) else [value]
        reason = f"{type(module).__name__} is {why}"
        self.note_whole(name, reason)
        for feature in given:
            self.freeze(feature.channels, reason)
        parameter = next(self.model.parameters())
        zeros = [
            torch.zeros(1, len(f.channels), f.height, f.width, device=parameter.device, dtype=parameter.dtype)
            for f in given
        ]
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                output = deepcopy(module).eval()(zeros if isinstance(value, list) else zeros[0])
            results = [self._frozen_like(t, reason) for t in (output if isinstance(output, list | tuple) else [output])]
        except Exception as error:  # a foreign block can fail in any way
            raise UnsupportedModel(
                f"'{name}' ({type(module).__name__}) is {why}, and running it alone to learn its output shape failed: "
                f"{' '.join(str(error).split())[:200]}; use a model of the YOLOv8, YOLO11 or YOLO26 family"
            ) from error
        self.fixed_ops += counter.get_total_flops()
        return results if isinstance(output, list | tuple) else results[0]

    def note_whole(self, name: str, why: str) -> None:
        """Remember that a module was kept whole, for the notes."""
        self._whole.setdefault(why, []).append(name)

    def notes(self) -> tuple[str, ...]:
        """Return one sentence per reason, with the modules that it applies to."""
        found = []
        for why, names in self._whole.items():
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            found.append(f"kept whole: {shown} ({why})")
        return tuple(found)

    def _frozen_like(self, tensor: torch.Tensor, why: str) -> Feature:
        channels = self.fresh(tensor.shape[1])
        self.freeze(channels, why)
        return Feature(channels, tensor.shape[2], tensor.shape[3])
