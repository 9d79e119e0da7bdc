# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a convolution reads at sampled output positions: the rows that layer-wise statistics and regressions run on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Positions:
    """Output positions of a batch: image, row and column of each, (P,) integers."""

    image: torch.Tensor
    y: torch.Tensor
    x: torch.Tensor

    def rows(self, maps: torch.Tensor) -> torch.Tensor:
        """Return what (N, C, H, W) holds there, as (P, C)."""
        return maps[self.image, :, self.y, self.x]


def draw(images: int, height: int, width: int, count: int, generator: torch.Generator) -> Positions:
    """Draw up to `count` positions of each image without replacement; all of them where there are not more."""
    area = height * width
    if area <= count:
        flat = torch.arange(area).repeat(images)
        count = area
    else:
        flat = torch.rand(images, area, generator=generator).topk(count, dim=1).indices.flatten()
    return Positions(torch.arange(images).repeat_interleave(count), flat // width, flat % width)


def patches(conv: nn.Conv2d, x: torch.Tensor, at: Positions) -> torch.Tensor:
    """Return what a convolution reads at output positions, as rows in the order of its flattened weights.

    Args:
        conv: With zero padding.
        x: Its input, (N, C, H, W).
        at: Positions of its output.

    Returns:
        (P, C kh kw), such that `rows @ weight.flatten(1).T` is its output there, without bias, for one group.
    """
    (kh, kw), (sy, sx), (dy, dx), (py, px) = conv.kernel_size, conv.stride, conv.dilation, conv.padding
    if py or px:
        x = functional.pad(x, (px, px, py, py))
    found = [
        x[at.image, :, at.y * sy + i * dy, at.x * sx + j * dx] for i in range(kh) for j in range(kw)
    ]  # (P, C) each
    return torch.stack(found, 2).flatten(1) if len(found) > 1 else found[0]


class Moments:
    """Running mean and second moment of rows, in float64 sums of float32 products."""

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.total = torch.zeros(columns, dtype=torch.float64)
        self.products = torch.zeros(columns, columns, dtype=torch.float64)

    def add(self, rows: torch.Tensor) -> None:
        """Take (P, columns) rows into account."""
        self.count += len(rows)
        self.total += rows.sum(0).double().cpu()
        self.products += (rows.T @ rows).double().cpu()

    def covariance(self) -> torch.Tensor:
        """Return the covariance of the rows, (columns, columns)."""
        mean = self.total / self.count
        return self.products / self.count - torch.outer(mean, mean)
