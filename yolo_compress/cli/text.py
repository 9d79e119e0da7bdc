# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Help on the command line, made from the table of modes and the recipe's definitions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from yolo_compress import recipe
from yolo_compress.cli.arguments import Mode
from yolo_compress.cli.flags import FORM_SECTION, TRAIN_SECTIONS
from yolo_compress.cli.modes import MODES
from yolo_compress.recipe import Flag

WIDTH = 120
KINDS = (
    "engines",
    "importances",
    "losses",
    "ranges",
    "roundings",
    "weight_forms",
    "corruptions",
    "recipes",
    "schema",
    "flags",
)
WORDS = {"list": f"[{'|'.join(KINDS)}]", "doctor": ""}
NOTES = {
    "train": "Every setting of `yolo train` is valid too; `yolo cfg` lists them. A command line without recipe= and "
    "without any flag is handed to `yolo` as it is.",
    "run": "Every setting of `yolo train` is valid too, for the training stage: epochs=10, batch=16, lr0=0.001.",
    "sweep": "Every flag of `run` and every setting of `yolo train` is valid too, with one value or several: "
    "prune=0.2,0.4; with `;` between values that hold commas: 'engines=openvino:int8,onnxruntime:int8;openvino:int8'; "
    "none goes without: qat=none,int8; and a search draws from ranges: prune=0.2..0.6, lr0=1e-5..1e-3:log.",
    "bench": "No latency is given for a file whose accuracy shows that it is broken.",
}


def overview() -> str:
    """Return the help of the whole command."""
    lines = ["usage: yolo-compress MODE key=value ...", "", "modes"]
    lines += table([(name, mode.summary) for name, mode in MODES.items()])
    lines += [
        "",
        "Anything else goes to `yolo` unchanged. The keys of a mode: yolo-compress MODE help",
        "Exit codes: 0 done, 1 failed, 2 wrong use, 3 an accuracy gate was not met.",
    ]
    return "\n".join(lines)


def mode_help(mode: Mode) -> str:
    """Return the typed keys of a mode, each with its default and a sentence."""
    usage = WORDS.get(mode.name, "key=value ...")
    lines = [f"usage: yolo-compress {mode.name} {usage}".rstrip(), mode.summary]
    rows = [(key.name, key.type, "required" if key.required else show(key.default), key.help) for key in mode.keys]
    rows += [_option_row(name, flag) for name, flag in {**mode.options, **_flags(mode)}.items()]
    if rows:
        lines += ["", *table([("key", "type", "default", "meaning"), *rows])]
    if mode.name in NOTES:
        lines += ["", *textwrap.wrap(NOTES[mode.name], WIDTH)]
    return "\n".join(lines)


def show(value: Any) -> str:
    """Return a default as a user would type it; a dash for none."""
    if value is None or value in ((), {}):
        return "-"
    if isinstance(value, dict):
        return ",".join(f"{name}={weight}" for name, weight in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows in aligned columns, the last column wrapped."""
    rows = [tuple(row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        head = "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + "  "
        parts = textwrap.wrap(row[-1], max(30, WIDTH - len(head)), break_on_hyphens=False) or [""]
        lines += [(head + parts[0]).rstrip(), *(" " * len(head) + part for part in parts[1:])]
    return lines


def _option_row(name: str, flag: Flag) -> tuple[str, str, str, str]:
    if "|" in flag.type:
        return name, "choice", show(flag.default), f"{flag.help} One of {', '.join(flag.type.split('|'))}."
    return name, flag.type, show(flag.default), flag.help


def _flags(mode: Mode) -> dict[str, Flag]:
    if mode.name not in ("train", "run"):
        return {}
    sections = (*TRAIN_SECTIONS, FORM_SECTION) if mode.name == "train" else tuple(recipe.sections())
    return {name: flag for name, flag in recipe.flags().items() if flag.section in sections}
