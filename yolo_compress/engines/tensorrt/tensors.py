# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The named tensors of an engine: what goes in, what comes out, and which shapes it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_compress.errors import EngineError

FLOATS = (np.float32, np.float16)


@dataclass(frozen=True)
class Tensors:
    """What a detector's engine takes and gives.

    Attributes:
        path: The file, for messages.
        input: Name of the image tensor.
        input_dtype: float32 or float16.
        shape: Its shape (N, 3, H, W), -1 where it is dynamic.
        limits: Least, best and largest shape of the first profile where it is dynamic, else None.
        outputs: Names and types, the detections first.
    """

    path: Path
    input: str
    input_dtype: np.dtype
    shape: tuple[int, ...]
    limits: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None
    outputs: tuple[tuple[str, np.dtype], ...]

    def check(self, images: np.ndarray) -> None:
        """Refuse images that the engine was not built for.

        Raises:
            EngineError: Type or shape do not fit.
        """
        if images.dtype != np.float32:
            raise EngineError(f"images of {images.dtype} were given; give float32 in 0 to 1")
        if self.limits is None:
            if images.shape != self.shape:
                raise EngineError(
                    f"'{self.path}' takes images of {_text(self.shape)} and {_text(images.shape)} was given; give that "
                    "size, or build it again with the imgsz= and batch= that you need"
                )
            return
        least, _, most = self.limits
        fits = len(images.shape) == len(least) and all(
            low <= given <= high for low, given, high in zip(least, images.shape, most, strict=True)
        )
        if not fits:
            raise EngineError(
                f"'{self.path}' takes images from {_text(least)} to {_text(most)} and {_text(images.shape)} was given; "
                "give one of these, or build it again with another range"
            )


def read_tensors(trt: Any, engine: Any, path: Path) -> Tensors:
    """Read an engine's tensors by name; what TensorRT before 8.5 had in place of names is not supported.

    Raises:
        EngineError: It is no detector's: not one image input, or types that are not float.
    """
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = tuple((name, _dtype(trt, engine, name, path)) for name in names if name not in inputs)
    if len(inputs) != 1 or not outputs:
        raise EngineError(
            f"'{path}' has inputs {', '.join(inputs) or 'none'} and outputs "
            f"{', '.join(name for name, _ in outputs) or 'none'}; a detector has one input and at least one output"
        )
    (name,) = inputs
    dtype = _dtype(trt, engine, name, path)
    for tensor, found in ((name, dtype), outputs[0]):
        if found not in FLOATS:
            raise EngineError(
                f"'{path}': tensor '{tensor}' is {found}, and images and detections have to be float32 or float16; "
                "build it from a graph with float inputs and outputs"
            )
    shape = tuple(engine.get_tensor_shape(name))
    limits = None
    if -1 in shape:
        least, best, most = (tuple(bound) for bound in engine.get_tensor_profile_shape(name, 0))
        limits = (least, best, most)
    return Tensors(path, name, dtype, shape, limits, outputs)


def _dtype(trt: Any, engine: Any, name: str, path: Path) -> np.dtype:
    found = engine.get_tensor_dtype(name)
    try:
        return np.dtype(trt.nptype(found))
    except TypeError as error:  # bfloat16 and the 8-bit floats, which numpy does not have
        raise EngineError(
            f"'{path}': tensor '{name}' is {found}, which numpy does not have; build it with float32 inputs and outputs"
        ) from error


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
