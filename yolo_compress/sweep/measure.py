# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What the trials of a sweep made, measured together, after they have ended and in as few processes as may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolo_compress.bench import BenchResult, Candidate, run_bench
from yolo_compress.context import Context
from yolo_compress.measuring import measured, native_export
from yolo_compress.recipe import BenchSection

GROUP = 8  # candidates that are loaded and timed together, beside the reference
GIVEN = "given"  # the model as it was given, which ratios refer to where the recipe names no native export
PLAIN = BenchSection(candidates=())  # for a recipe that measures nothing

Bench = Callable[..., BenchResult]


@dataclass(frozen=True)
class Artifact:
    """A file of a trial; `float_map50_95` is what its float model reaches."""

    label: str
    path: Path
    weights: str
    float_map50_95: float | None = None


def references(context: Context, bench: BenchSection, folder: Path) -> dict[str, str]:
    """Make the native exports of the given model that a recipe measures against, or name the model itself."""
    found = {name: str(native_export(context, name, folder)) for name in dict.fromkeys(bench.candidates)}
    return found or {GIVEN: str(context.model)}


def measure(
    artifacts: Sequence[Artifact],
    known: Mapping[str, str],
    context: Context,
    bench: BenchSection,
    *,
    every_reference: bool,
    run: Bench = run_bench,
) -> BenchResult:
    """Measure files beside the first reference, or beside all of them, alternately in this process.

    Args:
        artifacts: What trials made.
        known: The references by name.
        context: Data, image size and progress.
        bench: How; the same for every trial.
        every_reference: The others are measured once in a sweep.
        run: What measures.
    """
    names = list(known) if every_reference else list(known)[:1]
    first = [Candidate(name, Path(known[name]), "native", "given") for name in names]
    ours = [Candidate(a.label, a.path, "yolo_compress", a.weights, float_map50_95=a.float_map50_95) for a in artifacts]
    return measured([*first, *ours], context, bench, run=run)


def groups(artifacts: Sequence[Artifact]) -> list[Sequence[Artifact]]:
    """Return artifacts in groups that are loaded together, of nearly equal size."""
    count = -(-len(artifacts) // GROUP)
    return [artifacts[i * len(artifacts) // count : (i + 1) * len(artifacts) // count] for i in range(count)]


def merged(folder: Path, files: Sequence[str]) -> BenchResult | None:
    """Return the groups of a sweep as one result, whose times compare by their ratios; None where there is none."""
    found = [BenchResult.read(folder / file) for file in files]
    if not found:
        return None
    first, *others = found
    if not others:
        return first
    seen = {row.label for row in first.rows}
    rows = (*first.rows, *(row for other in others for row in other.rows if row.label not in seen))
    said = dict.fromkeys(note for result in found for note in result.notes)
    split = (
        f"candidates were timed in {len(found)} groups, each beside {first.rows[0].label}: ratios compare across "
        "groups, milliseconds only within one"
    )
    return replace(first, rows=rows, notes=(*said, split))


def labels(number: int, artifacts: Mapping[str, Any]) -> dict[str, str]:
    """Return the label of each artifact of a trial by its name."""
    if len(artifacts) == 1:
        return dict.fromkeys(artifacts, f"trial {number}")
    return {name: f"trial {number} {name}" for name in artifacts}
