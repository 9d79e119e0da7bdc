# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Trees of files as Jetsons have them, from `tests/fixtures/jetson`; modelled on what was published, see each file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures" / "jetson"
BOARDS = tuple(sorted(path.stem for path in FIXTURES.glob("*.json")))


def board(name: str) -> dict[str, Any]:
    """Return files, lines of tegrastats and what is expected of a board."""
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def write_board(root: Path, name: str) -> Path:
    """Write the files of a board below `root`; one that cannot be read there is a folder here, which cannot either."""
    for path, content in board(name)["files"].items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir()
        else:
            place.write_text(content, encoding="utf-8")
    return root


def published_lines() -> list[tuple[str, dict[str, float]]]:
    """Return every line of tegrastats with the watts that it names."""
    return [(line, watts) for name in BOARDS for line, watts in board(name)["tegrastats"]]
