# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Ultralytics' own command line parser and messages, for a command line that is a superset of `yolo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from yolo_compress.errors import UsageError
from yolo_compress.host.ultralytics import (
    ARGV,
    DEFAULT_CFG_DICT,
    LOGGER,
    check_dict_alignment,
    entrypoint,
    merge_equals_args,
    parse_key_value_pair,
)


def parse(args: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split arguments into bare words and `key=value` pairs, with values typed as `yolo` types them.

    Raises:
        UsageError: A pair that has no value.
    """
    words: list[str] = []
    pairs: dict[str, Any] = {}
    try:
        merged = merge_equals_args(list(args))
    except SyntaxError as error:  # a bracket that is never closed
        raise UsageError(f"the arguments cannot be read: {' '.join(str(error).split())}") from error
    for argument in merged:
        text = argument.removeprefix("--").removesuffix(",")
        if "=" not in text:
            words.append(text)
            continue
        try:
            key, value = parse_key_value_pair(text)
        except (AssertionError, SyntaxError, ValueError, NameError) as error:
            raise UsageError(f"'{argument}' has no usable value: {error}; write it as key=value") from error
        pairs[key] = value
    return words, pairs


def check_keys(known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse keys that nobody knows, with the close matches that `yolo` gives.

    Raises:
        UsageError: A key is unknown.
    """
    level = LOGGER.level
    LOGGER.setLevel("ERROR")  # the whole help text of `yolo` is logged before the message
    try:
        check_dict_alignment(dict(known), dict(given), allowed_custom_keys=set())
    except SyntaxError as error:
        message = " ".join(str(error).replace("YOLO argument", "argument").split())
        raise UsageError(message) from None
    finally:
        LOGGER.setLevel(level)


def native_keys() -> dict[str, Any]:
    """Return the settings of `yolo` with their defaults."""
    return dict(DEFAULT_CFG_DICT)


def run_yolo(args: Sequence[str]) -> None:
    """Hand the arguments to `yolo` as they are."""
    # The list is edited in place: entrypoint reads the one that Ultralytics took hold of when it was imported. Its
    # own `debug` argument is split at spaces and would break a path that holds one.
    before = ARGV[1:]
    ARGV[1:] = args
    try:
        entrypoint()
    finally:
        ARGV[1:] = before
