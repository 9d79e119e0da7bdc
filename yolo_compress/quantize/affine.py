# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The linear quantizer: floats to integer codes and back, exactly as ONNX QuantizeLinear and DequantizeLinear do it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SMALLEST_SCALE = np.float32(1e-12)  # a range of width zero still needs a scale that can be divided by


@dataclass(frozen=True)
class Affine:
    """One scale and zero point for a whole tensor.

    `x_q = clamp(round(x / scale) + zero_point)` with ties to even, and `x' = (x_q - zero_point) * scale`.

    Attributes:
        scale: The width of a step.
        zero_point: The code of zero.
        signed: Whether codes lie around zero.
        bits: Of a code, 2 to 16; of codes of fewer than 8, or 9 to 15, their type could hold more.
    """

    scale: np.float32
    zero_point: int
    signed: bool
    bits: int = 8

    @property
    def code_range(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return code_range(self.signed, self.bits)

    @property
    def dtype(self) -> type[np.int8] | type[np.uint8] | type[np.int16] | type[np.uint16]:
        """The type of a code: the smallest of whole bytes."""
        if self.bits > 8:
            return np.int16 if self.signed else np.uint16
        return np.int8 if self.signed else np.uint8

    @property
    def fills_type(self) -> bool:
        """Whether the type of a code holds nothing but codes."""
        return self.bits in (8, 16)

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


def code_range(signed: bool, bits: int) -> tuple[int, int]:
    """Return the smallest and the largest code of so many bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def from_range(low: float, high: float, *, signed: bool, symmetric: bool, bits: int = 8) -> Affine:
    """Return the quantizer that covers [low, high], widened to hold zero, which always gets a code of its own.

    Asymmetric: `scale = (high - low) / (2^bits - 1)`, `zero_point = code_min - round(low / scale)`.
    Symmetric: `scale = max(|low|, |high|) / (2^(bits - 1) - 1)`, `zero_point = 0`, in the middle where unsigned.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    smallest, largest = code_range(signed, bits)
    if symmetric:
        half = 2 ** (bits - 1)
        scale = max(np.float32(max(-low, high) / (half - 1)), SMALLEST_SCALE)
        return Affine(scale, 0 if signed else half, signed, bits)
    scale = max(np.float32((high - low) / (largest - smallest)), SMALLEST_SCALE)
    return Affine(scale, int(np.clip(smallest - np.rint(low / scale), smallest, largest)), signed, bits)
