# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Layer times: what each layer of a model takes while the whole model runs, by the runtime's own profile.

A layer that is timed as a graph of its own pays for copies and dispatch that it shares inside a model, and most layers
of a small detector are shorter than that noise. So the runtime is asked instead: its nodes carry the names of the
modules that they were exported from, and everything between a layer's convolution and the next one (activation,
quantizers, changes of layout) counts for that layer.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import atomic_write
from yolo_compress.bench.machine import describe_machine
from yolo_compress.errors import EngineError, require

FORMAT = 2  # of the files that times are kept in
TICK = 1e-6  # seconds: runtimes count in microseconds, and a layer that took less than one still took time


def module_scope(node: str) -> str:
    """Return the module that a node of an exported graph stands in.

    Exporters write `/model.22/cv2.0/cv2.0.1/conv/Conv` for a convolution of `model.22.cv2.0.1.conv`: the part that a
    longer one repeats is dropped, and so is the operation at the end. Nodes that runtimes insert carry the path behind
    a prefix of their own.
    """
    _, slash, path = node.partition("/")
    parts: list[str] = []
    for part in path.strip("/").split("/")[:-1] if slash else []:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


def layer_seconds(nodes: Mapping[str, float], layers: Iterable[str]) -> dict[str, float]:
    """Sum the times of a runtime's nodes per layer.

    Args:
        nodes: Seconds by node name; a layer whose nodes come to less than `TICK` gets that.
        layers: Module names, such as `model.2.cv1`; a node belongs to the longest one that it stands in.

    Raises:
        EngineError: A layer has no node: this runtime does not keep the names.
    """
    found = dict.fromkeys(layers, 0.0)
    named = set()
    for node, seconds in nodes.items():
        scope = module_scope(node)
        while scope and scope not in found:
            scope = scope.rpartition(".")[0]
        if scope:
            found[scope] += seconds
            named.add(scope)
    if lost := [layer for layer in found if layer not in named]:
        raise EngineError(
            f"the runtime's profile does not name {len(lost)} of {len(found)} layers ({', '.join(lost[:3])}); "
            "prune by ratio= or flops= instead, and please report the runtime's version"
        )
    return {layer: max(seconds, TICK) for layer, seconds in found.items()}


class LayerTimesCache:
    """Layer times per model structure on one runtime at one precision, in a file per machine and version."""

    def __init__(self, engine: str, precision: str, *, threads: int | None, folder: Path | None) -> None:
        """Read what was measured before under the same conditions; nothing is kept without a folder."""
        machine = describe_machine()
        self.conditions: dict[str, Any] = {key: machine.get(key) for key in ("cpu_model", "cpu_flags", "cpus_usable")}
        version = getattr(require(engine, extra="openvino", purpose="layer times"), "__version__", "")
        self.conditions |= {
            "machine": platform.machine(),
            "engine": engine,
            "precision": precision,
            "version": version,
            "threads": threads,
            "format": FORMAT,
        }
        digest = hashlib.sha256(json.dumps(self.conditions, sort_keys=True).encode()).hexdigest()[:16]
        self.file = folder / f"{engine}-{precision}-{digest}.json" if folder is not None else None
        self.models: dict[str, dict[str, float]] = {}
        if self.file is not None and self.file.is_file():
            self.models = json.loads(self.file.read_text(encoding="utf-8"))["models"]

    def get(self, structure: str) -> dict[str, float] | None:
        """Return seconds by layer of a structure that was measured before."""
        return self.models.get(structure)

    def put(self, structure: str, seconds: Mapping[str, float]) -> None:
        """Keep the times of a structure."""
        self.models[structure] = dict(seconds)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.file, json.dumps({"conditions": self.conditions, "models": self.models}, indent=1) + "\n")
