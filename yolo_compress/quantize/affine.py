# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The linear quantizer: floats to 8-bit codes and back, exactly as ONNX QuantizeLinear and DequantizeLinear do it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SMALLEST_SCALE = np.float32(1e-12)  # a range of width zero still needs a scale that can be divided by


@dataclass(frozen=True)
class Affine:
    """One scale and zero point for a whole tensor.

    `x_q = clamp(round(x / scale) + zero_point)` with ties to even, and `x' = (x_q - zero_point) * scale`.
    """

    scale: np.float32
    zero_point: int
    signed: bool

    @property
    def code_range(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return (-128, 127) if self.signed else (0, 255)

    @property
    def dtype(self) -> type[np.int8] | type[np.uint8]:
        """The type of a code."""
        return np.int8 if self.signed else np.uint8

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value that a code stands for."""
        low, high = self.code_range
        return float((low - self.zero_point) * self.scale), float((high - self.zero_point) * self.scale)

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Return the codes of float32 values, in their shape."""
        low, high = self.code_range
        # clamped before rounding, so that huge values cannot overflow; the limits are whole numbers, so it is the same
        ratio = np.clip(values.astype(np.float32) / self.scale, low - self.zero_point, high - self.zero_point)
        return (np.rint(ratio).astype(np.int32) + self.zero_point).astype(self.dtype)

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        """Return the float32 values that codes stand for, in their shape."""
        return (codes.astype(np.int32) - self.zero_point).astype(np.float32) * self.scale

    def round_trip(self, values: np.ndarray) -> np.ndarray:
        """Return values as they come out of quantizing and dequantizing."""
        return self.dequantize(self.quantize(values))


def from_range(low: float, high: float, *, signed: bool, symmetric: bool) -> Affine:
    """Return the quantizer that covers [low, high], widened to hold zero, which always gets a code of its own.

    Asymmetric: `scale = (high - low) / 255`, `zero_point = code_min - round(low / scale)`.
    Symmetric: `scale = max(|low|, |high|) / 127`, `zero_point = 0` (128 where codes are unsigned).
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if symmetric:
        scale = max(np.float32(max(-low, high) / 127), SMALLEST_SCALE)
        return Affine(scale, 0 if signed else 128, signed)
    scale = max(np.float32((high - low) / 255), SMALLEST_SCALE)
    smallest = -128 if signed else 0
    return Affine(scale, int(np.clip(smallest - np.rint(low / scale), smallest, smallest + 255)), signed)
