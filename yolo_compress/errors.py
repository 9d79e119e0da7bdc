# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The errors that users meet: each message says what was given, why it cannot work and what to type instead."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TypeVar

Entry = TypeVar("Entry")


class CompressError(Exception):
    """Base of every error that yolo_compress raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(CompressError):
    """A key, value or combination that cannot be used as given."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that does not validate."""


class ResumeMismatch(UsageError):
    """A run to be resumed whose inputs are no longer what they were."""


class MissingDependency(CompressError):
    """An optional package that the requested work needs and that is not installed."""


class UnsupportedModel(CompressError):
    """A model of a task, family or state that yolo_compress does not handle."""


class DataError(CompressError):
    """An input file (weights, images, data YAML) that is missing, unreadable or inconsistent."""


class OutputError(CompressError):
    """An output that cannot be written."""


class EngineError(CompressError):
    """A runtime that refused to build, load or run an artifact."""


class GateNotMet(CompressError):
    """Something that cost more accuracy, or took more time, than was allowed."""

    exit_code = 3


def require(module: str, *, extra: str, purpose: str, advice: str | None = None) -> ModuleType:
    """Import an optional package at first use.

    Args:
        module: Importable name, dotted names included.
        extra: The extra of yolo-compress that installs it.
        purpose: What needs it, in plural, for the message ("OpenVINO engines").
        advice: What to install instead of the extra, where pip may not be the way.

    Raises:
        MissingDependency: The package is not installed. Nothing is ever installed for the user.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != root:
            raise  # the package is there and one of its own dependencies is missing: that message is the useful one
        remedy = f"pip install 'yolo-compress[{extra}]'" if advice is None else advice
        raise MissingDependency(f"{purpose} need the '{root}' package, which is not installed: {remedy}") from error


def suggest(given: str, known: Iterable[str]) -> str:
    """Return the end of a message about a name that is not known."""
    names = list(known)
    close = difflib.get_close_matches(given, names, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(names)}"


def entry_of(registry: Mapping[str, Entry], key: str, name: str) -> Entry:
    """Return what a registry holds under the name that a key was given.

    Raises:
        UsageError: It holds nothing of that name.
    """
    if name not in registry:
        raise UsageError(f"{key}={name} is not known; {suggest(name, registry)}")
    return registry[name]
