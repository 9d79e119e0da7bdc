# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""From the words of a command line to the call of a mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yolo_compress.errors import UsageError
from yolo_compress.recipe import Flag


@dataclass(frozen=True)
class Key:
    """A key of a mode that is not an option of the recipe.

    Attributes:
        type: path, str, int, float, bool or list.
        default: What the function behind the mode uses when the key is not given; help shows it, a test compares both.
    """

    name: str
    help: str
    type: str = "str"
    default: Any = None
    required: bool = False


@dataclass(frozen=True)
class Mode:
    """A mode of the command line.

    Attributes:
        call: Takes the keys and options that the user gave, keys typed, and returns what prints as the result.
        keys: Keys that are not options of the recipe.
        options: Options of a recipe section, by the names they have in this mode.
        more: Returns the other keys that the mode accepts, with their defaults.
        implied: Words and pairs that say nothing more than the mode's name.
        plain: It takes words, no `key=value`, and starts without importing Ultralytics.
    """

    name: str
    summary: str
    call: Callable[..., Any]
    keys: tuple[Key, ...] = ()
    options: Mapping[str, Flag] = field(default_factory=dict)
    more: Callable[[], dict[str, Any]] = dict
    implied: tuple[str, ...] = ()
    plain: bool = False


def run_mode(mode: Mode, args: Sequence[str]) -> Any:
    """Read the arguments of a mode and call it.

    Raises:
        UsageError: An unknown key, a value of the wrong type, or a required key that is missing.
    """
    rest = [arg for arg in args if arg not in (mode.name, *mode.implied)]
    if mode.plain:
        return mode.call(*rest)
    given = _given(mode, rest)
    if missing := [f"{key.name}=" for key in mode.keys if key.required and key.name not in given]:
        raise UsageError(
            f"{mode.name} needs {' and '.join(missing)}; see all of its keys with: yolo-compress {mode.name} help"
        )
    return mode.call(**given)


def _given(mode: Mode, args: Sequence[str]) -> dict[str, Any]:
    from yolo_compress.host import cli as host  # imports Ultralytics, which takes seconds

    words, given = host.parse(args)
    keys = {key.name: key for key in mode.keys}
    known = {
        **mode.more(),
        **{name: key.default for name, key in keys.items()},
        **{name: flag.default for name, flag in mode.options.items()},
    }
    host.check_keys(known, {**dict.fromkeys(words), **given})
    for word in words:  # a switch such as fast_cpu may stand alone, as in `yolo`
        if not isinstance(known[word], bool):
            raise UsageError(f"'{word}' has no value; write {word}=...")
        given[word] = True
    given = {
        name: value for name, value in given.items() if value is not None
    }  # key=None means not given, as in `yolo`
    return {name: _typed(keys[name], value) if name in keys else value for name, value in given.items()}


def _typed(key: Key, value: Any) -> Any:
    if key.type == "int":
        return _whole_number(key, value)
    if key.type == "float":
        if isinstance(value, bool) or not isinstance(value, int | float):
            example = 1.5 if key.default is None else key.default
            raise UsageError(f"{key.name}={value} is not a number; write, for example, {key.name}={example}")
        return float(value)
    if key.type == "bool":
        if not isinstance(value, bool):
            raise UsageError(f"{key.name}={value} is neither true nor false; write {key.name}=true or {key.name}=false")
        return value
    if key.type == "list":
        text = str(value).strip()
        if text[:1] + text[-1:] in ("[]", "()"):  # around the whole; a name may end in one
            text = text[1:-1]
        parts = (part.strip(" '\"") for part in text.split(","))
        return [part for part in parts if part]
    return str(value)


def _whole_number(key: Key, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{key.name}={value} is not a whole number; write, for example, {key.name}={key.default}")
    if key.name == "imgsz" and (value % 32 or not value):
        near = max(32, round(value / 32) * 32)
        raise UsageError(f"imgsz={value} cannot be used, a detector needs a multiple of 32; write imgsz={near}")
    return value
