# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What each runtime wants to find in a Q/DQ graph, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PASSING = ("Concat", "MaxPool", "Resize", "Split")


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Where quantizers stand and what form they have.

    Attributes:
        name: The runtime.
        description: One line for `yolo-compress list`.
        signed: Activation codes are int8, else uint8.
        symmetric: Activation zero points are fixed in the middle of the codes.
        requantize: Outputs of passing operations get a quantizer of their own as well.
        conv_output: A quantizer stands between a convolution and its SiLU.
        residual: Which inputs of a residual addition are quantized: the skip, which is there as codes anyway, or both.
        int32_bias: Biases are int32 with scale input x weight, else they stay float.
        avoid_overflow: Weights are scaled for CPUs that add pairs of products in 16 bits.
        passing: Operations that move codes without changing them; their inputs and outputs share one scale.
    """

    name: str
    description: str
    signed: bool
    symmetric: bool
    requantize: bool
    conv_output: bool
    residual: Literal["skip", "both"]
    int32_bias: bool
    avoid_overflow: bool
    passing: tuple[str, ...] = PASSING


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="openvino",
            description="uint8 asymmetric activations at their producers; SiLU in float, fused into the convolution.",
            signed=False,
            symmetric=False,
            requantize=False,
            conv_output=False,
            residual="skip",
            int32_bias=False,
            avoid_overflow=True,
        ),
        # ONNX Runtime only runs an operation on codes when it finds quantizers on all sides of it: without one between
        # a convolution and its SiLU, the convolution runs in float.
        Scheme(
            name="onnxruntime",
            description="uint8 asymmetric activations around every operation that can run on codes; int32 biases.",
            signed=False,
            symmetric=False,
            requantize=True,
            conv_output=True,
            residual="both",
            int32_bias=True,
            avoid_overflow=True,
        ),
        # GPUs take zero points of zero only, and add products in 32 bits.
        Scheme(
            name="tensorrt",
            description="int8 symmetric activations at their producers; float biases, nothing between Conv and SiLU.",
            signed=True,
            symmetric=True,
            requantize=False,
            conv_output=False,
            residual="skip",
            int32_bias=False,
            avoid_overflow=False,
        ),
    )
}
