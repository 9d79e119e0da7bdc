# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a sweep goes through: the values of each flag as they are typed, and the grid of them in a stated order.

`FLAG=a,b,c` are three values. Where a value itself holds commas, values are separated by `;`, and a `;` at the end
makes one value of the whole: `engines=openvino:int8,onnxruntime:int8;`. What stands in brackets is one value as well.
`none` goes without. `FLAG=low..high` is a range, of whole numbers where both ends are, and `low..high:log` one whose
logarithm is drawn evenly; only a search can draw from a range.
"""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from yolo_compress.errors import UsageError

NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(:log)?")
WORDS = {"none": None, "null": None, "true": True, "false": False}
BRACKETS = {"[": "]", "(": ")"}


@dataclass(frozen=True)
class Span:
    """A range that a search draws from, ends included."""

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def __str__(self) -> str:
        """Return the range as it is typed."""
        return f"{show(self.low)}..{show(self.high)}{':log' if self.log else ''}"


@dataclass(frozen=True)
class Space:
    """Flags that every trial shares, flags with several values, and flags with a range, each in the order given."""

    fixed: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    spans: Mapping[str, Span] = field(default_factory=dict)

    @property
    def varied(self) -> tuple[str, ...]:
        """Return the flags that differ between trials."""
        return (*self.choices, *self.spans)

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of the choices; the flag that was given last changes fastest.

        Raises:
            UsageError: A flag has a range, or nothing varies.
        """
        if self.spans:
            flag, span = next(iter(self.spans.items()))
            raise UsageError(
                f"{flag}={span} is a range, which a grid cannot go through; name its values, such as "
                f"{flag}={show(span.low)},{show(span.high)}, or add search=optuna"
            )
        if not self.choices:
            raise UsageError(
                "every flag has one value, so there is nothing to sweep; give one several, such as prune=0.2,0.4, or "
                "do a single run with: yolo-compress run"
            )
        return (dict(zip(self.choices, values, strict=True)) for values in itertools.product(*self.choices.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for sweep.json."""
        return {
            "fixed": dict(self.fixed),
            "choices": {flag: list(values) for flag, values in self.choices.items()},
            "spans": {flag: vars(span) for flag, span in self.spans.items()},
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Space:
        """Read what `to_dict` returned."""
        choices = {flag: tuple(values) for flag, values in tree["choices"].items()}
        return cls(tree["fixed"], choices, {flag: Span(**span) for flag, span in tree["spans"].items()})


def read_space(given: Mapping[str, Any]) -> Space:
    """Sort what was given for each flag into fixed values, choices and ranges.

    Args:
        given: By flag, the text that was typed, one value, or a tuple or list of values, of which a list is one value.

    Raises:
        UsageError: A value is empty or named twice, or a range cannot be drawn from or stands beside values.
    """
    fixed: dict[str, Any] = {}
    choices: dict[str, tuple[Any, ...]] = {}
    spans: dict[str, Span] = {}
    for flag, value in given.items():
        found = _values(flag, value)
        ranges = [item for item in found if isinstance(item, Span)]
        if ranges and len(found) > 1:
            raise UsageError(
                f"{flag} has the range {ranges[0]} beside other values, and a search draws from one or the other; give "
                f"only the range, or name values instead of it"
            )
        if ranges:
            spans[flag] = ranges[0]
        elif len(found) == 1:
            fixed[flag] = found[0]
        else:
            choices[flag] = found
    return Space(fixed, choices, spans)


def show(value: Any) -> str:
    """Return a value as it is typed."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(show(item) for item in value) + "]"
    return repr(value) if isinstance(value, float) else str(value)


def _values(flag: str, given: Any) -> tuple[Any, ...]:
    texts = split(given) if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else [given]
    if not texts or any(isinstance(text, str) and not text.strip() for text in texts):
        raise UsageError(
            f"{flag}={given} names an empty value; write values with commas between, such as {flag}=a,b, and none for "
            "going without"
        )
    found = tuple(_typed(flag, text) for text in texts)
    for index, value in enumerate(found):
        if any(_same(value, earlier) for earlier in found[:index]):
            raise UsageError(f"{flag} names {show(value)} twice; name each value once")
    return found


def split(text: str) -> list[str]:
    """Split at every `;` where there is one, else at commas outside of brackets; one `;` at the end begins no value."""
    if ";" in text:
        return [part.strip() for part in text.strip().removesuffix(";").split(";")]
    parts, closing, current = [], "", ""
    for letter in text:
        if not closing and letter == ",":
            parts.append(current.strip())
            current = ""
            continue
        closing = "" if letter == closing else closing or BRACKETS.get(letter, "")
        current += letter
    return [*parts, current.strip()]


def _typed(flag: str, given: Any) -> Any:
    if isinstance(given, tuple):
        return list(given)
    if not isinstance(given, str):
        return given
    text = given.strip()
    if ranged := RANGE.fullmatch(text):
        return _span(flag, text, *ranged.groups())
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # a path or a name
        return text
    return list(value) if isinstance(value, tuple) else value if _plain(value) else text


def _span(flag: str, text: str, low: str, high: str, log: str | None) -> Span:
    whole = all(re.fullmatch(r"[-+]?\d+", end) for end in (low, high))
    ends = (int(low), int(high)) if whole else (float(low), float(high))
    if not ends[0] < ends[1] or not all(map(math.isfinite, ends)):
        raise UsageError(f"{flag}={text} is no range, since {low} is not below {high}; write {flag}=LOW..HIGH")
    if log and ends[0] <= 0:
        raise UsageError(f"{flag}={text} has no logarithm at {low}; begin above 0, or leave :log out")
    return Span(*ends, whole=whole, log=bool(log))


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_plain(item) for item in value)
    return isinstance(value, bool | int | float | str)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other
