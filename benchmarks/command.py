# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The command line that users have, for experiments that are about it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def bench_rows(models: Sequence[Path], data: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    """Run `yolo-compress bench` on the processor, in a process of its own, and return the rows of its bench.json.

    Args:
        models: Files and folders to compare.
        data: Data YAML.
        out: Folder of the result, which is made.
        options: Of `bench`, as on the command line.

    Raises:
        CalledProcessError: The command failed; what it said has been printed.
    """
    given = {
        "model": ",".join(map(str, models)),
        "data": data,
        "device": "cpu",
        "project": out.parent,
        "name": out.name,
    }
    call = [sys.executable, "-m", "yolo_compress", "bench"]
    subprocess.run([*call, *(f"{key}={value}" for key, value in {**given, **options}.items())], check=True)
    rows: list[dict[str, Any]] = json.loads((out / "bench.json").read_text(encoding="utf-8"))["rows"]
    return rows
