# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Frozen teachers, and what each of them says of a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yolo_compress.distill.answer import Answer, Branch, Scene, Side, Taps, head_channels
from yolo_compress.errors import UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.detect import decoded_boxes
from yolo_compress.host.ultralytics import Conv, DetectionModel
from yolo_compress.recipe.distill import TeacherOptions

SHARPNESS = 10.0  # of the softmax that turns how well teachers find an image's objects, in 0 to 1, into shares


class Teacher:
    """A detector in eval mode without gradients, its BatchNorm folded into its convolutions."""

    def __init__(self, options: TeacherOptions | str | Path) -> None:
        self.options = options if isinstance(options, TeacherOptions) else TeacherOptions(path=str(options))
        self.path = Path(self.options.path)
        model = checkpoint.load_model(self.path)
        model.requires_grad_(False)
        fold_(model)
        # The head alone is told that it trains: it then returns raw boxes, scores and features without decoding them.
        model.model[-1].training = True
        self.side = Side(model, head_channels(model), f"teacher '{self.path}'")
        self._taps = Taps(())
        self._classes: torch.Tensor | None = None
        self._kept: dict[bytes, Answer] | None = None

    def __call__(self, images: torch.Tensor) -> Answer:
        """Return the answer to images (N, 3, H, W) in 0 to 1; once it is prepared, for the student's classes."""
        if self._kept is None:
            return self._answer(images)
        digests = [hashlib.blake2b(i.contiguous().cpu().numpy().tobytes(), digest_size=16).digest() for i in images]
        if not all(digest in self._kept for digest in digests):
            answer = self._answer(images)
            for index, digest in enumerate(digests):
                self._kept[digest] = _each(lambda t, i=index: t[i : i + 1].to("cpu", torch.float16, copy=True), answer)
            return answer
        return _each(lambda *parts: torch.cat(parts).to(images.device).float(), *(self._kept[d] for d in digests))

    def prepare(self, classes: Sequence[int], taps: Sequence[str], *, device: torch.device, cache: bool) -> None:
        """Move to a device, answer for the student's classes, and listen to what the losses read.

        Args:
            classes: From `class_index`.
            taps: Modules whose outputs are needed.
            device: Where the run computes.
            cache: Keep the answers, in half precision in main memory, and give them again for the same image.
        """
        self._classes = torch.tensor(classes)
        self._taps = Taps(taps)
        self.side.model.to(device)
        self._kept = {} if cache else None

    def class_index(self, student_names: Sequence[str]) -> tuple[int, ...]:
        """Return the teacher's class for each of the student's, matched by name.

        Raises:
            UsageError: The teacher does not know a class of the student.
        """
        known = {name.strip().lower(): index for index, name in enumerate(checkpoint.names(self.side.model))}
        missing = [name for name in student_names if name.strip().lower() not in known]
        if missing:
            raise UsageError(
                f"teacher '{self.path}' does not know {len(missing)} of the student's {len(student_names)} classes "
                f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); give a teacher that was trained on "
                "the same classes"
            )
        return tuple(known[name.strip().lower()] for name in student_names)

    def check_levels(self, student: Side) -> None:
        """Check that both heads predict at the same positions, and that the levels to teach exist.

        Raises:
            UsageError: They do not.
        """
        ours, theirs = list(student.strides), list(self.side.strides)
        if ours != theirs:
            raise UsageError(
                f"teacher '{self.path}' predicts at strides {theirs} and the student at {ours}; give a teacher with "
                "the same detection levels"
            )
        known = [level_number(stride) for stride in theirs]
        if unknown := [level for level in self.options.levels if level not in known]:
            raise UsageError(
                f"teacher '{self.path}' has no level P{unknown[0]}; its levels are {', '.join(f'P{k}' for k in known)}"
            )

    def level_weights(self) -> torch.Tensor:
        """Return (levels,) its weight, zero at levels that it does not teach."""
        levels = self.options.levels
        taught = [not levels or level_number(stride) in levels for stride in self.side.strides]
        return torch.tensor(taught).float() * self.options.weight

    @torch.no_grad()
    def _answer(self, images: torch.Tensor) -> Answer:
        self._taps.open(self.side.model)
        try:
            outputs = self.side.model(images)
        finally:
            taps = self._taps.close()
        return Answer.read(outputs, taps, self._classes)


def level_number(stride: float) -> int:
    """Return 3 for the level of stride 8, which the field calls P3, and so on."""
    return round(stride).bit_length() - 1


def fit(answer: Answer, scene: Scene, strides: Sequence[float]) -> torch.Tensor:
    """Return how well an answer finds the labelled objects of each image, (N,) in 0 to 1.

    Of an object it is the best `score of its class * IoU` of any anchor, of an image the mean over its objects, and 0
    where there is none, so that teachers share such an image evenly.
    """
    assert scene.boxes is not None
    assert scene.owner is not None
    assert scene.classes is not None
    branch = answer.sparse or answer.dense
    corners = decoded_boxes(branch.distances(), [f.shape[-2:] for f in answer.features], strides)
    found = corners.new_zeros(scene.images)
    count = corners.new_zeros(scene.images)
    size = torch.tensor(scene.size[::-1] * 2).to(corners)
    for box, owner, label in zip(scene.boxes.to(corners) * size, scene.owner.long(), scene.classes.long(), strict=True):
        low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
        x1, y1, x2, y2 = corners[owner]
        both = (torch.minimum(x2, high[0]) - torch.maximum(x1, low[0])).clamp(min=0)
        both = both * (torch.minimum(y2, high[1]) - torch.maximum(y1, low[1])).clamp(min=0)
        areas = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0) + box[2] * box[3]
        score = branch.scores[owner, label].float().sigmoid()
        found[owner] += (score * both / (areas - both).clamp(min=1e-9)).max()
        count[owner] += 1
    return found / count.clamp(min=1)


def shares(fits: torch.Tensor) -> torch.Tensor:
    """Return (teachers, N) shares of an image that average to 1, from how well each teacher finds its objects."""
    return (SHARPNESS * fits).softmax(0) * len(fits)


def fold_(model: DetectionModel) -> None:
    """Fold every BatchNorm into the convolution in front of it; unlike the host's fuse(), no branch of a head goes."""
    for module in model.modules():
        if isinstance(module, Conv) and isinstance(module.bn, torch.nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = torch.nn.Identity()


def _each(change: Callable[..., torch.Tensor], *answers: Answer) -> Answer:
    """Return an answer whose tensors are made from those at the same place of the given ones."""

    def branch(parts: Sequence[Branch]) -> Branch:
        return Branch(change(*(p.scores for p in parts)), change(*(p.boxes for p in parts)))

    first = answers[0]
    sparse = None if first.sparse is None else branch([a.sparse for a in answers if a.sparse is not None])
    features = tuple(change(*level) for level in zip(*(a.features for a in answers), strict=True))
    taps = {name: change(*(a.taps[name] for a in answers)) for name in first.taps}
    return Answer(branch([a.dense for a in answers]), sparse, features, taps)
