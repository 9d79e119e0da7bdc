# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The one format of result files: device, versions, date, command, rows and claims."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.claims import TARGET
from yolo_compress.artifacts import atomic_write
from yolo_compress.bench.machine import describe_machine, package_versions
from yolo_compress.host.cpu import use_all_cores
from yolo_compress.host.data import read_data

RESULTS = Path(__file__).parent / "results"


def data_folder() -> Path:
    """Return the folder of real images and weights, or leave with the reason."""
    folder = os.environ.get("YOLO_COMPRESS_DATA")
    if not folder or not Path(folder).is_dir():
        sys.exit("set YOLO_COMPRESS_DATA to the folder that holds coco/ and weights/")
    return Path(folder)


def earlier_rows(name: str) -> list[dict[str, Any]]:
    """Return the rows that an earlier, perhaps interrupted, call has measured."""
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        return []
    tree = json.loads(file.read_text(encoding="utf-8"))
    return [{**row, "cpu": row.get("cpu", _cpu(tree["device"]))} for row in tree["rows"]]


def asked(words: Sequence[str], candidates: Iterable[str]) -> tuple[list[int], list[str]]:
    """Return the seeds and the candidates that a command line names, the first two seeds and all when it names none.

    Raises:
        SystemExit: A word is neither a seed nor a candidate.
    """
    known = list(candidates)
    named = [word for word in words if not word.isdigit()]
    if strange := [word for word in named if word not in known]:
        sys.exit(f"'{strange[0]}' is not a candidate; give some of: {'; '.join(known)}")
    return [int(word) for word in words if word.isdigit()] or [0, 1], named or known


def claim(
    name: str, statement: str, value: float, unit: str, target: str, *, holds: bool, seeds: Sequence[int] = (0,)
) -> dict[str, Any]:
    """Return a claim in the form of result files.

    Raises:
        ValueError: The target is not a comparison, which `benchmarks.claims` would refuse in the file.
    """
    if TARGET.fullmatch(target) is None:
        raise ValueError(f"target '{target}' of claim '{name}' is not a comparison; write such as '>= 1.5'")
    return {
        "id": name,
        "statement": statement,
        "value": round(value, 3),
        "unit": unit,
        "target": target,
        "holds": holds,
        "seeds": list(seeds),
    }


class Experiment:
    """The rows of a result file, written after each one, so that an interrupted call goes on where it was."""

    def __init__(self, name: str, **extra: Any) -> None:
        """Take the rows that earlier calls have measured; `extra` is recorded beside them."""
        use_all_cores()
        self.folder = data_folder()
        self.data = read_data(self.folder / "coco/coco-mini.yaml")
        self.name, self.extra, self.rows = name, extra, earlier_rows(name)

    def has(self, **setting: Any) -> bool:
        """Tell whether there is a row with these values."""
        return any(all(row.get(key) == value for key, value in setting.items()) for row in self.rows)

    def add(self, row: dict[str, Any], claims: Sequence[Mapping[str, Any]] = ()) -> None:
        """Keep and print a row, with the processor that it was measured on: a later call may run on another one."""
        self.rows.append({**row, "cpu": this_cpu()})
        write(self.name, self.rows, claims, **self.extra)
        print({key: value for key, value in row.items() if key != "widths"}, flush=True)

    def finish(self, claims: Sequence[Mapping[str, Any]] = ()) -> int:
        """Write the file with its claims; return 1 when one does not hold."""
        return write(self.name, self.rows, claims, **self.extra)


def this_cpu() -> str:
    """Return the processor of this machine and its units, as rows name it."""
    return _cpu(describe_machine())


def _cpu(device: Mapping[str, Any]) -> str:
    flags = device.get("cpu_flags")
    return f"{device.get('cpu_model')}: {' '.join(flags) if isinstance(flags, list) else flags}"


def write(name: str, rows: Sequence[Mapping[str, Any]], claims: Sequence[Mapping[str, Any]], **extra: Any) -> int:
    """Write results/NAME.json, with what else the experiment records, print its claims; return 1 when one fails."""
    content = {
        "device": describe_machine(),
        "versions": package_versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        **extra,
        "rows": list(rows),
        "claims": list(claims),
    }
    atomic_write(RESULTS / f"{name}.json", json.dumps(content, indent=1, default=str) + "\n")
    for claim in claims:
        print(f"{claim['id']}: {claim['value']} {claim['unit']} (target {claim['target']}), holds: {claim['holds']}")
    return int(any(claim["holds"] is False for claim in claims))
