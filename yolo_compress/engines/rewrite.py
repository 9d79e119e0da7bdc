# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Graphs that compute the same in fewer steps, for runtimes that take a graph much as it is written.

An exported detector spends time between its convolutions: what the head puts out is turned from channels-last, in which
convolutions run, into planes before it is decoded, and each C2f block copies all of its channels to go on with half of
them. What is written instead gives the same numbers up to rounding. Convolutions and outputs keep their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.errors import require

if TYPE_CHECKING:
    import onnx

SIDES = 4
OPSET = 13  # the first whose Split takes sizes as an input
AXES_AS_INPUT = 18  # the first whose ReduceMax does
NOTHING = 1e-30  # added to sums of exponentials, so that a side whose logits all vanish has a mean, not 0 / 0
FAR = np.iinfo(np.int64).max


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that computes what a detector's does, up to rounding, in fewer steps; metadata stay.

    A part that does not look as Ultralytics exports it is left as it is.
    """
    result = require("onnx", extra="onnx", purpose="ONNX files").ModelProto()
    result.CopyFrom(model)
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    graph = _Graph(result.graph, opset)
    for rewrite in (_boxes, _scores, _halves) if opset >= OPSET else ():
        rewrite(graph)
    del result.graph.value_info[:]  # shapes of tensors in between, some of which have others now; readers infer them
    return result


class _Graph:
    """Nodes that can be found by what they make, and changed one by one."""

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        onnx = require("onnx", extra="onnx", purpose="ONNX files")
        self.opset, self.nodes, self.initializers = opset, graph.node, graph.initializer
        self.make, self._numpy = onnx.helper.make_node, onnx.numpy_helper
        self._constants = {value.name: value for value in graph.initializer}
        self._outputs = {value.name for value in graph.output}

    def of_kind(self, kind: str) -> list[onnx.NodeProto]:
        """Return the nodes of a kind, as they are now."""
        return [node for node in self.nodes if node.op_type == kind]

    def maker(self, tensor: str, kind: str) -> onnx.NodeProto | None:
        """Return the node of a kind that makes a tensor which is read once, else None."""
        if tensor in self._outputs or len(list(self._readers(tensor))) != 1:
            return None
        return next((node for node in self.of_kind(kind) if tensor in node.output), None)

    def reader(self, tensor: str, kind: str) -> onnx.NodeProto | None:
        """Return the node of a kind that is the only one to read a tensor, else None."""
        readers = list(self._readers(tensor))
        alone = len(readers) == 1 and tensor not in self._outputs and readers[0].op_type == kind
        return readers[0] if alone else None

    def _readers(self, tensor: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self.nodes for name in node.input if name == tensor)

    def value(self, node: onnx.NodeProto, position: int) -> np.ndarray | None:
        """Return the constant that a node reads, None where it reads nothing or what is computed."""
        name = node.input[position] if position < len(node.input) else ""
        return self._numpy.to_array(self._constants[name]) if name in self._constants else None

    def constant(self, name: str, value: np.ndarray) -> str:
        """Keep a new constant and return its name."""
        self._constants[name] = self._numpy.from_array(value, name)
        self.initializers.append(self._constants[name])
        return name

    def put(self, before: onnx.NodeProto, *nodes: onnx.NodeProto) -> None:
        """Add nodes in front of one."""
        place = list(self.nodes).index(before)
        for node in reversed(nodes):
            self.nodes.insert(place, node)

    def drop(self, *nodes: onnx.NodeProto) -> None:
        """Take nodes out."""
        for node in nodes:
            self.nodes.remove(node)


def _axis(node: onnx.NodeProto) -> int:
    return next((item.i for item in node.attribute if item.name == "axis"), 0)


def _levels(graph: _Graph, concat: onnx.NodeProto | None) -> list[onnx.NodeProto]:
    """Return the reshapes that lay the positions of each level of the head in a row for a concat to join.

    Nothing where it joins anything but what convolutions put out.
    """
    found = []
    for tensor in concat.input if concat is not None else ():
        reshape = graph.maker(tensor, "Reshape")
        conv = None if reshape is None else graph.maker(reshape.input[0], "Conv")
        if reshape is None or conv is None or graph.value(reshape, 1) is None:
            return []
        found.append(reshape)
    return found


def _scores(graph: _Graph) -> None:
    """Take the sigmoid of scores where each level's convolution makes them, in place of all levels' joined."""
    for sigmoid in graph.of_kind("Sigmoid"):
        concat = graph.maker(sigmoid.input[0], "Concat")
        levels = _levels(graph, concat)
        if concat is None or not levels:
            continue
        for reshape in levels:
            logits = reshape.input[0]
            scores = f"{logits}_scores"
            graph.put(reshape, graph.make("Sigmoid", [logits], [scores], f"{logits}_Sigmoid"))
            reshape.input[0] = scores
        concat.output[0] = sigmoid.output[0]
        graph.drop(sigmoid)


def _halves(graph: _Graph) -> None:
    """Join the whole that a block has split in place of its two parts, and cut out only the part that goes on."""
    for split in graph.of_kind("Split"):
        sizes = graph.value(split, 1)
        if sizes is None or len(split.output) != 2 or _axis(split) != 1:
            continue
        whole, (first, second) = split.input[0], split.output
        concat = graph.reader(first, "Concat")
        if concat is None or _axis(concat) != 1:
            continue
        joined = list(concat.input)
        place = joined.index(first)
        if joined[place + 1 : place + 2] != [second]:
            continue
        concat.input[place] = whole
        del concat.input[place + 1]
        limits = [
            graph.constant(f"{split.name}_{name}", np.array([value], np.int64))
            for name, value in (("begin", sizes[0]), ("end", FAR), ("axis", 1))
        ]
        graph.put(split, graph.make("Slice", [whole, *limits], [second], f"{split.name}_Slice"))
        graph.drop(split)


@dataclass(frozen=True)
class _Decoding:
    """How the head takes the mean of the distribution of each side of a box.

    Attributes:
        levels: What is joined.
        nodes: From behind the concat to the means, whose last one puts those out.
        steps: (bins,): what each bin stands for.
    """

    levels: list[onnx.NodeProto]
    nodes: list[onnx.NodeProto]
    steps: np.ndarray


def _boxes(graph: _Graph) -> None:
    """Take the mean of the distribution of each side of a box before levels are turned into planes.

    The mean `sum_k k e^(x_k) / sum_k e^(x_k)` over a softmax (Li et al. 2020, Generalized Focal Loss, section 3.2)
    becomes an exponential, a convolution that puts out both sums of each side, and a quotient: 8 channels are turned
    into planes in place of 64. The largest logit of a position, of all four sides, is taken off before: real ones reach
    25, whose exponential has no place in the half precision that GPUs compute in. The largest of one side lies up to
    14 below that of another (yolov8n, yolov8s, yolo11n on COCO), which has.
    """
    for softmax in graph.of_kind("Softmax"):
        found = _decoding(graph, softmax)
        if found is None:
            continue
        name, bins = softmax.name, found.steps.size
        weight = np.zeros((2, SIDES, SIDES, bins), np.float32)
        for side in range(SIDES):
            weight[:, side, side] = found.steps, np.ones(bins)
        sums = graph.constant(f"{name}_sums", weight.reshape(2 * SIDES, SIDES * bins, 1, 1))
        bias = NOTHING * np.repeat([found.steps.mean(), 1], SIDES)
        least = graph.constant(f"{name}_least", bias.astype(np.float32))
        for reshape in found.levels:
            logits, shape = reshape.input[0], graph.value(reshape, 1)
            assert shape is not None  # `_levels` has looked
            most, less, powers, both = (f"{logits}_{part}" for part in ("largest", "lowered", "powers", "sums"))
            graph.put(
                reshape,
                _largest(graph, logits, most),
                graph.make("Sub", [logits, most], [less], f"{logits}_Sub"),
                graph.make("Exp", [less], [powers], f"{logits}_Exp"),
                graph.make("Conv", [powers, sums, least], [both], f"{logits}_Sums"),
            )
            shape = np.array([shape[0], 2 * SIDES, *shape[2:]], np.int64)
            reshape.input[0], reshape.input[1] = both, graph.constant(f"{reshape.name}_shape", shape)
        joined, last = found.nodes[0].input[0], found.nodes[-1]
        halves = graph.constant(f"{name}_halves", np.array([SIDES, SIDES], np.int64))
        parts = [f"{name}_weighted", f"{name}_total"]
        graph.put(
            last,
            graph.make("Split", [joined, halves], parts, f"{name}_Split", axis=1),
            graph.make("Div", parts, [last.output[0]], f"{name}_Div"),
        )
        graph.drop(*found.nodes)


def _largest(graph: _Graph, tensor: str, out: str) -> onnx.NodeProto:
    """Return the node that takes the maximum over channels."""
    if graph.opset < AXES_AS_INPUT:
        return graph.make("ReduceMax", [tensor], [out], f"{tensor}_ReduceMax", axes=[1], keepdims=1)
    axes = graph.constant(f"{tensor}_axes", np.array([1], np.int64))
    return graph.make("ReduceMax", [tensor, axes], [out], f"{tensor}_ReduceMax", keepdims=1)


def _decoding(graph: _Graph, softmax: onnx.NodeProto) -> _Decoding | None:
    """Return what stands around a softmax where it is that of box sides, else None."""
    transpose, mean = graph.maker(softmax.input[0], "Transpose"), graph.reader(softmax.output[0], "Conv")
    if transpose is None or mean is None or _axis(softmax) != 1 or len(mean.input) != 2:
        return None
    order = next((list(item.ints) for item in transpose.attribute if item.name == "perm"), None)
    reshape, flat = graph.maker(transpose.input[0], "Reshape"), graph.reader(mean.output[0], "Reshape")
    steps = graph.value(mean, 1)
    if reshape is None or flat is None or steps is None or order != [0, 2, 1, 3]:
        return None
    shape = graph.value(reshape, 1)
    if shape is None or list(shape[1:3]) != [SIDES, steps.size] or len(steps) != 1:
        return None
    concat = graph.maker(reshape.input[0], "Concat")
    levels = _levels(graph, concat)
    if concat is None or _axis(concat) not in (2, -1) or not levels:
        return None
    return _Decoding(levels, [reshape, transpose, softmax, mean, flat], steps.ravel())
