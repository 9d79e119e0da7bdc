# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What an importance score may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from yolo_compress.bench.response import OutputWeights
from yolo_compress.errors import DataError
from yolo_compress.prune.graph import ChannelGraph

FloatArray = npt.NDArray[np.float64]
Batch = dict[str, torch.Tensor]
Labelled = Callable[[], Iterable[Batch]]
Images = Callable[[], Iterable[np.ndarray]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Inputs:
    """Data and settings for a score.

    Attributes:
        labelled: Gives labelled batches in the form of `host.data.labelled_batches`, from the start at each call.
        images: Gives (N, 3, H, W) float32 images in 0 to 1, from the start at each call.
        weights: Of the terms of `output` and `obs`.
        seed: Of whatever is random.
    """

    labelled: Labelled | None = None
    images: Images | None = None
    weights: OutputWeights = field(default_factory=OutputWeights)
    seed: int = 0

    def batches(self, name: str, device: torch.device) -> Iterable[Batch]:
        """Yield labelled batches on a device.

        Raises:
            DataError: There is not one.
        """
        count = 0
        for batch in self.labelled() if self.labelled is not None else ():
            count += 1
            yield {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
        if not count:
            raise DataError(
                f"importance={name} got no labelled image; give a data YAML with train images, or importance=l2"
            )

    def pictures(self, name: str, like: torch.Tensor) -> Iterable[torch.Tensor]:
        """Yield images in the type and on the device of a tensor.

        Raises:
            DataError: There is not one.
        """
        count = 0
        for batch in self.images() if self.images is not None else ():
            count += 1
            yield torch.as_tensor(batch).to(like)
        if not count:
            raise DataError(f"importance={name} got no image; give a data YAML with train images, or importance=l2")


class Score(Protocol):
    """Gives each channel of a graph a number of at least 0, without changing the model."""

    def __call__(self, model: nn.Module, graph: ChannelGraph, inputs: Inputs, progress: Progress) -> FloatArray:
        """Return one number per channel, larger for what matters more."""
        ...
