# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What an engine consists of, read from TensorRT's engine inspector: layers per precision, reformats, placement."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yolo_compress.errors import EngineError

# how a tensor's format names its type: "Row major linear FP16 format", "Half NCHW", "...vectorized row major Int8..."
TYPES = (
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("fp8", re.compile(r"\bfp8\b|\bfloat8", re.IGNORECASE)),
    ("bf16", re.compile(r"\bbf16\b|\bbfloat16\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\bfp16\b|\bhalf\b|\bfloat16\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\bfp32\b|\bfloat\b|\bfloat32\b", re.IGNORECASE)),
    ("int", re.compile(r"\bint(?:4|32|64)\b|\buint8\b|\bbool\b", re.IGNORECASE)),
)
REFORMAT = re.compile("reformat", re.IGNORECASE)  # "Reformatting CopyNode for Input Tensor 0 to ..."
UNKNOWN = "unknown"


@dataclass(frozen=True)
class EngineLayers:
    """What the layers of an engine do.

    Attributes:
        precisions: Number of layers by the type of their first input; reformats and what moves no data are not counted.
            Layers whose type the inspector does not tell are `unknown`.
        reformats: Layers that only change type or memory layout; many of them eat what INT8 saves.
        devices: Number of layers on GPU and DLA.
        names: Every layer, as the inspector names it.
        detailed: The engine was built with enough verbosity for precisions to be known.
    """

    precisions: dict[str, int]
    reformats: int
    devices: dict[str, int]
    names: tuple[str, ...]
    detailed: bool

    def __str__(self) -> str:
        """Return one line for a note."""
        if not self.detailed:
            return f"{len(self.names)} layers; the engine was built without telling their precisions"
        counted = ", ".join(f"{count} {name}" for name, count in self.precisions.items())
        placed = f"; {self.devices['DLA']} of them on the DLA" if self.devices.get("DLA") else ""
        return f"{len(self.names)} layers: {counted}, {self.reformats} reformats{placed}"


def read_layers(text: str) -> EngineLayers:
    """Read what `EngineInspector.get_engine_information(LayerInformationFormat.JSON)` returns.

    Raises:
        EngineError: It is not that.
    """
    try:
        tree = json.loads(text)
        layers = tree["Layers"]
        if not isinstance(layers, list):
            raise TypeError("'Layers' is not a list")
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"the engine inspector returned something unknown ({error}); please report it") from error
    names = tuple(str(layer.get("Name", "")) if isinstance(layer, Mapping) else str(layer) for layer in layers)
    described = [layer for layer in layers if isinstance(layer, Mapping) and "LayerType" in layer]
    precisions: Counter[str] = Counter()
    for layer in described:
        if not _reformats(layer) and (found := _precision(layer)) is not None:
            precisions[found] += 1
    reformats = sum(_reformats(layer) for layer in layers)
    on_dla = sum(isinstance(layer, Mapping) and _on_dla(layer) for layer in layers)
    devices = {"GPU": len(layers) - on_dla, **({"DLA": on_dla} if on_dla else {})}
    return EngineLayers(dict(precisions.most_common()), reformats, devices, names, bool(described))


def _precision(layer: Mapping[str, Any]) -> str | None:
    """Return the type that a layer computes in, or None where it takes no data."""
    tensors = _tensors(layer, "Inputs") or _tensors(layer, "Outputs")
    if not tensors:
        return None
    for tensor in tensors:
        text = str(tensor.get("Format/Datatype", tensor.get("Format", "")))
        for name, pattern in TYPES:
            if pattern.search(text):
                return name
    weights = layer.get("Weights")  # with dynamic shapes formats are not told, types of weights are
    text = str(weights.get("Type", "")) if isinstance(weights, Mapping) else ""
    return next((name for name, pattern in TYPES if pattern.search(text)), UNKNOWN)


def _tensors(layer: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    found = layer.get(key)
    return [tensor for tensor in found if isinstance(tensor, Mapping)] if isinstance(found, list) else []


def _reformats(layer: Any) -> bool:
    if not isinstance(layer, Mapping):
        return bool(REFORMAT.match(str(layer)))
    told = (layer.get("LayerType"), layer.get("Origin"))
    return any(str(word).lower() == "reformat" for word in told) or bool(REFORMAT.match(str(layer.get("Name", ""))))


def _on_dla(layer: Mapping[str, Any]) -> bool:
    return "DLA" in (str(layer.get("LayerType", "")).upper(), str(layer.get("Origin", "")).upper())
