# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Print every claim of benchmarks/results/*.json and fail on one that does not hold: `python -m benchmarks.claims`.

A result file is `{"device": {...}, "versions": {...}, "date": ..., "command": ..., "rows": [...], "claims": [...]}`.
A claim is `{"id", "statement", "value", "unit", "target", "holds"}`, perhaps with `"seeds"`. `target` is a comparison
such as ">= 1.5", and a claim that holds has to meet it. Where the device cannot show it, `holds` and `value` are null,
and `reason` says why. Rows that were measured in calls on several machines have `"cpu"`, and `device` is that of the
last call.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import operator
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FILE_KEYS = {"device": dict, "versions": dict, "date": str, "command": str, "rows": list, "claims": list}
CLAIM_KEYS = {"id": str, "statement": str, "unit": str, "target": str}
COMPARISONS = {">=": operator.ge, "<=": operator.le, "==": operator.eq, ">": operator.gt, "<": operator.lt}
TARGET = re.compile(r"(>=|<=|==|>|<)\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")


class FormatError(Exception):
    """A result file that is not what this module's docstring describes."""


@dataclass(frozen=True)
class Claim:
    """One claim and the devices that its file was measured on; `holds` is None where the device cannot show it."""

    id: str
    statement: str
    value: float | None
    unit: str
    target: str
    holds: bool | None
    reason: str
    device: str
    file: str


def main(argv: Sequence[str] | None = None) -> int:
    """Print the claims; return 0 when all hold, 1 when one does not or a file is malformed, 2 for an unknown id."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description="Check what was measured.")
    parser.add_argument("--ids", nargs="+", default=[], metavar="ID", help="only these claims, or all below a prefix")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="folder of result files")
    options = parser.parse_args(argv)
    try:
        claims = read_claims(options.results)
    except FormatError as error:
        print(f"claims: {error}", file=sys.stderr)
        return 1
    chosen = [c for c in claims if not options.ids or any(_matches(c.id, name) for name in options.ids)]
    for name in options.ids:
        if not any(_matches(claim.id, name) for claim in claims):
            close = difflib.get_close_matches(name, [claim.id for claim in claims], n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else "run without --ids to see all"
            print(f"claims: no result file makes the claim '{name}'; {hint}", file=sys.stderr)
            return 2
    if not chosen:
        print(f"claims: no claim in {options.results}/*.json, so nothing is shown", file=sys.stderr)
        return 1
    print("\n".join(table(chosen)))
    failed = [claim.id for claim in chosen if claim.holds is False]
    if failed:
        print(f"claims: {len(failed)} of {len(chosen)} do not hold: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def read_claims(folder: Path) -> list[Claim]:
    """Return the claims of every result file in a folder.

    Raises:
        FormatError: A file or claim is malformed, or two files make the same claim.
    """
    claims: dict[str, Claim] = {}
    for path in sorted(folder.glob("*.json")):
        for claim in _read_file(path):
            if claim.id in claims:
                raise FormatError(f"claim '{claim.id}' is in both {claims[claim.id].file} and {claim.file}; keep one")
            claims[claim.id] = claim
    return list(claims.values())


def table(claims: Iterable[Claim]) -> list[str]:
    """Return claims as aligned lines."""
    rows = [("claim", "value", "target", "holds", "device", "statement")]
    for claim in claims:
        value = "-" if claim.value is None else f"{claim.value:.6g} {claim.unit}".strip()
        holds = {True: "yes", False: "NO", None: f"not applicable here: {claim.reason}"}[claim.holds]
        rows.append((claim.id, value, claim.target, holds, claim.device, claim.statement))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return ["  ".join([*(f"{cell:{w}}" for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]


def _matches(claim_id: str, name: str) -> bool:
    return claim_id == name or claim_id.startswith(f"{name}.")


def _read_file(path: Path) -> list[Claim]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path.name} is not readable JSON: {error}") from error
    _check(tree, FILE_KEYS, path.name)
    return [_read_claim(claim, f"{path.name}, claim {number}", tree) for number, claim in enumerate(tree["claims"], 1)]


def _read_claim(claim: Any, place: str, tree: dict[str, Any]) -> Claim:
    _check(claim, CLAIM_KEYS, place)
    place = f"{place} ('{claim['id']}')"
    value, holds, reason = claim.get("value"), claim.get("holds"), claim.get("reason", "")
    if "holds" not in claim or not (holds is None or isinstance(holds, bool)):
        raise FormatError(f"{place}: 'holds' is {holds!r}; it has to be true, false or null")
    if (target := TARGET.fullmatch(claim["target"].strip())) is None:
        raise FormatError(f"{place}: target '{claim['target']}' is not a comparison; write such as '>= 1.5'")
    if holds is None:
        if value is not None or not reason:
            raise FormatError(f"{place}: 'holds' is null, so 'value' has to be null and 'reason' has to say why")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FormatError(f"{place}: 'value' is {value!r}; it has to be a finite number")
    elif holds and not COMPARISONS[target[1]](value, float(target[2])):
        raise FormatError(f"{place}: 'holds' is true, and {value} is not {target[0]}")
    kept = {name: claim[name] for name in CLAIM_KEYS}
    return Claim(**kept, value=value, holds=holds, reason=reason, device=measured_on(tree), file=place.split(",")[0])


def measured_on(tree: dict[str, Any]) -> str:
    """Return the processors that the rows of a result file were measured on, in the order of the rows."""
    device = str(tree["device"].get("cpu_model") or tree["device"].get("name") or "unnamed device")
    of_rows = (row.get("cpu", device) for row in tree["rows"] if isinstance(row, dict))
    return " and ".join(dict.fromkeys(str(cpu).partition(": ")[0] for cpu in of_rows)) or device


def _check(tree: Any, keys: dict[str, type], place: str) -> None:
    if not isinstance(tree, dict):
        raise FormatError(f"{place} holds {type(tree).__name__}, not an object")
    for key, kind in keys.items():
        if not isinstance(tree.get(key), kind):
            found = f"is {type(tree[key]).__name__}" if key in tree else "is missing"
            raise FormatError(f"{place}: '{key}' {found}; it has to be {kind.__name__}")


if __name__ == "__main__":
    raise SystemExit(main())
