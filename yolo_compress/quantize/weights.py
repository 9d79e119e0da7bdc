# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantized convolution weights: symmetric codes of a few bits, with a scale per output channel or per block of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from yolo_compress.quantize.affine import SMALLEST_SCALE

SHARES = np.linspace(1.0, 0.4, 25)  # of the largest weight, that a scale of few bits is tried at


@dataclass(frozen=True)
class WeightForm:
    """The form of a weight quantizer.

    Attributes:
        bits: Of a code; codes are symmetric, from `-(2^(bits - 1) - 1)` to `2^(bits - 1) - 1`.
        group: How many input channels share a scale; None where a whole output channel does.
        avoid_overflow: Scale for CPUs without VNNI, see `channel_peaks`.
    """

    bits: int = 8
    group: int | None = None
    avoid_overflow: bool = False

    @property
    def highest(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1

    @property
    def pairs_limited(self) -> bool:
        """Whether sums of two codes have to be kept small; those of 7 bits and fewer always are."""
        return self.avoid_overflow and self.bits > 7

    def blocks(self, inputs: int) -> int:
        """Return how many scales an output channel with this many inputs gets; one where `group` does not divide it."""
        return inputs // self.group if self.group and inputs % self.group == 0 else 1

    def words(self, blocks: int) -> str:
        """Return the form of a layer with so many scales per channel in a few words."""
        across = f"per {self.group} inputs of a channel" if blocks > 1 else "per channel"
        return f"int{self.bits} symmetric {across}" + (", paired sums within 127" if self.pairs_limited else "")


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes of a weight and what they stand for.

    Attributes:
        codes: (output channels, input channels, height, width) int8.
        scales: (output channels, blocks) float32; a block is as many consecutive input channels as divide evenly.
    """

    codes: np.ndarray
    scales: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        """The scale of each weight, in a shape that broadcasts over `codes`."""
        return spread(self.scales, self.codes.shape[1])

    @property
    def values(self) -> np.ndarray:
        """The float32 weights that the codes stand for."""
        return self.codes.astype(np.float32) * self.spread

    def with_codes(self, codes: np.ndarray) -> QuantizedWeight:
        """Return the same scales with other codes."""
        return replace(self, codes=codes.astype(np.int8))


def spread(scales: np.ndarray, inputs: int) -> np.ndarray:
    """Return scales (outputs, blocks) as (outputs, inputs, 1, 1)."""
    return np.repeat(scales, inputs // scales.shape[1], axis=1)[:, :, None, None]


def channel_peaks(weight: np.ndarray, form: WeightForm) -> np.ndarray:
    """Return what the highest code must stand for, per output channel and block, as float32 (outputs, blocks).

    Normally `max|w|`. x86 CPUs without VNNI multiply unsigned 8-bit activations by weights in pairs (`vpmaddubsw`) and
    add each pair in 16 bits, which saturates once `255 (w_1 + w_2) > 32767`. Runtimes pair input channels 2k and
    2k + 1 at one kernel position, so `avoid_overflow` also keeps the sum of the positive and of the negative weights of
    every such pair within 127 codes (rounding both up may add one). That costs far less resolution than the usual
    remedy, half the codes for every weight. With an odd number of input channels the pairs depend on the runtime, so
    there all weights are halved; depthwise kernels widen each product and need nothing.

    Args:
        weight: (output channels, input channels, height, width) float32.
        form: Bits, blocks and whether sums are limited.
    """
    outputs, inputs = weight.shape[:2]
    flat = weight.reshape(outputs, inputs, -1)
    blocks = form.blocks(inputs)
    peak = np.abs(flat).reshape(outputs, blocks, -1).max(axis=2)
    if form.pairs_limited and inputs > 1:
        if inputs % 2:
            peak = peak * (127 / 64)
        else:
            pairs = flat.reshape(outputs, -1, 2, flat.shape[2])
            for sign in (1, -1):
                sums = np.maximum(sign * pairs, 0).sum(axis=2)
                peak = np.maximum(peak, sums.max(axis=(1, 2))[:, None])
    return peak.astype(np.float32)


def nearest(weight: np.ndarray, form: WeightForm, smallest: np.ndarray | float = 0.0) -> QuantizedWeight:
    """Return a weight rounded to the nearest codes.

    With 8 bits the scale is `peak / 127`. With fewer, clipping a few weights can cost less than coarse steps for all:
    the scale is the share of the peak in `SHARES` with the least squared error.

    Args:
        weight: (output channels, input channels, height, width) float32.
        form: Bits, blocks and whether sums are limited.
        smallest: Scales are at least this, (output channels, 1) or one number.
    """
    peaks = channel_peaks(weight, form)
    shares = SHARES if form.bits < 8 else SHARES[:1]
    best, scales = None, np.zeros_like(peaks)
    for share in shares:
        tried = np.maximum(np.maximum(share * peaks / form.highest, SMALLEST_SCALE), smallest).astype(np.float32)
        values = _codes(weight, tried, form) * spread(tried, weight.shape[1])
        error = ((values - weight) ** 2).reshape(len(weight), peaks.shape[1], -1).sum(axis=2)
        better = np.ones_like(error, bool) if best is None else error < best
        best = error if best is None else np.where(better, error, best)
        scales = np.where(better, tried, scales)
    return with_scales(weight, scales, form)


def with_scales(weight: np.ndarray, scales: np.ndarray, form: WeightForm) -> QuantizedWeight:
    """Return a weight rounded to the nearest codes of scales (output channels, blocks) that are known."""
    return QuantizedWeight(_codes(weight, scales, form).astype(np.int8), scales)


def _codes(weight: np.ndarray, scales: np.ndarray, form: WeightForm) -> np.ndarray:
    return np.rint(np.clip(weight / spread(scales, weight.shape[1]), -form.highest, form.highest))
