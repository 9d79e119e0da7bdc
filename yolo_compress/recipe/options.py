# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How an option of a recipe is declared and read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ENGINE_PRECISIONS = {
    "pytorch": ("fp32", "bf16"),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
    "tensorrt_rtx": ("fp32", "fp16", "int8"),
}
PROFILED = ("onnxruntime", "openvino")  # runtimes that tell the time of each layer


def option(default: Any, help: str, *, flag: str | None = None, **limits: Any) -> Any:
    """Declare an option: its help sentence, its limits and the flag that `yolo-compress train` and `run` know it by."""
    return Field(default, description=help, json_schema_extra={"flag": flag} if flag else None, **limits)


def parts(value: Any) -> Any:
    """Read `a,b` as a list, the way a shell gives it; brackets around it are allowed, as `yolo` allows them."""
    if isinstance(value, str):
        return [part for part in (text.strip(" '\"") for text in value.strip("[]()").split(",")) if part]
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(parts)]
Setting = bool | int | float | str | list[bool | int | float | str] | None


class Section(BaseModel):
    """A group of options; unknown keys are refused and a value cannot change once it is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)
