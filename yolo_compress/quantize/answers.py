# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What the head of an ONNX detector says about images, before boxes are suppressed, and how far that moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from yolo_compress.bench.response import OutputWeights, distance
from yolo_compress.host.detect import Response, distances
from yolo_compress.quantize.calibration import Runner
from yolo_compress.quantize.placement import Wiring, head_outputs

if TYPE_CHECKING:
    import onnx

Answers = list[list[Response]]  # by batch and by branch of the head


class Asker:
    """A graph that is asked about batches of images."""

    def __init__(self, model: onnx.ModelProto, wiring: Wiring, imgsz: int) -> None:
        """Prepare a graph whose head's output convolutions are named as in `wiring`."""
        self._branches: dict[str, dict[str, list[str]]] = {}
        for index, (branch, kind) in head_outputs(wiring).items():
            self._branches.setdefault(branch, {}).setdefault(kind, []).append(wiring.nodes[index].output[0])
        names = [name for branch in self._branches.values() for outputs in branch.values() for name in outputs]
        self._runner = Runner(model, names, imgsz)

    def __call__(self, batches: Iterable[np.ndarray], more: Mapping[str, np.ndarray] | None = None) -> Answers:
        """Return the answers to batches (N, 3, H, W); `more` are values for other inputs of the graph."""
        found = []
        for batch in batches:
            values = self._runner.values(batch, more)
            found.append(
                [
                    Response(_levels(values, branch["scores"]), distances(_levels(values, branch["boxes"])))
                    for branch in self._branches.values()
                ]
            )
        return found


def moved(exact: Answers, found: Answers) -> float:
    """Return how far answers lie from the exact ones, the mean over images of `bench.response.distance`."""
    parts = [distance(a, b, OutputWeights()) for a, b in zip(exact, found, strict=True)]
    return float(torch.cat(parts).mean())


def _levels(values: Mapping[str, np.ndarray], names: Sequence[str]) -> torch.Tensor:
    return torch.cat([torch.from_numpy(values[name]).flatten(2) for name in names], 2)
