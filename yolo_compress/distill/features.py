# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Losses on feature maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from yolo_compress.distill.answer import Answer, Pair, Scene, Side, Taps
from yolo_compress.distill.attention import channel_attention, map_distance, spatial_attention
from yolo_compress.distill.loss import DistillLoss, averaged
from yolo_compress.distill.projector import project, projectors
from yolo_compress.errors import UsageError

EPSILON = 1e-6  # keeps a constant channel from dividing by zero when it is standardised
MASKED = 0.65  # share of the positions that masked generation hides, as in the paper
BACKGROUND = 0.5  # weight of the background against the foreground, as in the paper
ATTENTION = 0.05  # weight of the attention maps against the features


def channel_wise_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Compare where each channel responds, as distributions over positions.

    `tau^2 / C * sum_c KL(softmax(t_nc / tau) || softmax(s_nc / tau))` per image n, the softmax over the H x W positions
    of features that are first standardised per channel over images and positions.

    Source: Shu et al. 2021, Channel-wise Knowledge Distillation for Dense Prediction; the standardisation is that of
    Cao et al. 2022, PKD.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W).
        temperature: tau.

    Returns:
        (N,).
    """
    logs = []
    for feature in (student, teacher):
        mean = feature.mean((0, 2, 3), keepdim=True)
        deviation = feature.std((0, 2, 3), keepdim=True, correction=0)
        logs.append((((feature - mean) / (deviation + EPSILON)).flatten(2) / temperature).log_softmax(2))
    divergence = F.kl_div(logs[0], logs[1], reduction="none", log_target=True).sum(2)
    return divergence.mean(1) * temperature**2


def weighted_squares(student: torch.Tensor, teacher: torch.Tensor, belief: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of features, weighted by the teacher's best score of each position.

    `sum_{c,x} belief_nx (s_ncx - t_ncx)^2 / (C * sum_{n,x} belief_nx)` per image n.

    Source: Ultralytics 8.4, DistillationModel.loss_sl2.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W).
        belief: (N, 1, H, W) in 0 to 1.

    Returns:
        (N,), whose sum is the loss.
    """
    squares = ((student - teacher) ** 2 * belief).sum((1, 2, 3))
    return squares / (belief.sum() * student.shape[1] + 1e-9)


def foreground(scene: Scene, height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Return (N, 1, H, W): in each position the inverse area, in positions, of the smallest object that covers it.

    Every object weighs the same that way, whatever its size; zero is background.

    Source: Yang et al. 2022, Focal and Global Knowledge Distillation for Detectors, equations 2 and 3.
    """
    assert scene.boxes is not None
    assert scene.owner is not None
    grid = torch.tensor([width, height, width, height]).to(like)
    centre, half = scene.boxes[:, :2] * grid[:2], scene.boxes[:, 2:] * grid[2:] / 2
    low, high = (centre - half).floor().clamp(min=0), (centre + half).ceil()
    x, y = torch.arange(width).to(like), torch.arange(height).to(like)
    inside_x = (x >= low[:, :1]) & (x < high[:, :1])
    inside_y = (y >= low[:, 1:]) & (y < high[:, 1:])
    inside = inside_y[:, :, None] & inside_x[:, None, :]
    scale = inside / inside.sum((1, 2), keepdim=True).clamp(min=1)
    mask = like.new_zeros(scene.images, height * width)
    owner = scene.owner.long()[:, None].expand(-1, height * width)
    return mask.scatter_reduce(0, owner, scale.to(mask).flatten(1), "amax").view(scene.images, 1, height, width)


def focal_squares(
    student: torch.Tensor, teacher: torch.Tensor, objects: torch.Tensor, temperature: float = 0.5
) -> torch.Tensor:
    """Return the squared distance of features where the teacher attends, objects and background apart.

    `sum_{c,x} (F_x / sum F + b * B_x / sum B) A^S_x A^C_c (s_cx - t_cx)^2 / C` per image, with F the weight of objects,
    B = 1 where F is zero, A^S and A^C the teacher's spatial and channel attention (both average to 1), b the weight of
    the background; and the distance of the attention maps of the two, as in `attention`.

    Source: Yang et al. 2022, Focal and Global Knowledge Distillation for Detectors, equations 4 to 8, with sums turned
    into means, so that a weight means the same at every image size.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W).
        objects: (N, 1, H, W), zero in the background.
        temperature: Of the attention.

    Returns:
        (N,).
    """
    space, channel = spatial_attention(teacher, temperature), channel_attention(teacher, temperature)
    background = (objects == 0).to(objects)
    shares = [part / part.sum((2, 3), keepdim=True).clamp(min=EPSILON) for part in (objects, background)]
    where = (shares[0] + BACKGROUND * shares[1]) * space[:, None]
    squares = ((student - teacher) ** 2 * channel[:, :, None, None] * where).sum((1, 2, 3)) / student.shape[1]
    return squares + ATTENTION * map_distance(student, teacher, temperature)


class FeatureLoss(DistillLoss):
    """A loss on feature maps that belong together: the inputs of the two heads, or the outputs of named modules."""

    takes_layers = True

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        layers, theirs = pair.options.layers, pair.options.teacher_layers or pair.options.layers
        if len(layers) != len(theirs):
            raise UsageError(
                f"{len(layers)} layers of the student and {len(theirs)} of the teacher are named; name as many of both"
            )
        self.student_taps, self.teacher_taps = layers, theirs
        self.widths = tuple(zip(_channels(pair.student, layers), _channels(pair.teacher, theirs), strict=True))
        self.projectors = self.make_projectors()

    def make_projectors(self) -> nn.ModuleList:
        """Return what brings the student's features to the teacher's channels."""
        return projectors(self.widths)

    def modules(self) -> nn.Module:
        """Return the projectors."""
        return self.projectors

    def pairs(self, student: Answer, teacher: Answer) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the projected features of a batch and the teacher's, in float32.

        Raises:
            UsageError: Two maps that are to be compared have different sizes.
        """
        if self.student_taps:
            ours = [student.taps[name] for name in self.student_taps]
            theirs = [teacher.taps[name] for name in self.teacher_taps]
        else:
            ours, theirs = list(student.features), list(teacher.features)
        for index, (s, t) in enumerate(zip(ours, theirs, strict=True)):
            if s.shape[-2:] != t.shape[-2:]:
                raise UsageError(
                    f"layer '{self.student_taps[index]}' of the student gives {tuple(s.shape)} and the teacher's "
                    f"{tuple(t.shape)}; name layers whose feature maps have the same size"
                )
        triples = zip(self.projectors, ours, theirs, strict=True)
        return [(project(projector, s, t), t.float()) for projector, s, t in triples]


class ChannelWise(FeatureLoss):
    """CWD, level by level."""

    default_temperature = 1.0

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Average over levels and images."""
        pairs = self.pairs(student, teacher)
        return averaged([channel_wise_divergence(s, t, self.temperature) for s, t in pairs])


class Mimic(FeatureLoss):
    """What Ultralytics' own distillation does, as a baseline: the same projectors, the same sum over levels."""

    def make_projectors(self) -> nn.ModuleList:
        """Return two convolutions with a ReLU between them per level, also where widths agree."""
        return nn.ModuleList(nn.Sequential(nn.Conv2d(s, t, 1), nn.ReLU(), nn.Conv2d(t, t, 1)) for s, t in self.widths)

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Sum over levels."""
        pairs = self.pairs(student, teacher)
        return torch.stack([weighted_squares(s, t, belief_at(teacher, t.shape[-2:])) for s, t in pairs])


class MaskedGeneration(FeatureLoss):
    """MGD: most positions of the student's features are hidden, and a generator makes the teacher's from the rest.

    `||G(f(s) * M) - t||^2 / (C H W)` per image, with f the projector, M a random mask that positions share over
    channels, and G two 3 x 3 convolutions with a ReLU between them.

    Source: Yang et al. 2022, Masked Generative Distillation, equations 3 and 4, with a mean in the place of the sum.
    """

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        self.generators = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1))
            for _, c in self.widths
        )

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Average over levels and images."""
        parts = []
        for generator, (s, t) in zip(self.generators, self.pairs(student, teacher), strict=True):
            mask = (torch.rand(len(s), 1, *s.shape[-2:], device=s.device) > MASKED).to(s)
            parts.append(((generator(s * mask) - t) ** 2).mean((1, 2, 3)))
        return averaged(parts)

    def modules(self) -> nn.Module:
        """Return projectors and generators."""
        return nn.ModuleList([self.projectors, self.generators])


class ForegroundBackground(FeatureLoss):
    """FGD's focal part; objects come from the labels, or without labels from the teacher's scores."""

    default_temperature = 0.5

    def __call__(self, student: Answer, teacher: Answer, scene: Scene) -> torch.Tensor:
        """Average over levels and images."""
        parts = []
        for s, t in self.pairs(student, teacher):
            size = t.shape[-2:]
            objects = belief_at(teacher, size) if scene.boxes is None else foreground(scene, *size, t)
            parts.append(focal_squares(s, t, objects, self.temperature))
        return averaged(parts)


def belief_at(answer: Answer, size: torch.Size | tuple[int, int]) -> torch.Tensor:
    """Return the best class score (N, 1, H, W) at a size; one that no level has is made from the finest level."""
    maps = answer.belief()
    fitting = [found for found in maps if found.shape[-2:] == tuple(size)]
    return fitting[0] if fitting else F.interpolate(maps[0], size=tuple(size), mode="bilinear", align_corners=False)


def _channels(side: Side, layers: tuple[str, ...]) -> tuple[int, ...]:
    """Return the channels of each named module's output, found by a small forward pass, or of the head's inputs."""
    if not layers:
        return side.channels
    for name in layers:
        side.module(name)  # said in our words where there is none
    taps = Taps(layers)
    modes = {module: module.training for module in side.model.modules()}
    taps.open(side.model)
    try:
        side.model.eval()
        with torch.no_grad():
            side.model(torch.zeros(1, 3, 64, 64).to(next(side.model.parameters())))
    finally:
        seen = taps.close()
        for module, mode in modes.items():  # one by one: a teacher's head trains where the rest of it does not
            module.training = mode
    found = []
    for name in layers:
        if not (torch.is_tensor(seen.get(name)) and seen[name].ndim == 4):
            raise UsageError(f"layer '{name}' of the {side.name} gives no feature map; name a block, such as model.15")
        found.append(seen[name].shape[1])
    return tuple(found)
