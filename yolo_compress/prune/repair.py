# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Repair without training: BatchNorm statistics anew, or every layer towards what it gave before.

After channels went, what flows through the rest has other means and variances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import nn

from yolo_compress.errors import DataError, UsageError
from yolo_compress.prune.allocation import Plan
from yolo_compress.prune.logistic import fit_classes_
from yolo_compress.prune.reconstruct import reconstruct_


def repair_(
    pruned: nn.Module,
    full: nn.Module,
    plan: Plan,
    batches: Iterable[np.ndarray],
    *,
    kind: str,
    origin: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Repair a pruned model in place, without training, and say what was done.

    Args:
        pruned: What surgery made of `full`; in eval mode afterwards.
        full: The model before.
        plan: What was removed.
        batches: (N, 3, H, W) float32 in 0 to 1.
        kind: `reconstruct`, `batchnorm` or `nothing`.
        origin: Names in `full` by names in `pruned`, where blocks were taken out as well.
        progress: Takes a line now and then.

    Raises:
        DataError: There is not one batch.
    """
    if kind == "batchnorm":
        return [f"BatchNorm statistics re-estimated on {reestimate_(pruned, batches, progress=progress)} images"]
    if kind == "reconstruct":
        held = list(batches)
        count = reconstruct_(pruned, full, plan, held, origin=origin, progress=progress)
        fit_classes_(pruned, full, held, progress=progress)
        return [f"layers reconstructed, and class outputs fitted, on {count} images"]
    return []


def reestimate_(
    model: nn.Module, batches: Iterable[np.ndarray], *, progress: Callable[[str], None] = lambda text: None
) -> int:
    """Replace the running statistics of every BatchNorm, in place, by averages over images; return how many images.

    Each batch is normalised by its own statistics on the way, and counts by its number of images, so that a small last
    batch does not weigh more than its images. Everything but BatchNorm stays in eval mode, the order is that of
    `batches`, and momentum and modes are as before afterwards.

    Args:
        model: Changed in place.
        batches: (N, 3, H, W) float32 in 0 to 1.
        progress: Called with one line per batch.

    Raises:
        DataError: There is not one batch.
        UsageError: A batch leaves a BatchNorm with a single value per channel.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    modes = [(m, m.training) for m in model.modules()]
    parameter = next(model.parameters())
    images = 0
    try:
        model.eval()
        for norm in norms:
            norm.train()
        with torch.no_grad():
            for batch in batches:
                images += len(batch)
                for norm in norms:
                    norm.momentum = len(batch) / images
                model(torch.as_tensor(batch, device=parameter.device, dtype=parameter.dtype))
                progress(f"prune: BatchNorm statistics on {images} images")
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UsageError(
            "BatchNorm cannot be re-estimated from a batch of one image whose deepest feature map is one pixel; "
            "give a larger imgsz or more images, or repair=nothing"
        ) from error
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    if not images:
        raise DataError("BatchNorm re-estimation got no image; give a data YAML with train images, or repair=nothing")
    return images
