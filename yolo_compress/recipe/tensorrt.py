# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Options of TensorRT engines: shapes, memory and the device that is built for."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, field_validator

from yolo_compress.recipe.options import Section, option, parts

Batches = Annotated[tuple[int, ...], BeforeValidator(parts)]


def _compute(value: Any) -> Any:
    """Read 8.6, 86 and sm_86 as SM86."""
    found = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", str(value), re.IGNORECASE) if value is not None else None
    return f"SM{found[1]}{found[2]}" if found else value


class TensorRtSection(Section):
    """How TensorRT engines are built; an option that a runtime has no use for is refused."""

    workspace: float | None = option(
        None, "GiB that TensorRT may work in while it builds; all of the device when not given.", flag="workspace", gt=0
    )
    dynamic_batch: Batches | None = option(
        None, "Least, usual and largest batch that the engine takes, such as 1,4,8; else 1.", flag="dynamic_batch"
    )
    dla: int | None = option(
        None, "DLA core of a Jetson to run on; what it cannot run goes to the GPU and is listed.", flag="dla", ge=0
    )
    timing_cache: str | None = option(
        None, "File that TensorRT keeps its measurements in, for shorter builds.", flag="timing_cache"
    )
    compute: Annotated[str | None, BeforeValidator(_compute)] = option(
        None,
        "Compute capability that TensorRT-RTX builds for, such as 8.6; that of this GPU when not given.",
        flag="compute",
    )

    @field_validator("dynamic_batch")
    @classmethod
    def _ordered(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (len(value) != 3 or value[0] < 1 or list(value) != sorted(value)):
            told = ",".join(map(str, value))
            raise ValueError(f"{told} is not the least, usual and largest batch; write three rising numbers: 1,4,8")
        return value

    @field_validator("compute")
    @classmethod
    def _a_capability(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"SM\d+", value):
            raise ValueError(f"'{value}' is no compute capability; write such as 8.6 or sm_86")
        return value
