# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Ways to choose calibration images: at random, or so that they cover the data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from yolo_compress import __version__
from yolo_compress.artifacts import sha256_path
from yolo_compress.calibrate.coverage import BALANCE, Figures, Objective, cover, cover_by_sampling
from yolo_compress.calibrate.features import SIDE
from yolo_compress.calibrate.manifest import CalibrationSet, chosen_set, name_of, read_manifest
from yolo_compress.calibrate.survey import survey
from yolo_compress.errors import UsageError, entry_of
from yolo_compress.host.data import DataSpec, sample

DIGITS = 6  # of figures in a manifest, which another processor may compute with another last bit
SCORED, SCORED_SEED = 128, 1000  # images that candidates are scored on, and the seed of their draw

Score = Callable[[Sequence[Path]], float]


@dataclass(frozen=True)
class Choice:
    """Calibration images, and the objective and their numbers in it, in the order in which they were taken."""

    chosen: CalibrationSet
    objective: Objective
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """Several sets, of which the one of the lowest score is kept.

    Attributes:
        candidates: How many sets.
        score_on: Takes up to `SCORED` training images, drawn at random from all, and returns the score, which is lower
            the better a set of images is. Images of a set may be among them.
        facts: What that depends on besides, as plain data.
    """

    candidates: int
    score_on: Callable[[Sequence[Path]], Score]
    facts: Mapping[str, Any] = field(default_factory=dict)


def choose(data: DataSpec, n: int, *, seed: int = 0) -> CalibrationSet:
    """Draw up to `n` training images without replacement; validation images only ever measure.

    Raises:
        UsageError: `n` is below 1.
        DataError: An image cannot be read.
    """
    if n < 1:
        raise UsageError(f"images={n} is no calibration set; give at least 1, better 256")
    return chosen_set(data, sample(data.train, n, seed=seed), {"method": "random", "seed": seed})


def calibration_set(data: DataSpec, n: int, manifest: str | Path | None = None) -> CalibrationSet:
    """Return the images of a manifest, or `n` drawn at random where none is given.

    Raises:
        DataError: The manifest is none, is of another data set, or an image is missing or has changed.
        UsageError: `n` is below 1.
    """
    return choose(data, n) if manifest is None else read_manifest(Path(manifest), data)


def choose_measured(
    data: DataSpec,
    n: int,
    *,
    seed: int = 0,
    method: str = "cover",
    labels: bool = True,
    model: Path | None = None,
    imgsz: int = 640,
    weights: Mapping[str, float] | None = None,
    balance: float = BALANCE,
    selection: Selection | None = None,
    skip_unreadable: bool = False,
    hashes: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Look at all training images, choose `n` of them and tell how well they cover the data set.

    Args:
        data: The data set.
        n: Images to choose.
        seed: Draws, or says which of images that are equally useful is taken.
        method: See `METHODS`.
        labels: Take objects from labels.
        model: Float checkpoint whose activations count, and without labels its detections.
        imgsz: Side of the letterboxed square in pixels.
        weights: Of features; see `Objective`.
        balance: See `Objective`.
        selection: Choose several sets, which share some images, and keep the best one. Activations do not count
            then; otherwise the first set is the one chosen without.
        skip_unreadable: Leave out images that cannot be decoded.
        hashes: Note the hash of each image.
        progress: Takes a line now and then.

    Raises:
        UsageError: Unknown method or feature, `n` below 1 or above the number of images, another option out of range.
        DataError: An image or a label file cannot be read, or there are no labels.
        UnsupportedModel: The model is no float detector, or an activation of it is not finite.
    """
    pick = entry_of(METHODS, "method", method)
    _check_count(n, data, len(data.train), "training images")
    found = survey(
        data,
        labels=labels,
        model=model,
        activations=selection is None,  # else the model scores whole sets; running it on every image takes long
        imgsz=imgsz,
        skip_unreadable=skip_unreadable,
        progress=progress,
    )
    _check_count(n, data, len(found.images), "training images that can be read")
    objective = Objective(found.features, n, weights=weights, balance=balance)
    progress(f"choosing {n} of {len(found.images)} images: {method}")
    won: dict[str, Any] = {}
    if selection is None:
        numbers = pick(objective, found.images, seed, 0)
    else:
        numbers, won = _best(
            selection, lambda number: pick(objective, found.images, seed, number), found.images, progress
        )
    how: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "weights": objective.weights,
        "balance": balance,
        "objects": "labels" if labels else "none" if model is None else "detections",
        "model_sha256": None if model is None else sha256_path(model),
        "imgsz": imgsz,
        "side": SIDE,
        "yolo_compress": __version__,
        "objective": round(objective.value(numbers), DIGITS),
        **won,
    }
    images = [found.images[number] for number in sorted(numbers)]
    chosen = replace(
        chosen_set(data, images, how, hashes=hashes),
        coverage={name: _plain(row) for name, row in objective.figures(numbers, seed=seed).items()},
        skipped=tuple(name_of(image, data) for image in found.skipped),
    )
    return Choice(chosen, objective, tuple(numbers))


def _plain(row: Figures) -> dict[str, Any]:
    return {name: round(value, DIGITS) for name, value in asdict(row).items()}


def _best(
    selection: Selection,
    pick: Callable[[int], list[int]],
    images: Sequence[Path],
    progress: Callable[[str], None],
) -> tuple[list[int], dict[str, Any]]:
    """Return the set of the lowest score, and what to say of the selection."""
    score = selection.score_on(sample(images, SCORED, seed=SCORED_SEED))
    found: list[tuple[float, list[int]]] = []
    for number in range(selection.candidates):
        numbers = pick(number)
        found.append((score([images[i] for i in sorted(numbers)]), numbers))
        told = f"detections move by {found[-1][0]:.4g}, with the best one by {min(found)[0]:.4g}"
        progress(f"candidate {number + 1} of {selection.candidates}: {told}")
    moves = [float(f"{moved:.4g}") for moved, _ in found]
    return min(found)[1], {"candidates": moves, "scored_on": min(SCORED, len(images)), **selection.facts}


def _at_random(objective: Objective, images: tuple[Path, ...], seed: int, number: int) -> list[int]:
    if not number:
        return [int(image) for image in sample(range(len(images)), objective.n, seed=seed)]
    return [int(i) for i in np.random.default_rng([seed, number]).choice(len(images), objective.n, replace=False)]


def _covering(objective: Objective, images: tuple[Path, ...], seed: int, number: int) -> list[int]:
    if not number:
        return cover(objective, seed=seed)
    return cover_by_sampling(objective, np.random.default_rng([seed, number]))


# by the number of the candidate, of which the first is what there is without a selection
METHODS: dict[str, Callable[[Objective, tuple[Path, ...], int, int], list[int]]] = {
    "cover": _covering,
    "random": _at_random,
}


def _check_count(n: int, data: DataSpec, there: int, what: str) -> None:
    if n < 1:
        raise UsageError(f"n={n} is no calibration set; give at least 1, better 256")
    if n > there:
        raise UsageError(f"n={n} is more than the {there} {what} of '{data.path}'; give n={there} or fewer")
