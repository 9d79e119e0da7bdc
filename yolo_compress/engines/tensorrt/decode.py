# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The end of a detector's graph: its last convolutions, and the decoding of boxes and scores behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

DFL = "/dfl/"  # a fixed convolution that takes the mean of a distribution; part of the decoding
SHAPES = ("Shape", "Size")  # what they give are sizes, not values


@dataclass(frozen=True)
class Ending:
    """Nodes by their position in the graph.

    Attributes:
        outputs: The last convolutions before the graph's outputs.
        decoding: Everything behind them. Boxes in pixels go through it, and half precision has steps of half a pixel
            above 512.
    """

    outputs: frozenset[int]
    decoding: frozenset[int]


@dataclass(frozen=True)
class Pins:
    """Layers that must not become INT8 when TensorRT calibrates, by node name.

    Attributes:
        fp32: The Sigmoid of the scores: codes compress confidence while mAP hardly tells.
        fp16: Output convolutions and DFL, where INT8 costs much accuracy and saves little time.
    """

    fp32: frozenset[str]
    fp16: frozenset[str]


def ending(graph: onnx.GraphProto) -> Ending:
    """Find where the head ends and decoding begins, by walking back from the outputs to the nearest convolutions."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    pending = [value.name for value in graph.output]
    outputs, decoding = set(), set()
    while pending:
        index = makers.get(pending.pop())
        if index is None or index in outputs or index in decoding:
            continue
        node = graph.node[index]
        if node.op_type == "Conv" and DFL not in node.name:
            outputs.add(index)
            continue
        decoding.add(index)
        if node.op_type not in SHAPES:
            pending += [name for name in node.input if name]
    return Ending(frozenset(outputs), frozenset(decoding))


def pins(graph: onnx.GraphProto) -> Pins:
    """Name the layers of the head that stay in float when TensorRT calibrates."""
    found = ending(graph)
    behind = [graph.node[index] for index in sorted(found.decoding)]
    return Pins(
        frozenset(node.name for node in behind if node.op_type == "Sigmoid"),
        frozenset(graph.node[index].name for index in found.outputs)
        | frozenset(node.name for node in behind if node.op_type == "Conv"),
    )
