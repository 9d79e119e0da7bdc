# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Float weights that lie on INT8 codes already, as those of a graph whose quantizers were taken out do."""

from __future__ import annotations

import numpy as np

from yolo_compress.quantize.weights import QuantizedWeight

# The largest code of a channel, in the order tried: 127 where the scale came from the largest weight; then the coarsest
# grid, so that codes share no factor; -128 last, which other quantizers use.
LARGEST_CODES = (127, *range(1, 127), 128)
PROBED = 8  # weights per channel that rule nearly all of them out


def keep_codes(weight: np.ndarray, start: QuantizedWeight) -> tuple[QuantizedWeight, int]:
    """Return codes and scales that stand for exactly the given weights, in the channels where there are such.

    A channel has them where `w = fl(code * scale)` holds in float32 for all of its weights. The scale is then within
    one unit in the last place of `max|w| / code` for the code of the largest weight.

    Args:
        weight: (outputs, inputs, height, width) float32.
        start: Its nearest codes with one scale per output channel; other channels keep those.

    Returns:
        The weight, and the number of channels that are exact.
    """
    flat = weight.reshape(len(weight), -1)
    codes, scales = start.codes.reshape(flat.shape).copy(), start.scales[:, 0].copy()
    peaks = np.abs(flat).max(axis=1)
    open_ = peaks > 0
    middle = (peaks / np.array(LARGEST_CODES, np.float32)[:, None]).astype(np.float32)
    below, above = (np.nextafter(middle, np.float32(limit)) for limit in (0, np.inf))
    tried = np.stack([middle, below, above], axis=1).reshape(-1, len(flat))
    # the largest weights first, whose codes have most digits to go wrong
    places = np.argsort(-np.abs(flat), axis=1)[:, :PROBED]
    likely = _exact(np.take_along_axis(flat, places, axis=1), tried)[1]
    for candidate in np.flatnonzero((likely & open_).any(axis=1)):
        channels = np.flatnonzero(likely[candidate] & open_)
        found, right = _exact(flat[channels], tried[candidate, channels])
        kept = channels[right]
        codes[kept], scales[kept] = found[right], tried[candidate, kept]
        open_[kept] = False
    return QuantizedWeight(codes.reshape(weight.shape), scales[:, None]), int(len(flat) - open_.sum())


def _exact(values: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of rows of weights under scales (..., rows), and which rows they stand for exactly."""
    steps = np.maximum(scales, np.finfo(np.float32).smallest_subnormal)[..., None]
    codes = np.clip(np.rint(values / steps), -128, 127).astype(np.int8)
    return codes, (codes.astype(np.float32) * steps == values).all(axis=-1)
