# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a float model makes of each image: its detections, and how far its activations reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from yolo_compress.errors import UnsupportedModel
from yolo_compress.host.cpu import use_all_cores
from yolo_compress.host.data import letterbox, read_image
from yolo_compress.host.detect import postprocess, to_original
from yolo_compress.host.ultralytics import Conv

CONF = 0.25  # what `yolo predict` shows
TAIL = 1e-3  # share of a tensor's values that lie beyond its percentile


@dataclass(frozen=True)
class Responses:
    """What a model makes of images.

    Attributes:
        objects: Per image (n, 5): class and centre box in shares of the image, as `labels_for` returns labels.
        extremes: (N, layers) largest absolute value that a convolutional block puts out.
        percentiles: (N, layers) absolute value that 1 in 1000 of its values exceeds.
    """

    objects: tuple[np.ndarray, ...]
    extremes: np.ndarray
    percentiles: np.ndarray


def responses(
    model: nn.Module,
    images: Sequence[Path],
    *,
    imgsz: int,
    progress: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Responses:
    """Run a float model over images, one at a time.

    Args:
        model: In eval mode; it stays as it is.
        images: Files that can be read.
        imgsz: Side of the letterboxed square in pixels.
        progress: Takes a line every ten seconds.
        clock: Seconds.

    Raises:
        DataError: An image cannot be read.
        UnsupportedModel: An activation is not finite.
    """
    use_all_cores()
    reach: list[tuple[float, float]] = []
    blocks = [module for module in model.modules() if isinstance(module, Conv)]
    hooks = [block.register_forward_hook(lambda _, __, output: reach.append(_reach(output))) for block in blocks]
    objects, rows = [], []
    next_line = clock() + 10
    try:
        for index, path in enumerate(images):
            reach.clear()
            image = read_image(path)
            shape = (image.shape[0], image.shape[1])
            frame, scale, pad = letterbox(image, imgsz)
            with torch.inference_mode():
                raw = model(torch.from_numpy(frame)[None].float() / 255)
            if not np.isfinite(reach).all():
                raise UnsupportedModel(
                    f"an activation is not finite on '{path}'; the weights are damaged or training diverged: give a "
                    "checkpoint whose validation works"
                )
            raw = raw[0] if isinstance(raw, tuple) else raw
            found = to_original(postprocess(raw, conf=CONF)[0], scale=scale, pad=pad, shape=shape)
            objects.append(_shares(found, shape))
            rows.append(list(reach))
            if clock() > next_line:
                progress(f"ran the model on {index + 1} of {len(images)} images")
                next_line = clock() + 10
    finally:
        for hook in hooks:
            hook.remove()
    table = np.array(rows, np.float64).reshape(len(rows), -1, 2)
    return Responses(tuple(objects), table[..., 0], table[..., 1])


def _reach(output: torch.Tensor) -> tuple[float, float]:
    beyond = max(1, round(TAIL * output.numel()))
    top = output.abs().flatten().topk(beyond, sorted=True).values
    return float(top[0]), float(top[-1])


def _shares(found: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return detections (n, 6) in pixels of an image as class and centre box in shares of it."""
    size = np.array([shape[1], shape[0]], np.float32)
    low, high = found[:, :2] / size, found[:, 2:4] / size
    return np.column_stack([found[:, 5], (low + high) / 2, high - low])
