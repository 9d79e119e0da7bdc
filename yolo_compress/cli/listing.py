# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolo-compress list`: the registries, printed."""

from __future__ import annotations

import json

from yolo_compress import recipe
from yolo_compress.cli.text import KINDS, show, table
from yolo_compress.errors import UsageError, suggest


def listing(kind: str | None = None) -> str:
    """Return one kind of what is registered, or all registries.

    Raises:
        UsageError: There is no such kind.
    """
    if kind is None:
        return "\n\n".join(f"{name}\n{_LISTS[name]()}" for name in KINDS if name != "schema")
    if kind not in _LISTS:
        raise UsageError(f"'{kind}' is not a kind that can be listed; {suggest(kind, KINDS)}")
    return _LISTS[kind]()


def _engines() -> str:
    from yolo_compress.engines import ENGINES

    rows = [(name, ", ".join(recipe.ENGINE_PRECISIONS[name]), entry.description) for name, entry in ENGINES.items()]
    return _lines(rows)


def _importances() -> str:
    from yolo_compress.prune import IMPORTANCES

    return _lines([(name, entry.description) for name, entry in IMPORTANCES.items()])


def _losses() -> str:
    from yolo_compress.distill import LOSSES

    return _lines([(name, f"{entry.description} ({entry.source})") for name, entry in LOSSES.items()])


def _ranges() -> str:
    from yolo_compress.quantize.ranges import RANGES

    return _lines([(name, entry.description) for name, entry in RANGES.items()])


def _weight_forms() -> str:
    from yolo_compress.quantize import WEIGHT_FORMS

    return _lines([(name, entry.description) for name, entry in WEIGHT_FORMS.items()])


def _roundings() -> str:
    from yolo_compress.quantize import ROUNDINGS

    return _lines([(name, entry.description) for name, entry in ROUNDINGS.items()])


def _corruptions() -> str:
    from yolo_compress.bench.corruptions import CORRUPTIONS

    rows = [
        (name, f"{entry.description} Severity 1 to 5: {entry.parameter} {', '.join(map(str, entry.values))}.")
        for name, entry in CORRUPTIONS.items()
    ]
    return _lines(rows)


def _recipes() -> str:
    """Every shipped recipe is read and validated on the way."""
    return _lines([(name, recipe.load(path).description) for name, path in recipe.shipped().items()])


def _schema() -> str:
    return json.dumps(recipe.json_schema(), indent=2)


def _flags() -> str:
    rows = [
        (name, f"{flag.section}.{flag.field}", flag.type, show(flag.default), flag.help)
        for name, flag in recipe.flags().items()
    ]
    return _lines([("flag", "in a recipe", "type", "default", "meaning"), *rows])


def _lines(rows: list[tuple[str, ...]]) -> str:
    return "\n".join(table(rows))


_LISTS = {
    "engines": _engines,
    "importances": _importances,
    "losses": _losses,
    "ranges": _ranges,
    "roundings": _roundings,
    "corruptions": _corruptions,
    "weight_forms": _weight_forms,
    "recipes": _recipes,
    "schema": _schema,
    "flags": _flags,
}
