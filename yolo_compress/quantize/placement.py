# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Where quantizers go in an exported YOLO: which convolutions, which tensors, which of them share a scale."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yolo_compress.errors import UnsupportedModel, UsageError
from yolo_compress.quantize.scheme import Scheme

if TYPE_CHECKING:
    import onnx

HEAD_OUTPUT = re.compile(r"model\.(\d+)\.(one2one_)?cv([23])\.(\d+)\.\d+")  # last 1x1 of a box or class tower


@dataclass(frozen=True)
class Layer:
    """A convolution by its module name; `why` says what keeps it in float, and is empty where it is quantized."""

    node: int
    name: str
    why: str = ""


@dataclass(frozen=True)
class Group:
    """Tensors under one scale.

    Attributes:
        tensors: Their names, in graph order.
        observed: Those whose values tell the range; what passing operations put out only repeats them.
        through: `silu` where a range is best judged behind the activation that follows.
        fixed: The range, where it is known without looking.
    """

    tensors: tuple[str, ...]
    observed: tuple[str, ...]
    through: str | None = None
    fixed: tuple[float, float] | None = None


@dataclass(frozen=True)
class Placement:
    """All that insertion and calibration need to know.

    Attributes:
        layers: Every convolution with constant weights, in graph order.
        groups: Tensors to quantize.
        reads: (node index, input index) of each input that reads the dequantized tensor; the others keep the float one.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    reads: frozenset[tuple[int, int]]


class Wiring:
    """Who makes and who reads each tensor of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Index a graph; nodes are known by their position."""
        self.nodes = list(graph.node)
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self.constants = {value.name: value for value in graph.initializer}
        self.makers = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, node in enumerate(self.nodes):
            for j, name in enumerate(node.input):
                self.readers[name].append((i, j))

    def data_inputs(self, index: int) -> Iterator[tuple[int, str]]:
        """Yield the inputs of a node that are computed, not constant, with their position."""
        for position, name in enumerate(self.nodes[index].input):
            if name and name not in self.constants:
                yield position, name

    def module(self, index: int) -> str:
        """Return the module that a convolution comes from, such as model.2.m.0.cv1."""
        weight = self.nodes[index].input[1]
        if not weight.startswith("model."):
            raise UnsupportedModel(
                f"the weights of '{self.nodes[index].name}' are called '{weight}', not by their module; "
                "export the checkpoint again with: yolo export format=onnx"
            )
        return weight.removesuffix(".weight").removesuffix(".conv")


def place(graph: onnx.GraphProto, scheme: Scheme, *, keep: Sequence[str] = ()) -> Placement:
    """Decide what is quantized.

    The output convolutions of the head, the DFL and everything behind them stay in float, as do attention products,
    which are no convolutions. Layers that `keep` names, by module or prefix, stay in float too.

    Raises:
        UnsupportedModel: The head's output convolutions are not where an exported Ultralytics detector has them.
        UsageError: `keep` names no layer.
    """
    wiring = Wiring(graph)
    layers = _layers(wiring, keep)
    builder = _Builder(wiring, scheme)
    for layer in layers:
        if not layer.why:
            builder.quantize_input(layer.node)
    builder.quantize_residuals()
    if scheme.conv_output:
        for layer in layers:
            if not layer.why:
                builder.quantize_output(layer.node)
    return Placement(layers, builder.groups(), frozenset(builder.reads))


def _layers(wiring: Wiring, keep: Sequence[str]) -> tuple[Layer, ...]:
    head = head_outputs(wiring)
    found = []
    for index, node in enumerate(wiring.nodes):
        if node.op_type != "Conv" or node.input[1] not in wiring.constants:
            continue
        name = wiring.module(index)
        why = ""
        if index in head:
            why = "output of the head"
        elif "dfl" in name.split("."):
            why = "box decoding"
        elif prefix := next((k for k in keep if name == k or name.startswith(k + ".")), None):
            why = f"keep={prefix}"
        found.append(Layer(index, name, why))
    for prefix in keep:
        if not any(layer.name == prefix or layer.name.startswith(prefix + ".") for layer in found):
            close = difflib.get_close_matches(prefix, [layer.name for layer in found], n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"layers are called like {found[0].name}"
            raise UsageError(f"keep={prefix} names no convolution of this model; {hint}")
    return tuple(found)


def head_outputs(wiring: Wiring) -> dict[int, tuple[str, str]]:
    """Find the last convolutions before the outputs, and check that they are the head's.

    Found by structure and confirmed by name, because quantizing them by mistake ruins the detector without a message.

    Returns:
        By node, level by level: the branch, `one2many` or `one2one`, and whether it gives `boxes` or `scores`.

    Raises:
        UnsupportedModel: They are not where an exported Ultralytics detector has them.
    """
    pending, seen, found = list(wiring.outputs), set(), set()
    while pending:
        name = pending.pop()
        if name in seen or name not in wiring.makers:
            continue
        seen.add(name)
        index = wiring.makers[name]
        node = wiring.nodes[index]
        if node.op_type == "Conv" and "/dfl/" not in node.name:
            found.add(index)
        else:
            pending += [source for _, source in wiring.data_inputs(index)]
    matches = {index: HEAD_OUTPUT.fullmatch(wiring.module(index)) for index in found}
    known = {index: match for index, match in matches.items() if match}
    heads = {match.group(1) for match in known.values()}
    boxes, scores = (sum(match.group(3) == wanted for match in known.values()) for wanted in "23")
    if not found or len(known) < len(found) or len(heads) != 1 or boxes != scores:
        names = sorted(wiring.nodes[index].name for index in found)[:4]
        raise UnsupportedModel(
            f"the head's output convolutions cannot be found: the last convolutions are {names}, where an Ultralytics "
            "detector has pairs such as /model.22/cv2.0/cv2.0.2/Conv and /model.22/cv3.0/cv3.0.2/Conv; "
            "export the checkpoint again with: yolo export format=onnx"
        )
    by_level = sorted(known, key=lambda index: int(known[index].group(4)))
    return {
        index: (
            "one2one" if known[index].group(2) else "one2many",
            "boxes" if known[index].group(3) == "2" else "scores",
        )
        for index in by_level
    }


class _Builder:
    """Collects groups as sets that merge when a tensor turns out to belong to two."""

    def __init__(self, wiring: Wiring, scheme: Scheme) -> None:
        self.wiring, self.scheme = wiring, scheme
        self.reads: set[tuple[int, int]] = set()
        self.parent: dict[str, str] = {}
        self.through: dict[str, str] = {}
        self.visited: set[int] = set()
        self.carriers: set[str] = set()  # tensors that bring codes to a convolution, passing operations included

    def quantize_input(self, index: int) -> None:
        self._feed(index, 0)

    def quantize_residuals(self) -> None:
        for index, node in enumerate(self.wiring.nodes):
            inputs = list(self.wiring.data_inputs(index))
            if node.op_type != "Add" or len(inputs) != 2 or node.output[0] not in self.carriers:
                continue
            skips = [j for j, name in inputs if name in self.carriers]
            if not skips:
                continue
            for j in (j for j, _ in inputs) if self.scheme.residual == "both" else skips:
                self._feed(index, j)

    def quantize_output(self, index: int) -> None:
        """Quantize what a convolution puts out, for everything that reads it."""
        output = self.wiring.nodes[index].output[0]
        readers = self.wiring.readers[output]
        self._add(output)
        self.reads |= set(readers)
        if any(self.wiring.nodes[reader].op_type == "Sigmoid" for reader, _ in readers):
            self.through[output] = "silu"

    def groups(self) -> tuple[Group, ...]:
        order = [*self.wiring.inputs, *(name for node in self.wiring.nodes for name in node.output)]
        members: dict[str, list[str]] = defaultdict(list)
        for name in order:
            if name in self.parent:
                members[self._root(name)].append(name)
        return tuple(self._group(tensors) for tensors in members.values())

    def _group(self, tensors: list[str]) -> Group:
        made = [name for name in tensors if not self._passed(name)]
        through = {self.through.get(name) for name in tensors}
        fixed = (0.0, 1.0) if tensors == self.wiring.inputs else None  # images come as bytes / 255
        return Group(tuple(tensors), tuple(made or tensors), through.pop() if len(through) == 1 else None, fixed)

    def _passed(self, name: str) -> bool:
        maker = self.wiring.makers.get(name)
        return maker is not None and self.wiring.nodes[maker].op_type in self.scheme.passing

    def _feed(self, index: int, position: int) -> None:
        """Let an input read codes: from a quantizer at this tensor, or from those before the operation that made it."""
        name = self.wiring.nodes[index].input[position]
        passed = self._passed(name)
        self.carriers.add(name)
        if not passed or self.scheme.requantize:
            self._add(name)
            self.reads.add((index, position))
        if passed:
            self._pass(self.wiring.makers[name])

    def _pass(self, index: int) -> None:
        if index in self.visited:
            return
        self.visited.add(index)
        node = self.wiring.nodes[index]
        for position, _ in self.wiring.data_inputs(index):
            self._feed(index, position)
        if self.scheme.requantize:  # behind a Split, every branch needs its quantizer, or none of it runs on codes
            for output in node.output:
                self._add(output)
                self.carriers.add(output)
        linked = [name for _, source in self.wiring.data_inputs(index) for name in self._sources(source)]
        self._join([*linked, *(name for name in node.output if name in self.parent)])

    def _sources(self, name: str) -> list[str]:
        """Return the quantized tensors that a tensor's codes come from."""
        if name in self.parent:
            return [name]
        maker = self.wiring.makers[name]
        return [found for _, source in self.wiring.data_inputs(maker) for found in self._sources(source)]

    def _add(self, name: str) -> None:
        self.parent.setdefault(name, name)

    def _root(self, name: str) -> str:
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def _join(self, names: Iterable[str]) -> None:
        roots = [self._root(name) for name in names]
        for root in roots:
            self.parent[self._root(root)] = self._root(roots[0])
