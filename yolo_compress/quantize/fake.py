# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantizers that training can learn: values in float that only take the places of codes.

A scale is trained by the gradient of Learned Step Size Quantization (Esser et al. 2020), which for `v = x / s` inside
the range of codes is `round(v) - v`, outside it the code of the edge, times `1 / sqrt(N * highest)`. The parameter is
the logarithm of the scale, so that a step is relative to it and it cannot become negative (as in Jain et al. 2020,
TQT); the gradient is divided by the square of the scale, so that plain gradient descent changes the scale by as much as
if it were the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from yolo_compress.quantize.affine import Affine
from yolo_compress.quantize.weights import WeightForm


class Quantizer(nn.Module):
    """What it holds stays in float32, whatever precision the model around it is turned to.

    Weights that are multiplied by a number for each output channel have the same codes where scales are as well, but
    not where `absolute` says that there are none.
    """

    absolute = False

    def scales(self, weight: torch.Tensor) -> np.ndarray:
        """Return the scales (outputs, blocks) that a weight is quantized with, as float32."""
        raise NotImplementedError

    def values_of_table(self) -> np.ndarray | None:
        """Return the values of a codebook in scales, None without one."""
        return None

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take up values, or stay as it is where a state comes from a checkpoint, which holds the float model alone."""
        if any(f"{prefix}{name}" in state for name in self._parameters):
            super()._load_from_state_dict(state, prefix, *rest)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Follow the model to a device, but not to half precision, which would move every code."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor[..., :0]).device), recurse)


class FakeQuantizer(Quantizer):
    """Scales that are learned."""

    log_scale: nn.Parameter

    def __init__(self, scales: torch.Tensor) -> None:
        """Begin with positive scales of any shape."""
        super().__init__()
        self.log_scale = nn.Parameter(scales.detach().float().log())

    def scale(self, count: int, highest: int) -> torch.Tensor:
        """Return the scales, whose gradient is that of the source for `count` values under each."""
        scale = self.log_scale.exp()
        if scale.requires_grad:
            factor = (count * highest) ** -0.5 / scale.detach() ** 2
            scale.register_hook(lambda gradient: gradient * factor)
        return scale


class ActivationQuantizer(FakeQuantizer):
    """One learned scale and a fixed zero point for a whole tensor, as `Affine` has them."""

    def __init__(self, start: Affine) -> None:
        """Begin with what calibration has chosen."""
        super().__init__(torch.tensor([float(start.scale)]))
        self.signed, self.bits, self.low, self.high = start.signed, start.bits, *start.code_range
        # counted from the lowest code: torch's backward truncates, and is one off where a zero point is negative
        above = float(start.zero_point - self.low)
        self.register_buffer("zero_point", torch.tensor([above]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what codes of x stand for, in its shape and type; computed in float32."""
        scale = self.scale(x[0].numel(), self.high)
        with torch.autocast(x.device.type, enabled=False):
            values = torch._fake_quantize_learnable_per_tensor_affine(
                x.float(), scale, self.zero_point, 0, self.high - self.low, 1.0
            )
        return values.to(x.dtype)

    def affine(self) -> Affine:
        """Return the quantizer as it stands."""
        zero_point = int(self.zero_point.item()) + self.low
        return Affine(np.float32(self.log_scale.exp().item()), zero_point, self.signed, self.bits)


class WeightQuantizer(FakeQuantizer):
    """A learned scale for each output channel, or for each block of its inputs; codes are symmetric."""

    def __init__(self, scales: np.ndarray, form: WeightForm) -> None:
        """Begin with scales (output channels, blocks)."""
        super().__init__(torch.from_numpy(scales))
        self.form = form

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return what codes of a weight (outputs, inputs, height, width) stand for, in float32."""
        rows = weight.float().reshape(self.log_scale.numel(), -1)
        scale = torch.maximum(self.scale(rows.shape[1], self.form.highest), self.floor(weight)).reshape(-1)
        zero, highest = torch.zeros_like(scale, requires_grad=False), self.form.highest
        values = torch._fake_quantize_learnable_per_channel_affine(rows, scale, zero, 0, -highest, highest, 1.0)
        return values.view(weight.shape)

    def floor(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the smallest scales with which no pair of products saturates, zero where nothing is limited."""
        if not self.form.pairs_limited:
            return torch.zeros_like(self.log_scale)
        pairs = pair_peaks(weight.detach().float())
        return (pairs / self.form.highest)[:, None].expand_as(self.log_scale)

    def scales(self, weight: torch.Tensor) -> np.ndarray:
        """Return the scales (outputs, blocks) that a weight is quantized with, as float32."""
        with torch.no_grad():
            return torch.maximum(self.log_scale.exp(), self.floor(weight)).cpu().numpy()


def pair_peaks(weight: torch.Tensor) -> torch.Tensor:
    """Return the largest sum of like signs over pairs of inputs, by output channel, as `weights.channel_peaks` does.

    Zero for depthwise weights, which need no care; with an odd number of inputs every weight counts about twice.
    """
    outputs, inputs = weight.shape[:2]
    flat = weight.reshape(outputs, inputs, -1)
    if inputs == 1:
        return flat.new_zeros(outputs)
    if inputs % 2:
        return flat.abs().amax((1, 2)) * (127 / 64)
    pairs = flat.reshape(outputs, inputs // 2, 2, -1)
    return torch.maximum(pairs.clamp(min=0).sum(2), pairs.clamp(max=0).sum(2).abs()).amax((1, 2))
