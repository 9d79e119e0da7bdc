# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""sweep.json: what is swept, a row for each trial, and where its measurements are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import atomic_write
from yolo_compress.errors import DataError

SCHEMA_VERSION = 1
RECORD = "sweep.json"


def read_record(folder: Path) -> dict[str, Any]:
    """Read sweep.json.

    Raises:
        DataError: It is missing, damaged, or from another version.
    """
    file = folder / RECORD
    if not file.is_file():
        raise DataError(f"'{folder}' holds no {RECORD}; give the folder of a sweep, such as resume=runs/compress/sweep")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"'{file}' is damaged ({error}); start a new sweep") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"'{file}' has schema_version {version} and this yolo_compress reads {SCHEMA_VERSION}; use the version "
            "that wrote it, or start a new sweep"
        )
    return record


def save_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write sweep.json, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    atomic_write(folder / RECORD, json.dumps(record, indent=1, default=str) + "\n")
