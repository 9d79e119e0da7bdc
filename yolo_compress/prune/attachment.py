# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Pruning as a part of a training run: once, before the optimizer exists."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn

from yolo_compress.host.checkpoint import facts, set_facts
from yolo_compress.host.data import image_batches, labelled_batches, read_data, sample
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.host.ultralytics import LOGGER, RANK
from yolo_compress.prune import Timing, prune
from yolo_compress.recipe import PruneSection

TimingFor = Callable[..., AbstractContextManager[Timing | None]]  # `timing.timing_for`, which stands above this package


class Pruning:
    """Prunes the model of a run; a resumed run is pruned already and is left as it is."""

    def __init__(self, section: PruneSection, timing: TimingFor) -> None:
        """Take the section, and what makes a timing of a model for it."""
        self.section, self.timing = section, timing

    def attach(self, trainer: CompressTrainer) -> None:
        """Prune `trainer.model` on images of the run's training set.

        Raises:
            UsageError: The target cannot be met, or a layer to keep does not exist.
        """
        if trainer.resume:
            return
        data, section = read_data(trainer.args.data), self.section
        stride = max(int(trainer.model.stride.max()), 32)
        imgsz = math.ceil(trainer.args.imgsz / stride) * stride  # the trainer rounds it the same way, but later
        chosen = sample(data.train, section.images, seed=0)

        def labelled() -> Iterator[dict[str, torch.Tensor]]:
            for batch in labelled_batches(data, imgsz, limit=section.images):
                yield {key: value.to(trainer.device) for key, value in batch.items()}

        def images() -> Iterator[np.ndarray]:
            return image_batches(chosen, imgsz)

        model = trainer.model
        with self.timing(section, model, imgsz=imgsz, images=chosen) as timing:
            sources = {"loss_batches": labelled, "image_batches": images, "timing": timing}
            result = prune(model, config=section, imgsz=imgsz, **sources)
        set_facts(result.model, {**facts(model), "prune": result.facts()})
        trainer.model = result.model.to(trainer.device)
        if RANK in {-1, 0}:
            LOGGER.info(
                f"Pruned {result.params_before:,} to {result.params_after:,} parameters, "
                f"{result.gflops_before:.2f} to {result.gflops_after:.2f} GFLOPs"
            )

    def parameters(self) -> list[nn.Parameter]:
        """Return nothing: pruning trains no parameter."""
        return []

    def state(self) -> dict[str, Any]:
        """Return nothing: the checkpoint holds the pruned structure."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up nothing."""
