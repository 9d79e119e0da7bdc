# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What INT8 saves in each layer: profiles of the float and of the quantized model, taken in turns on the runtime.

Runtimes name the nodes that they execute after those of the graph, and what they fuse after the first or the last of
it. A node belongs to

* the layers that read the tensor, where it is a quantizer at their input (`Placement.groups`), in equal parts; what
  cuts values off before it, and what finds its range while the model runs, are parts of it;
* the layer that it changes the layout for, where the runtime names both ends of a change of layout;
* else the layer whose module it stands in: the convolution, its activation, and quantizers between the two.

Everything else is the rest: operations that belong to no layer that can be quantized, such as Concat, Resize, the
output convolutions of the head and the decoding of boxes, and changes of layout that a runtime does not name after
anything (ReorderInput, ReorderOutput and Transpose of ONNX Runtime).
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolo_compress.bench.layers import LayerTimesCache, module_scope
from yolo_compress.bench.paired import noise_image
from yolo_compress.engines import ENGINES, get_engine
from yolo_compress.engines.protocol import Engine
from yolo_compress.engines.source import is_quantized
from yolo_compress.errors import EngineError, UsageError
from yolo_compress.quantize.format import NumberFormat
from yolo_compress.quantize.placement import Placement, Wiring
from yolo_compress.quantize.scheme import PASSING

if TYPE_CHECKING:
    import onnx

KINDS = ("fp32", "int8")
TURNS = 6  # profiles of each of the two models
ROUNDS = 10  # runs in each
QUANTIZER = re.compile(
    r"(.+)_(?:(?:Quantize|Dequantize|DynamicQuantize)Linear|Clip)(?![^/]*_/)"
)  # not of a change of layout behind it
LAYOUT = re.compile(r"(.+?)_[a-z0-9_]+_(/.+)")  # /a/Conv_acdb_abcd_/b/Reshape, of OpenVINO


@dataclass(frozen=True)
class Saving:
    """Milliseconds of one layer, or of the rest, in the float and in the quantized model."""

    float_ms: float
    int8_ms: float

    @property
    def ms(self) -> float:
        """What INT8 saves; negative where it is slower."""
        return self.float_ms - self.int8_ms


@dataclass(frozen=True)
class Savings:
    """What INT8 saves where.

    Attributes:
        layers: By module name, of the layers that can be quantized and that the runtime names.
        rest: All other nodes.
        unnamed: Layers that can be quantized and that the runtime does not name: fused, their time is in the rest or in
            another layer's.
    """

    layers: Mapping[str, Saving]
    rest: Saving
    unnamed: tuple[str, ...] = ()

    @property
    def ms(self) -> dict[str, float]:
        """What INT8 saves by layer."""
        return {layer: saving.ms for layer, saving in self.layers.items()}

    @property
    def note(self) -> str:
        """How much of the profile belongs to layers, in one sentence."""
        floating, coded = (
            sum(getattr(layer, name) for layer in self.layers.values()) for name in ("float_ms", "int8_ms")
        )
        text = (
            f"by the runtime's profile, {len(self.layers)} layers take {floating:.2f} ms in float and {coded:.2f} in "
            f"INT8, and the rest takes {self.rest.float_ms:.2f} and {self.rest.int8_ms:.2f}"
        )
        if self.unnamed:
            text += f"; it does not name {len(self.unnamed)} layers, which stay in INT8: {', '.join(self.unnamed)}"
        return text


def runtime_for(target: str, *, option: str, instead: str) -> Engine:
    """Return the runtime that a target is measured on.

    Args:
        target: Name of a scheme.
        option: What asks for it, such as latency=0.7, for the message.
        instead: What to do without, for the message.

    Raises:
        UsageError: It cannot run here.
    """
    why = "there is no engine of that name here"
    if target in ENGINES:
        engine = get_engine(target)
        if (missing := engine.unavailable()) is None:
            return engine
        why = missing
    raise UsageError(
        f"{option} is measured on target={target}, which cannot run here: {why}; {instead}, or give a target that runs "
        "here, such as target=openvino or target=onnxruntime"
    )


def measure_savings(
    engine: Engine,
    floating: Path,
    quantized: Callable[[], Path],
    model: onnx.ModelProto,
    placement: Placement,
    *,
    imgsz: int,
    numbers: NumberFormat | None = None,
    turns: int = TURNS,
    rounds: int = ROUNDS,
    threads: int | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Savings:
    """Profile the float and the quantized model in turns and attribute their nodes to layers.

    Args:
        engine: What both are run by.
        floating: The float graph.
        quantized: Writes the graph with every layer in INT8 that `placement` has there.
        model: The float graph, read.
        placement: Where quantizers stand in the quantized one.
        imgsz: Side of the square input in pixels.
        numbers: Of the quantized graph; INT8 where not given.
        turns: Profiles of each; a node's time is the median over them.
        rounds: Runs in each profile.
        threads: Of the runtime; all cores when not given.
        cache: Folder that node times of a structure are kept in; weights do not change them.
        progress: Takes a line per turn.

    Raises:
        EngineError: The runtime refused an artifact, or names no layer in its profile.
    """
    kept = {kind: LayerTimesCache(engine.name, f"nodes-{kind}", threads=threads, folder=cache) for kind in KINDS}
    structure = _structure(model, placement, imgsz, numbers)
    nodes = {kind: known for kind, store in kept.items() if (known := store.get(structure)) is not None}
    if len(nodes) < len(KINDS):
        graphs = {"fp32": floating, "int8": quantized()}
        with tempfile.TemporaryDirectory() as place:
            paths = {
                kind: engine.build(graph, Path(place) / kind, precision=precision_of(graph), imgsz=imgsz).path
                for kind, graph in graphs.items()
            }
            nodes = _profiles(engine, paths, imgsz, turns, rounds, threads, progress)
        for kind, store in kept.items():
            store.put(structure, nodes[kind])
    return attribute(nodes["fp32"], nodes["int8"], Wiring(model.graph), placement)


def attribute(
    floating: Mapping[str, float], quantized: Mapping[str, float], wiring: Wiring, placement: Placement
) -> Savings:
    """Give the nodes of two profiles, seconds by name, to layers.

    Raises:
        EngineError: A profile names none of the layers.
    """
    names = [layer.name for layer in placement.layers]
    readers = quantizer_readers(wiring, placement)
    totals = []
    for nodes in (floating, quantized):
        found = dict.fromkeys(names, 0.0)
        named, rest = set(), 0.0
        for node, seconds in nodes.items():
            owners = owners_of(node, found, readers)
            named.update(owners)
            for owner in owners:
                found[owner] += seconds / len(owners)
            if not owners:
                rest += seconds
        totals.append((found, named, rest))
    (before, named, rest_before), (after, named_after, rest_after) = totals
    wanted = [layer.name for layer in placement.layers if not layer.why]
    seen = [name for name in wanted if name in named and name in named_after]
    if not seen:
        raise EngineError(
            "the runtime's profile names none of the layers, so what INT8 saves in them cannot be told; give "
            "max_drop= alone, and please report the runtime's version"
        )
    outside = [name for name in names if name not in seen]
    rest = Saving(
        1e3 * (rest_before + sum(before[name] for name in outside)),
        1e3 * (rest_after + sum(after[name] for name in outside)),
    )
    layers = {name: Saving(1e3 * before[name], 1e3 * after[name]) for name in seen}
    return Savings(layers, rest, tuple(name for name in wanted if name not in layers))


def owners_of(node: str, layers: Iterable[str], readers: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the layers that a node of a runtime works for, none where it is part of the rest.

    Args:
        node: Its name in the profile.
        layers: Module names.
        readers: Layers that read each quantized tensor.
    """
    if (quantizer := QUANTIZER.match(node)) and quantizer.group(1) in readers:
        return tuple(readers[quantizer.group(1)])
    if layout := LAYOUT.fullmatch(node):
        for end in (layout.group(2), layout.group(1)):  # who wanted it, else whose output it was
            if owner := _module(end, layers):
                return (owner,)
    owner = _module(node, layers)
    return (owner,) if owner else ()


def quantizer_readers(wiring: Wiring, placement: Placement) -> dict[str, tuple[str, ...]]:
    """Return by quantized tensor the layers in INT8 whose input comes from it, through operations that move codes.

    A tensor between a convolution and its activation has no such reader, and stands in the module of its convolution.
    Where a placement has no groups, layers that quantize do so with their own input, while the model runs.
    """
    own = not placement.groups
    tensors = {name for group in placement.groups for name in group.tensors}
    found: dict[str, list[str]] = {}
    for layer in placement.layers:
        if layer.why:
            continue
        pending, seen = [wiring.nodes[layer.node].input[0]], set()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            if own or name in tensors:
                found.setdefault(name, []).append(layer.name)
            maker = wiring.makers.get(name)
            if not own and maker is not None and wiring.nodes[maker].op_type in PASSING:
                pending += [source for _, source in wiring.data_inputs(maker)]
    return {name: tuple(layers) for name, layers in found.items()}


def _module(node: str, layers: Iterable[str]) -> str:
    scope = module_scope(node)
    while scope and scope not in layers:
        scope = scope.rpartition(".")[0]
    return scope


def _profiles(
    engine: Engine,
    paths: Mapping[str, Path],
    imgsz: int,
    turns: int,
    rounds: int,
    threads: int | None,
    progress: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Return the median seconds of each node over profiles taken in turns, each kind first every other time."""
    image = noise_image(imgsz)
    seen: dict[str, dict[str, list[float]]] = {kind: {} for kind in paths}
    for turn in range(turns):
        for kind in sorted(paths, reverse=bool(turn % 2)):
            for node, seconds in engine.profile(paths[kind], image, rounds=rounds, threads=threads).items():
                seen[kind].setdefault(node, []).append(seconds)
        progress(f"layer times: {turn + 1} of {turns} turns in float and INT8")
    return {kind: {node: float(np.median(samples)) for node, samples in nodes.items()} for kind, nodes in seen.items()}


def precision_of(graph: Path) -> str:
    """Return the precision that a graph is built in; one whose layers all compute in float may hold no quantizer."""
    return "int8" if is_quantized(graph) else "fp32"


def _structure(model: onnx.ModelProto, placement: Placement, imgsz: int, numbers: NumberFormat | None) -> str:
    """Hash what node times depend on: the graph, the shapes of its constants, where quantizers stand, and their form.

    Weights of few bits in bytes take the time of others in bytes; they are told apart all the same.
    """
    graph = model.graph
    told = [imgsz, sorted(placement.reads), [(layer.name, layer.why) for layer in placement.layers]]
    told += [[(node.op_type, node.name, list(node.input)) for node in graph.node]]
    told += [[(constant.name, list(constant.dims)) for constant in graph.initializer]]
    if numbers is not None:
        told += [(numbers.weights, numbers.packed, numbers.activations, numbers.activation_bits)]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
