# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantized convolution weights: symmetric codes of a few bits, with a scale per output channel or per block of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from yolo_compress.quantize.affine import SMALLEST_SCALE
from yolo_compress.quantize.codebook import fit_codebook
from yolo_compress.quantize.forms import WEIGHT_FORMS, Cast, WeightKind, as_cast, nearest_level

SHARES = np.linspace(1.0, 0.4, 25)  # of the largest weight, that a scale of few bits is tried at


@dataclass(frozen=True)
class WeightForm:
    """The form of a weight quantizer.

    Attributes:
        bits: Of a code.
        group: How many input channels share a scale; None where a whole output channel does.
        avoid_overflow: Scale for CPUs without VNNI, see `channel_peaks`.
        kind: What values there are, a name of `WEIGHT_FORMS`. The codes of `uniform` are symmetric, from
            `-(2^(bits - 1) - 1)` to `2^(bits - 1) - 1`.
    """

    bits: int = 8
    group: int | None = None
    avoid_overflow: bool = False
    kind: str = "uniform"

    @property
    def entry(self) -> WeightKind:
        """What is registered of the kind."""
        return WEIGHT_FORMS[self.kind]

    @property
    def levels(self) -> np.ndarray | None:
        """All codes in order, None where they stand for the values of a table or there are none."""
        return self.entry.levels(self.bits) if self.entry.levels else None

    @property
    def highest(self) -> int:
        """The largest code; 1 for a table, whose values are shares of the largest weight."""
        if self.kind == "uniform":
            return 2 ** (self.bits - 1) - 1
        return int(self.levels[-1]) if self.levels is not None else 1

    @property
    def code_type(self) -> type[np.int8] | type[np.int16]:
        """The type that codes are stored in."""
        return np.int8 if self.highest <= 127 else np.int16

    @property
    def in_bytes(self) -> bool:
        """Whether integer kernels can take the codes as they are: whole numbers of at most eight bits."""
        return self.levels is not None and self.highest <= 127

    @property
    def fits_int4(self) -> bool:
        """Whether two codes fit into a byte."""
        return self.bits <= 4 if self.levels is None else self.highest <= 7

    @property
    def pairs_limited(self) -> bool:
        """Whether sums of two codes have to be kept small; those of 7 bits and fewer, and powers of two, always are."""
        return self.avoid_overflow and self.kind == "uniform" and self.bits == 8

    def blocks(self, inputs: int) -> int:
        """Return how many scales an output channel with this many inputs gets; one where `group` does not divide it."""
        return inputs // self.group if self.group and inputs % self.group == 0 else 1

    def words(self, blocks: int) -> str:
        """Return the form of a layer with so many scales per channel in a few words."""
        if self.entry.cast:
            return self.kind
        across = f"per {self.group} inputs of a channel" if blocks > 1 else "per channel"
        names = {"uniform": f"int{self.bits} symmetric", "binary": "binary", "ternary": "ternary"}
        names |= {"pow2": f"powers of two, {self.bits} bits,", "codebook": f"codebook of {2**self.bits}, scaled"}
        return f"{names[self.kind]} {across}" + (", paired sums within 127" if self.pairs_limited else "")


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes of a weight and what they stand for.

    Attributes:
        codes: (output channels, input channels, height, width); int8, int16 where they are wider, uint8 where they are
            numbers of a table's values, float32 where they are values of a narrower type.
        scales: (output channels, blocks) float32; a block is as many consecutive input channels as divide evenly.
        table: (2^bits,) float32, in order: how many scales each code stands for; None where the code says so itself.
        cast: The type that the codes are values of, None where they are whole numbers.
    """

    codes: np.ndarray
    scales: np.ndarray
    table: np.ndarray | None = None
    cast: Cast | None = None

    @property
    def spread(self) -> np.ndarray:
        """The scale of each weight, in a shape that broadcasts over `codes`."""
        return spread(self.scales, self.codes.shape[1])

    @property
    def steps(self) -> np.ndarray:
        """How many scales each weight is, as float32."""
        return self.codes.astype(np.float32) if self.table is None else self.table[self.codes]

    @property
    def values(self) -> np.ndarray:
        """The float32 weights that the codes stand for."""
        return self.steps * self.spread

    def with_steps(self, steps: np.ndarray) -> QuantizedWeight:
        """Return the same scales with other codes, given as what they stand for in scales."""
        codes = steps if self.table is None else nearest_level(steps, self.table)
        return replace(self, codes=codes.astype(self.codes.dtype))


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

    With 8 bits and more the scale is `peak / highest`. With fewer, clipping a few weights can cost less than coarse
    steps for all: the scale is the share of the peak in `SHARES` with the least squared error, and for binary and
    ternary weights the best of all. A codebook is fitted to the weights as shares of their scale's peak, each counted
    with the square of that scale, so that the error of the weights themselves is least.

    Args:
        weight: (output channels, input channels, height, width) float32.
        form: Kind, bits, blocks and whether sums are limited.
        smallest: Scales are at least this, (output channels, 1) or one number.
    """
    if form.entry.cast:
        return with_scales(weight, np.ones((len(weight), 1), np.float32), form)
    peaks = channel_peaks(weight, form)
    if form.kind == "codebook":
        scales = np.maximum(peaks, SMALLEST_SCALE)
        wide = np.broadcast_to(spread(scales, weight.shape[1]), weight.shape)
        table = fit_codebook((weight / wide).ravel(), (wide**2).ravel(), 2**form.bits)
        return with_scales(weight, scales, form, table)
    if form.entry.scales:
        rows = weight.reshape(peaks.size, -1)
        best = form.entry.scales(rows).reshape(peaks.shape)
        return with_scales(weight, np.maximum(np.maximum(best, SMALLEST_SCALE), smallest).astype(np.float32), form)
    shares = SHARES if form.kind != "uniform" or form.bits < 8 else SHARES[:1]
    best, scales = None, np.zeros_like(peaks)
    for share in shares:
        tried = np.maximum(np.maximum(share * peaks / form.highest, SMALLEST_SCALE), smallest).astype(np.float32)
        values = _codes(weight, tried, form) * spread(tried, weight.shape[1])
        error = ((values - weight) ** 2).reshape(len(weight), peaks.shape[1], -1).sum(axis=2)
        better = np.ones_like(error, bool) if best is None else error < best
        best = error if best is None else np.where(better, error, best)
        scales = np.where(better, tried, scales)
    return with_scales(weight, scales, form)


def with_scales(
    weight: np.ndarray, scales: np.ndarray, form: WeightForm, table: np.ndarray | None = None
) -> QuantizedWeight:
    """Return a weight rounded to the nearest codes of scales (output channels, blocks), and a table, that are known."""
    if form.entry.cast:
        return QuantizedWeight(as_cast(weight, form.entry.cast), scales, cast=form.entry.cast)
    if table is not None:
        numbers = nearest_level(weight / spread(scales, weight.shape[1]), table)
        return QuantizedWeight(numbers.astype(np.uint8), scales, table)
    return QuantizedWeight(_codes(weight, scales, form).astype(form.code_type), scales)


def _codes(weight: np.ndarray, scales: np.ndarray, form: WeightForm) -> np.ndarray:
    ratio = weight / spread(scales, weight.shape[1])
    if form.kind == "uniform":
        return np.rint(np.clip(ratio, -form.highest, form.highest))
    assert form.levels is not None
    return form.levels[nearest_level(ratio, form.levels)]
