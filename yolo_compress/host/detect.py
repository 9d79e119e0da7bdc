# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Detection as Ultralytics does it: non-maximum suppression, coordinates, and the training loss."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  where it is loaded, as in `yolo val` and `yolo predict`, suppression is its kernel
from torch import nn

from yolo_compress.host.checkpoint import training_args
from yolo_compress.host.ultralytics import DetectionModel, non_max_suppression


def answer_densely(model: nn.Module) -> None:
    """Make a model answer by its one-to-many head, in place, as Ultralytics does by default.

    A checkpoint can say of itself that it answers by its one-to-one head; validation and export of Ultralytics override
    that with `nms=`, whose default is the other head.
    """
    if getattr(model, "end2end", False):
        model.end2end = False


def postprocess(
    raw: np.ndarray | torch.Tensor, *, conf: float = 0.001, iou: float = 0.7, max_det: int = 300
) -> list[np.ndarray]:
    """Turn raw model output into detections, with the settings of Ultralytics' validator.

    Args:
        raw: Either (N, 4 + classes, anchors) with centre boxes and class scores, or (N, K, 6) from an end-to-end head.
        conf: Scores up to this are dropped.
        iou: Overlap above which the lower score of a class is suppressed; not used on end-to-end output.
        max_det: Detections kept per image.

    Returns:
        One array (n, 6) per image: x1, y1, x2, y2 in letterboxed pixels, score, class.
    """
    tensor = torch.as_tensor(raw, dtype=torch.float32)
    end2end = tensor.ndim == 3 and tensor.shape[-1] == 6
    kept = non_max_suppression(
        tensor.clone(),  # boxes are converted in place
        conf_thres=conf,
        iou_thres=iou,
        multi_label=True,
        max_det=max_det,
        nc=0 if end2end else tensor.shape[1] - 4,
        end2end=end2end,
        max_time_img=float("inf"),  # a time limit would make accuracy depend on the machine's load
    )
    return [image[:, :6].cpu().numpy().astype(np.float32) for image in kept]


def to_original(
    detections: np.ndarray, *, scale: tuple[float, float], pad: tuple[int, int], shape: tuple[int, int]
) -> np.ndarray:
    """Map detections (n, 6) from letterboxed pixels to an image of `shape` (height, width), clipped to it."""
    mapped = detections.copy()
    mapped[:, [0, 2]] = ((mapped[:, [0, 2]] - pad[0]) / scale[0]).clip(0, shape[1])
    mapped[:, [1, 3]] = ((mapped[:, [1, 3]] - pad[1]) / scale[1]).clip(0, shape[0])
    return mapped


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (n, 4) and (m, 4), as x1, y1, x2, y2, as (n, m)."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:4], b[:, 2:4])
    inside = (high - low).clip(0).prod(axis=2)
    areas = [(box[:, 2:4] - box[:, :2]).prod(axis=1) for box in (a, b)]
    return inside / (areas[0][:, None] + areas[1] - inside + 1e-7)


def detection_loss(model: DetectionModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the training loss of a model on a labelled batch, as a scalar that gradients flow through.

    The model stays in the mode it is in, so that in eval mode BatchNorm uses its running statistics. In eval mode an
    end-to-end head does not cut its one-to-one branch off, so both branches reach the backbone.
    """
    twin = copy(model)  # shares every weight; the criterion reads hyperparameters from the model's attributes
    twin.args = training_args(model)
    criterion = twin.init_criterion()
    loss, _ = criterion(model(batch["img"]), batch)
    return loss.sum()


@dataclass(frozen=True)
class Response:
    """What one branch of a head says before any box is suppressed, differentiable.

    Attributes:
        scores: (N, classes, anchors) logits.
        distances: (N, 4, anchors) from the anchor to the left, top, right and bottom side, in strides.
    """

    scores: torch.Tensor
    distances: torch.Tensor


def responses(model: DetectionModel, images: torch.Tensor) -> list[Response]:
    """Return the response of each branch of the head: one, or one-to-many and one-to-one of an end-to-end head.

    Args:
        model: In eval mode, where no branch is cut off from the backbone.
        images: (N, 3, H, W) in 0 to 1.
    """
    return head_responses(model(images))


def head_responses(given: Any) -> list[Response]:
    """Return the response of each branch from what a head gave in eval mode."""
    raw = given[1]
    branches = [raw["one2many"], raw["one2one"]] if "one2many" in raw else [raw]
    return [Response(branch["scores"], distances(branch["boxes"])) for branch in branches]


def distances(boxes: torch.Tensor) -> torch.Tensor:
    """Return (N, 4, anchors) distances in strides from the box output of a head (N, 4 * bins, anchors).

    With several bins it is the mean of the distribution that they describe, with one it is the distance itself.
    """
    sides = boxes.unflatten(1, (4, -1))
    bins = torch.arange(sides.shape[2]).to(sides)
    return (sides.softmax(2) * bins[:, None]).sum(2) if len(bins) > 1 else sides[:, :, 0]


def decoded_boxes(distances: torch.Tensor, sizes: Sequence[tuple[int, int]], strides: Sequence[float]) -> torch.Tensor:
    """Return (N, 4, anchors) corners x1, y1, x2, y2 in pixels.

    Args:
        distances: (N, 4, anchors) to the left, top, right and bottom side, in strides.
        sizes: Height and width of each level's feature map.
        strides: Pixels per position of each level.
    """
    places, scale = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        places.append(torch.stack([x.flatten(), y.flatten()]))
        scale.append(torch.full((height * width,), float(stride)))
    place, pixels = torch.cat(places, 1).to(distances), torch.cat(scale).to(distances)
    return torch.cat([place - distances[:, :2], place + distances[:, 2:]], 1) * pixels


def class_outputs(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the last layer of each class tower, by name: one per level and branch of the head."""
    head = model.model[-1]
    branches = [name for name in ("cv3", "one2one_cv3") if getattr(head, name, None) is not None]
    towers = {f"model.{head.i}.{name}.{level}": t for name in branches for level, t in enumerate(getattr(head, name))}
    return {f"{name}.{len(tower) - 1}": tower[-1] for name, tower in towers.items()}
