# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The kinds of numbers that weights can become: which values their codes take, and what scale fits them best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Cast = Literal["float16", "bfloat16"]


@dataclass(frozen=True)
class WeightKind:
    """An entry of WEIGHT_FORMS.

    Attributes:
        name: What the option `weight_form` says.
        description: One line for `yolo-compress list`.
        bits: How many a code can have; the one that is taken when nothing is said stands in `default_bits`.
        levels: Returns the codes in order, by the number of bits; None where a codebook or a type says what there is.
        scales: Returns the scale of each row of weights that makes the squared error least; None where it is searched.
        cast: The type that weights are rounded to, None where they have codes.
    """

    name: str
    description: str
    bits: range
    default_bits: int
    levels: Callable[[int], np.ndarray] | None = None
    scales: Callable[[np.ndarray], np.ndarray] | None = None
    cast: Cast | None = None


def uniform_levels(bits: int) -> np.ndarray:
    """Return all whole numbers from `-(2^(bits - 1) - 1)` to `2^(bits - 1) - 1`."""
    highest = 2 ** (bits - 1) - 1
    return np.arange(-highest, highest + 1)


def power_levels(bits: int) -> np.ndarray:
    """Return zero and `+-2^k` for `k = 0 .. 2^(bits - 1) - 2`, so that a product is a shift: 1 to 64 with 4 bits.

    A weight takes the nearest of them, as in Zhou et al. 2017 (Incremental Network Quantization, equation 4): the
    border lies at `1.5 * 2^k`. Rounding the exponent instead (Miyashita et al. 2016) puts it at `1.41 * 2^k`, which can
    only add to the squared error.
    """
    powers = 2 ** np.arange(2 ** (bits - 1) - 1)
    return np.concatenate([-powers[::-1], [0], powers])


def binary_scales(rows: np.ndarray) -> np.ndarray:
    """Return `mean |w|` of each row (rows, n), the scale with the least `sum (w - s sign(w))^2`.

    Source: Rastegari et al. 2016, XNOR-Net, equation 6.
    """
    return np.abs(rows).mean(axis=1, dtype=np.float64).astype(np.float32)


def ternary_scales(rows: np.ndarray) -> np.ndarray:
    """Return the scale s of each row (rows, n) with the least `sum (w - s t)^2` over all s and all t of -1, 0 and 1.

    Among the k largest weights the best scale is their mean, `s_k = S_k / k` with S_k the sum of their magnitudes, and
    it takes `S_k^2 / k` off the error. The best k is looked for among all, where Li and Liu 2016 (Ternary Weight
    Networks, section 2.2) take the weights above `0.7 mean |w|`, their estimate for normal and even distributions. At
    the best k every weight has the nearest of the three values, so the threshold is `s / 2`.
    """
    largest = np.sort(np.abs(rows).astype(np.float64), axis=1)[:, ::-1]
    sums, counts = np.cumsum(largest, axis=1), np.arange(1, rows.shape[1] + 1)
    best = np.argmax(sums**2 / counts, axis=1)
    return (np.take_along_axis(sums, best[:, None], axis=1)[:, 0] / counts[best]).astype(np.float32)


def midpoints(levels: np.ndarray) -> np.ndarray:
    """Return the borders between neighbouring levels; the upper one has what lies on the border."""
    return ((levels[1:].astype(np.float64) + levels[:-1]) / 2).astype(np.float32)


def nearest_level(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the number of the nearest of ordered levels, in the shape of the values."""
    return np.searchsorted(midpoints(levels), values, side="right")


def as_cast(values: np.ndarray, cast: Cast) -> np.ndarray:
    """Return float32 values rounded to the nearest of a narrower type, ties to even; none becomes infinite."""
    if cast == "float16":
        largest = np.finfo(np.float16).max
        return np.clip(values, -largest, largest).astype(np.float16).astype(np.float32)
    whole = np.clip(values, -BFLOAT16_MAX, BFLOAT16_MAX).astype(np.float32).view(np.uint32)
    rounded = whole + np.uint32(0x7FFF) + ((whole >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


BFLOAT16_MAX = float(np.array(0x7F7F0000, np.uint32).view(np.float32))

WEIGHT_FORMS = {
    kind.name: kind
    for kind in (
        WeightKind("uniform", "Equal steps around zero.", range(2, 17), 8, levels=uniform_levels),
        WeightKind(
            "binary",
            "Two values, scale mean |w| (Rastegari et al. 2016).",
            range(1, 2),
            1,
            levels=lambda bits: np.array([-1, 1]),
            scales=binary_scales,
        ),
        WeightKind(
            "ternary",
            "Two values and zero, scale and threshold with the least squared error (after Li and Liu 2016).",
            range(2, 3),
            2,
            levels=lambda bits: np.array([-1, 0, 1]),
            scales=ternary_scales,
        ),
        WeightKind(
            "pow2", "Powers of two and zero, the nearest (Zhou et al. 2017).", range(2, 6), 4, levels=power_levels
        ),
        WeightKind(
            "codebook",
            "Values of a table per layer, fitted by Lloyd's algorithm (Lloyd 1982, Han et al. 2016).",
            range(1, 9),
            4,
        ),
        WeightKind("fp16", "Half precision; half the file, computed in float32.", range(16, 17), 16, cast="float16"),
        WeightKind("bf16", "bfloat16; half the file, computed in float32.", range(16, 17), 16, cast="bfloat16"),
    )
}
