# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What the header of an engine file claims: its precision, and the arguments of the export that it came from."""

from __future__ import annotations

import ast
import json
from contextlib import suppress
from typing import Any

QUANTIZE = {8: "int8", 16: "fp16", 32: "fp32"}  # Ultralytics' argument; int8 and half are what came before it


def declared_precision(metadata: dict[str, Any]) -> str:
    """Return the precision that the header of a file claims, ours or Ultralytics', for layers that cannot be asked."""
    with suppress(KeyError, TypeError, ValueError):
        return str(json.loads(metadata["yolo_compress"])["build"]["precision"])
    arguments = export_arguments(metadata)
    if arguments.get("quantize") in QUANTIZE:
        return QUANTIZE[arguments["quantize"]]
    return next((name for key, name in (("int8", "int8"), ("half", "fp16")) if arguments.get(key)), "unknown")


def export_arguments(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an export, which an ONNX file in between leaves as text."""
    found = metadata.get("args")
    if isinstance(found, str):
        with suppress(ValueError, SyntaxError):
            found = ast.literal_eval(found)
    return found if isinstance(found, dict) else {}
