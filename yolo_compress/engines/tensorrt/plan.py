# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The file of an engine: Ultralytics' header of metadata, then what TensorRT serialized."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import atomic_write
from yolo_compress.errors import DataError

LENGTH_BYTES = 4  # of the header's length, little-endian


def write_plan(path: Path, plan: bytes, metadata: Mapping[str, Any]) -> None:
    """Write an engine that `YOLO(path)` opens, or nothing.

    Raises:
        OutputError: It cannot be written.
    """
    header = json.dumps(dict(metadata)).encode()
    atomic_write(path, len(header).to_bytes(LENGTH_BYTES, "little") + header + plan)


def read_plan(path: Path) -> tuple[dict[str, Any], int]:
    """Return the metadata of an engine and where its plan begins; an engine of other tools has none and begins at 0.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            if not 0 < length <= path.stat().st_size - LENGTH_BYTES:
                return {}, 0
            header = stream.read(length)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}; give a *.engine file") from error
    try:
        found = json.loads(header)
    except ValueError:  # the first bytes of a bare plan, which happen to be a possible length
        return {}, 0
    return (found, LENGTH_BYTES + length) if isinstance(found, dict) else ({}, 0)
