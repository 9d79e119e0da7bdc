# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How an engine is built: who chooses INT8 ranges, and whether types come from the graph or from flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolo_compress.engines.tensorrt.capability import Capabilities, Mode
from yolo_compress.errors import UsageError


@dataclass(frozen=True)
class Decision:
    """What a builder does.

    Attributes:
        mode: `calibrate` where TensorRT chooses the ranges, `qdq` where the graph holds them, `float` without any.
        strong: The network computes in the types of its graph; else the flags are permissions.
        half: The float part of the graph is written in half precision first.
        flags: Builder flags for precisions.
    """

    mode: Mode
    strong: bool
    half: bool
    flags: tuple[str, ...]


def decide(caps: Capabilities, source: Path, *, precision: str, quantized: bool, dla: int | None = None) -> Decision:
    """Decide by what the module has.

    Strong typing is taken where it exists, so that an engine computes alike in all versions. A DLA is the exception:
    versions with precision flags run it only with them, and never from quantizers in the graph.

    Args:
        caps: What the module can do.
        source: The model, for messages.
        precision: fp32, fp16 or int8.
        quantized: The graph holds quantizers.
        dla: The DLA core asked for.

    Raises:
        UsageError: This module cannot make that engine from this graph; the message says from what it can.
    """
    if dla is not None and precision == "fp32":
        raise UsageError(f"a DLA computes in fp16 and int8 only, and dla={dla} was given; add precision=fp16")
    if dla is not None and not caps.dla:
        raise UsageError(f"{caps.module} {caps.version} knows no DLA; leave dla= out")
    weak = bool(caps.precision_flags) and (dla is not None or not caps.strongly_typed)
    if precision == "int8" and not quantized:
        if not caps.calibrators:
            raise UsageError(
                f"{caps.module} {caps.version} does not calibrate, and '{source}' holds no ranges; quantize first "
                f"with: yolo-compress quantize target=tensorrt model={source} data=..."
            )
        return Decision("calibrate", False, False, ("INT8", "FP16"))
    if precision == "int8" and weak and dla is not None:
        raise UsageError(
            f"{caps.module} {caps.version} takes no quantizers from the graph on a DLA, and dla={dla} was given; give "
            "the checkpoint or the float ONNX, which it calibrates itself, or leave dla= out"
        )
    mode: Mode = "qdq" if precision == "int8" else "float"
    if weak:
        flags = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}[precision]
        return Decision(mode, False, False, flags)
    return Decision(mode, True, precision != "fp32", ())
