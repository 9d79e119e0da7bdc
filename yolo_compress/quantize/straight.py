# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Weight quantizers of other kinds than equal steps, for training: gradients go straight through to the weights.

Except where a class says otherwise, the gradient of a weight is that of its quantized value (the straight-through
estimator of Bengio et al. 2013), so that a weight which is far from its level still moves: `v = w + (Q(w) - w)`, with
the difference held constant.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from yolo_compress.quantize.fake import FakeQuantizer, Quantizer, WeightQuantizer
from yolo_compress.quantize.forms import midpoints
from yolo_compress.quantize.weights import WeightForm


def weight_quantizer(scales: np.ndarray, form: WeightForm, table: np.ndarray | None = None) -> Quantizer:
    """Return the quantizer of a form, which begins with scales (output channels, blocks) and the values of a table."""
    if form.entry.cast:
        return CastQuantizer(form)
    if table is not None:
        return CodebookQuantizer(scales, table)
    return QUANTIZERS[form.kind](scales, form)


class LevelQuantizer(FakeQuantizer):
    """Levels in unequal steps, with a learned scale for each output channel or block.

    As in LSQ (Esser et al. 2020), with `v = w / s` and q(v) its nearest level, the gradient of the scale is `q(v) - v`
    between the outermost levels and the outermost level outside, and that of the weight one between and zero outside.
    """

    def __init__(self, scales: np.ndarray, form: WeightForm) -> None:
        """Begin with scales (output channels, blocks)."""
        super().__init__(torch.from_numpy(scales))
        self.form = form
        self.register_buffer("levels", torch.from_numpy(form.levels.astype(np.float32)), persistent=False)
        self.register_buffer("borders", torch.from_numpy(midpoints(form.levels)), persistent=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return what codes of a weight (outputs, inputs, height, width) stand for, in float32."""
        rows = weight.float().reshape(self.log_scale.numel(), -1)
        scale = self.scale(rows.shape[1], self.form.highest).reshape(-1, 1)
        ratio = rows / scale
        inside = ratio.clamp(self.levels[0], self.levels[-1])
        codes = inside + (self.levels[_places(ratio, self.borders)] - inside).detach()
        return (codes * scale).view(weight.shape)

    def scales(self, weight: torch.Tensor) -> np.ndarray:
        """Return the scales (outputs, blocks)."""
        return self.log_scale.detach().exp().cpu().numpy()


class FollowingQuantizer(Quantizer):
    """Binary and ternary weights: the scales are those that fit the weights best, whatever training makes of them.

    Sources: Rastegari et al. 2016 (XNOR-Net), Li and Liu 2016 (Ternary Weight Networks).
    """

    def __init__(self, scales: np.ndarray, form: WeightForm) -> None:
        """Take how many scales there are, (output channels, blocks)."""
        super().__init__()
        self.form, self.shape = form, scales.shape

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return what codes of a weight (outputs, inputs, height, width) stand for, in float32."""
        rows = weight.float().reshape(self.shape[0] * self.shape[1], -1)
        fixed = rows.detach()
        scale = BEST_SCALES[self.form.kind](fixed)
        levels = torch.as_tensor(self.form.levels, dtype=torch.float32, device=rows.device)
        borders = torch.as_tensor(midpoints(self.form.levels), device=rows.device)
        values = levels[_places(fixed / scale, borders)] * scale
        return (rows + (values - fixed)).view(weight.shape)

    def scales(self, weight: torch.Tensor) -> np.ndarray:
        """Return the scales (outputs, blocks) of a weight."""
        rows = weight.detach().float().reshape(self.shape[0] * self.shape[1], -1)
        return BEST_SCALES[self.form.kind](rows).reshape(self.shape).cpu().numpy()


class CodebookQuantizer(Quantizer):
    """Values of a table under fixed scales; each value learns from all weights that have it.

    The gradient of a value is the sum over its weights of their gradients times their scales (Han et al. 2016, Deep
    Compression, equation 3).
    """

    def __init__(self, scales: np.ndarray, table: np.ndarray) -> None:
        """Begin with scales (output channels, blocks) and values in scales."""
        super().__init__()
        self.table = nn.Parameter(torch.from_numpy(table.copy()))
        self.register_buffer("fixed", torch.from_numpy(scales.copy()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the values of a weight (outputs, inputs, height, width), in float32."""
        rows, scale = weight.float().reshape(self.fixed.numel(), -1), self.fixed.reshape(-1, 1)
        table = self.table.sort().values  # training may let two values pass each other
        borders = (table[1:] + table[:-1]).detach() / 2
        values = table[_places(rows.detach() / scale, borders)] * scale
        return (values + (rows - rows.detach())).view(weight.shape)

    def scales(self, weight: torch.Tensor) -> np.ndarray:
        """Return the scales (outputs, blocks)."""
        return self.fixed.cpu().numpy()

    def values_of_table(self) -> np.ndarray:
        """Return the values in order."""
        return self.table.detach().sort().values.cpu().numpy()


class CastQuantizer(Quantizer):
    """Weights rounded to half precision or bfloat16."""

    absolute = True

    def __init__(self, form: WeightForm) -> None:
        """Take the type."""
        super().__init__()
        self.kind = getattr(torch, form.entry.cast or "float32")

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return a weight as the type holds it, in float32."""
        wide = weight.float()
        fixed, limits = wide.detach(), torch.finfo(self.kind)
        return wide + (fixed.clamp(limits.min, limits.max).to(self.kind).float() - fixed)

    def scales(self, weight: torch.Tensor) -> np.ndarray:
        """Return ones."""
        return np.ones((len(weight), 1), np.float32)


def binary_best(rows: torch.Tensor) -> torch.Tensor:
    """Return what `forms.binary_scales` does, as (rows, 1)."""
    return rows.abs().mean(1, keepdim=True).clamp(min=SMALLEST)


def ternary_best(rows: torch.Tensor) -> torch.Tensor:
    """Return what `forms.ternary_scales` does, as (rows, 1)."""
    sums = rows.abs().double().sort(1, descending=True).values.cumsum(1)
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    best = (sums**2 / counts).argmax(1, keepdim=True)
    return (sums.gather(1, best) / counts[best]).float().clamp(min=SMALLEST)


def _places(values: torch.Tensor, borders: torch.Tensor) -> torch.Tensor:
    return torch.bucketize(values, borders, right=True)


SMALLEST = 1e-12
BEST_SCALES = {"binary": binary_best, "ternary": ternary_best}
QUANTIZERS: dict[str, type[WeightQuantizer] | type[LevelQuantizer] | type[FollowingQuantizer]] = {
    "uniform": WeightQuantizer,
    "pow2": LevelQuantizer,
    "binary": FollowingQuantizer,
    "ternary": FollowingQuantizer,
}
