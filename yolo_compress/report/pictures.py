# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures of validation images before and after, as they lie beside a benchmark; `drawing` makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress.errors import DataError

FOLDER = "pictures"
INDEX = "pictures.json"
LINES = (
    "Boxes with a score over 0.25. Solid: in both, of the same class and with an IoU of at least 0.5. Dashed: only the "
    "first candidate has it. Dotted: only the other one has it."
)


@dataclass(frozen=True)
class Pair:
    """One image as the first candidate and as another one see it; `before` and `after` are JPEGs."""

    image: str
    candidate: str
    same: int
    only_before: int
    only_after: int
    before: Path
    after: Path


def read_pairs(folder: Path | None, bench: Mapping[str, Any]) -> tuple[Pair, ...]:
    """Return the pictures below a folder, or none where there are none or they are of another benchmark.

    Raises:
        DataError: The index, or a picture that it names, is damaged or missing.
    """
    file = None if folder is None else folder / FOLDER / INDEX
    if file is None or not file.is_file():
        return ()
    remedy = "measure again, or remove that folder"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["bench"] != mark(bench):
            return ()
        paths = [{key: file.parent / Path(pair[key]).name for key in ("before", "after")} for pair in kept["pairs"]]
        pairs = tuple(Pair(**{**pair, **files}) for pair, files in zip(kept["pairs"], paths, strict=True))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{file}' is damaged ({error}); {remedy}") from error
    for pair in pairs:
        for path in (pair.before, pair.after):
            if not path.is_file():
                raise DataError(f"picture '{path}' is missing; {remedy}")
    return pairs


def mark(bench: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells one benchmark from another."""
    return {"date": bench.get("date"), "candidates": [[row.get("label"), row.get("sha256")] for row in bench["rows"]]}
