# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a roofline says of each layer, as data; `bench.roofline` measures it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RoofLayer:
    """A layer under the roof.

    Attributes:
        name: Module name; "whole" for the sum.
        precision: That it computes in.
        operations: Two per multiply-accumulate.
        bytes: Weights, inputs and outputs at its precision, each once.
        intensity: Operations per byte.
        seconds: By the runtime's profile.
        least_seconds: What the roof allows.
        share: `least_seconds` over `seconds`; above 1 where values come from a cache that is faster than memory.
        limit: What its roof is made of: "compute" or "memory".
    """

    name: str
    precision: str
    operations: int
    bytes: int
    intensity: float
    seconds: float
    least_seconds: float
    share: float
    limit: str


@dataclass(frozen=True)
class Roofline:
    """All layers of a candidate with the peaks they are held to; `other_seconds` is what no layer accounts for.

    `whole` sums the layers, its time and share hold the rest of the model too.
    """

    layers: tuple[RoofLayer, ...]
    whole: RoofLayer
    other_seconds: float
    ops_per_s: Mapping[str, float]
    bytes_per_s: float
    how: Mapping[str, str]

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Roofline:
        """Return what `dataclasses.asdict` made plain."""
        layers = tuple(RoofLayer(**layer) for layer in tree["layers"])
        return cls(**{**tree, "layers": layers, "whole": RoofLayer(**tree["whole"])})
