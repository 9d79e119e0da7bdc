# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A Q/DQ ONNX becomes what TensorRT up to 10.16 builds from without quantizers: a float ONNX and a cache of scales."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_compress.artifacts import atomic_write
from yolo_compress.engines.tensorrt.cache import CalibrationCache
from yolo_compress.errors import UsageError, require
from yolo_compress.quantize.pins import behind_activation, float_layers
from yolo_compress.quantize.placement import Wiring
from yolo_compress.quantize.source import read_quantized
from yolo_compress.quantize.unquantize import AGAIN, WEIGHTED, Unquantized

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Stripped:
    """A Q/DQ graph in the parts that an implicit build takes.

    Attributes:
        cache: The scale of each tensor that had a quantizer, and of those that carry its codes on unchanged.
        model: The graph without quantizers; weights are what their codes stand for.
        pins: Layers that compute in float: those with weights, or products, without quantizers, and what lies between
            the last of them and the outputs. An implicit build has to keep them in half precision by name.
        unscaled: Layers with quantizers whose output, behind the activation, has none: TensorRT, which wants a scale on
            both sides, may run them in half precision.
    """

    cache: CalibrationCache
    model: onnx.ModelProto
    pins: tuple[str, ...]
    unscaled: tuple[str, ...]

    def write(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write `calibration.cache`, `float.onnx` and `float_layers.txt`, which names one layer per line.

        Raises:
            OutputError: They cannot be written.
        """
        files = folder / "calibration.cache", folder / "float.onnx", folder / "float_layers.txt"
        contents = self.cache.to_bytes(), self.model.SerializeToString(), "".join(f"{name}\n" for name in self.pins)
        for file, content in zip(files, contents, strict=True):
            atomic_write(file, content)
        return files

    def notes(self) -> list[str]:
        """Return what there is to say about an engine that is built from it."""
        if not self.unscaled:
            return []
        return [
            f"{len(self.unscaled)} layers with quantizers, such as {self.unscaled[0]}, put out a tensor that has none; "
            "TensorRT may run them in half precision"
        ]


def strip_quantizers(source: Path, *, version: int, algorithm: str) -> Stripped:
    """Take a Q/DQ graph, ours or another's, apart.

    Args:
        source: An ONNX with QuantizeLinear and DequantizeLinear nodes; activations int8, symmetric, one scale each.
        version: Of the TensorRT that is to read the cache, see `version_number`.
        algorithm: Of the calibrator that is to read it, such as EntropyCalibration2.

    Raises:
        DataError: It cannot be read.
        UsageError: It has no quantizers, or activations in a form that a cache cannot say.
        UnsupportedModel: Codes are read by something else than a DequantizeLinear, or made by something unknown.
    """
    model = read_quantized(source)
    walk = Unquantized(model.graph, source)
    for node in model.graph.node:
        walk.take(node)
    if not walk.scales:
        raise UsageError(
            f"'{source}' has quantized weights and no quantized activation, so there is no scale to write; {AGAIN}"
        )
    result = _without_quantizers(model, walk)
    wiring = Wiring(result.graph)
    coded = {index for index, node in enumerate(wiring.nodes) if node.output[0] in walk.coded}
    pins = tuple(wiring.nodes[index].name for index in float_layers(result, wiring, coded, walk.scales))
    unscaled = tuple(
        wiring.nodes[index].name
        for index in sorted(coded)
        if wiring.nodes[index].op_type in WEIGHTED and behind_activation(wiring, index) not in walk.scales
    )
    return Stripped(CalibrationCache(version, algorithm, walk.scales), result, pins, unscaled)


def _without_quantizers(model: onnx.ModelProto, walk: Unquantized) -> onnx.ModelProto:
    onnx = require("onnx", extra="onnx", purpose="quantization")
    nodes = list(walk.nodes)
    for output, tensor in walk.end():
        nodes.append(onnx.helper.make_node("Identity", [tensor], [output], output))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for part in (result.graph.node, result.graph.initializer, result.graph.value_info):
        del part[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    result.graph.initializer.extend(walk.constants.tensors(used))
    made = used | {name for node in nodes for name in node.output}
    result.graph.value_info.extend(value for value in model.graph.value_info if value.name in made)
    # what we say of a quantized graph is no longer true of this one
    kept = [item for item in model.metadata_props if item.key != "yolo_compress"]
    del result.metadata_props[:]
    result.metadata_props.extend(kept)
    onnx.checker.check_model(result)
    return result
