# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What can only be measured in a process that does nothing else: one of our modules, run as a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT_S = 600


def ask(module: str, *arguments: object, environment: Mapping[str, str] | None = None) -> dict[str, Any] | str:
    """Run a module of this package in a fresh process.

    Args:
        module: Its name; it prints one JSON object as its last line.
        arguments: What it is called with.
        environment: Variables that it gets beside those of this process.

    Returns:
        The object, or "unavailable: " with the reason.
    """
    # the package may be run from its source tree, which a child in another folder would not find
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    inherited = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if place)}
    try:
        child = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={**inherited, **(environment or {})},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"unavailable: the measuring process did not end within {TIMEOUT_S} s"
    lines = child.stdout.strip().splitlines()
    if child.returncode or not lines:
        cause = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return f"unavailable: the measuring process failed ({cause[:200]})"
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer
