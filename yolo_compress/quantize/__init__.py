# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantization: a float ONNX becomes one Q/DQ ONNX in the form that a runtime wants, searched or learned."""

from __future__ import annotations

from yolo_compress.quantize.calibration_score import CalibrationScore
from yolo_compress.quantize.format import NumberFormat, format_of, number_format
from yolo_compress.quantize.forms import WEIGHT_FORMS
from yolo_compress.quantize.from_cache import quantize_from_cache
from yolo_compress.quantize.learned import Learned, quantize_learned
from yolo_compress.quantize.ptq import quantize_onnx
from yolo_compress.quantize.ranges import RANGES
from yolo_compress.quantize.result import LayerRow, QuantizeResult
from yolo_compress.quantize.rounding import ROUNDINGS
from yolo_compress.quantize.scheme import SCHEMES
from yolo_compress.quantize.sensitivity import QuantizeSensitivityRow, onnx_sensitivity
from yolo_compress.quantize.to_cache import Stripped, strip_quantizers

__all__ = (
    "RANGES",
    "ROUNDINGS",
    "SCHEMES",
    "WEIGHT_FORMS",
    "CalibrationScore",
    "LayerRow",
    "Learned",
    "NumberFormat",
    "QuantizeResult",
    "QuantizeSensitivityRow",
    "Stripped",
    "format_of",
    "number_format",
    "onnx_sensitivity",
    "quantize_from_cache",
    "quantize_learned",
    "quantize_onnx",
    "strip_quantizers",
)
