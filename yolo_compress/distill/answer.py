# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a detector says of a batch, and what a loss needs to know of the two that it compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from yolo_compress.errors import UsageError
from yolo_compress.host.detect import distances
from yolo_compress.host.ultralytics import DetectionModel
from yolo_compress.recipe.distill import LossOptions

DENSE, SPARSE = "one2many", "one2one"


@dataclass(frozen=True)
class Branch:
    """One branch of a head, before anything is decoded.

    Attributes:
        scores: Class logits (N, classes, anchors).
        boxes: (N, 4 * bins, anchors): the distribution of each side's distance, or the distance itself with one bin.
    """

    scores: torch.Tensor
    boxes: torch.Tensor

    def distances(self) -> torch.Tensor:
        """Return (N, 4, anchors) distances to the left, top, right and bottom side, in strides."""
        return distances(self.boxes.float())


@dataclass(frozen=True)
class Answer:
    """What one model says of a batch.

    Attributes:
        dense: The branch that every head has.
        sparse: The one-to-one branch of an end-to-end head.
        features: Per level what enters the head, (N, C, H, W).
        taps: Outputs of further modules, by name.
    """

    dense: Branch
    sparse: Branch | None
    features: tuple[torch.Tensor, ...]
    taps: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def read(
        cls, outputs: Mapping[str, Any], taps: Mapping[str, torch.Tensor], classes: torch.Tensor | None = None
    ) -> Answer:
        """Read what a head returns in training mode.

        Args:
            outputs: From the head.
            taps: Outputs of other modules.
            classes: Which of the head's classes to keep, and in which order; all when not given.
        """

        def branch(raw: Mapping[str, torch.Tensor]) -> Branch:
            scores = raw["scores"] if classes is None else raw["scores"][:, classes.to(raw["scores"].device)]
            return Branch(scores, raw["boxes"])

        dense = outputs.get(DENSE, outputs)
        sparse = branch(outputs[SPARSE]) if SPARSE in outputs else None
        return cls(branch(dense), sparse, tuple(dense["feats"]), taps)

    def branches(self, other: Answer) -> list[tuple[Branch, Branch, bool]]:
        """Pair this answer's branches with those of another; a sparse branch never follows dense targets.

        Returns:
            Ours, theirs, and whether the targets are sparse.
        """
        found = [(self.dense, other.dense, False)]
        if self.sparse is not None and other.sparse is not None:
            found.append((self.sparse, other.sparse, True))
        return found

    def lengths(self) -> list[int]:
        """Return how many anchors each level has."""
        return [feature.shape[-2] * feature.shape[-1] for feature in self.features]

    def belief(self) -> tuple[torch.Tensor, ...]:
        """Return per level the best class score of each position, (N, 1, H, W) in 0 to 1, a mean over the branches."""
        given = [branch.scores.float() for branch in (self.dense, self.sparse) if branch is not None]
        best = (sum(given) / len(given)).sigmoid().amax(1, keepdim=True)
        maps = zip(best.split(self.lengths(), -1), self.features, strict=True)
        return tuple(part.reshape(len(part), 1, *feature.shape[-2:]) for part, feature in maps)


@dataclass(frozen=True)
class Scene:
    """What a batch shows, beside the images.

    Attributes:
        size: Height and width of the images in pixels.
        images: How many there are.
        boxes: (boxes, 4) centre x, centre y, width, height in 0 to 1; None when training goes without labels.
        owner: (boxes,) the image of each box.
        classes: (boxes,) the student's class of each box.
        precision: Device type and dtype of the run's autocast, None where it computes in float32.
    """

    size: tuple[int, int]
    images: int
    boxes: torch.Tensor | None = None
    owner: torch.Tensor | None = None
    classes: torch.Tensor | None = None
    precision: tuple[str, torch.dtype] | None = None

    def autocast(self, device: torch.device) -> torch.autocast:
        """Compute in the precision of the run."""
        if self.precision is None:
            return torch.autocast(device.type, enabled=False)
        return torch.autocast(self.precision[0], dtype=self.precision[1])


@dataclass(frozen=True)
class Side:
    """One of the two models, as a loss is built for it.

    Attributes:
        model: The detector.
        channels: Per level the channels that enter the head; of a student that was pruned on the way, those it began
            with.
        name: How messages call it.
        widths: Channels that other modules gave when the run began, by name, where they give fewer now.
    """

    model: DetectionModel
    channels: tuple[int, ...]
    name: str
    widths: Mapping[str, int] = field(default_factory=dict)

    @property
    def head(self) -> nn.Module:
        """The detection head."""
        return self.model.model[-1]

    @property
    def strides(self) -> tuple[float, ...]:
        """Pixels between the anchors of each level."""
        return tuple(self.head.stride.tolist())

    def module(self, name: str) -> nn.Module:
        """Return a module by name.

        Raises:
            UsageError: There is none.
        """
        try:
            return self.model.get_submodule(name)
        except AttributeError:
            known = ", ".join(f"model.{layer.i}" for layer in self.model.model[-8:-1])
            raise UsageError(
                f"the {self.name} has no layer '{name}'; give modules that exist, such as {known}"
            ) from None


@dataclass(frozen=True)
class Pair:
    """Student and teacher, and what is asked of the loss that is built for them.

    Attributes:
        student: Who learns.
        teacher: Whom it follows.
        loss: Name of the loss.
        options: Its options.
        classes: The teacher's class for each of the student's.
    """

    student: Side
    teacher: Side
    loss: str
    options: LossOptions
    classes: tuple[int, ...]


class Taps:
    """Outputs of modules of one forward pass; hooks are on a model during that pass alone, so that none is saved."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._seen: dict[str, torch.Tensor] = {}
        self._handles: list[Any] = []

    def open(self, model: nn.Module) -> None:
        """Listen to the next forward pass."""
        self.close()
        for name in self.names:
            self._handles.append(model.get_submodule(name).register_forward_hook(self._listener(name)))

    def close(self) -> dict[str, torch.Tensor]:
        """Stop listening, and return what was heard."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        seen, self._seen = self._seen, {}
        return seen

    def _listener(self, name: str) -> Any:
        def listen(module: nn.Module, given: Any, output: torch.Tensor) -> None:
            self._seen[name] = output

        return listen


def head_channels(model: DetectionModel) -> tuple[int, ...]:
    """Return the channels of each feature map that enters a model's head."""
    first = (tower[0] for tower in model.model[-1].cv2)
    return tuple(conv.conv.in_channels for conv in first)
