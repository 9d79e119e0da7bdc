# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a detector gets wrong, as the AP at IoU 0.5 that mending each kind of error would gain.

The kinds and what mending means are those of Bolya et al. 2020 (TIDE: A General Toolbox for Identifying Object
Detection Errors, arXiv:2008.08115). Gains do not add up to what is missing to 100: AP is not linear.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from yolo_compress.bench.accuracy import Detections, Truth
from yolo_compress.bench.curves import Curves
from yolo_compress.bench.matches import NO_OBJECT, Matches, overlaps
from yolo_compress.bench.result import ERROR_KINDS

FOREGROUND = 0.5
BACKGROUND = 0.1
RIGHT = -1
LOCALISATION, CLASSIFICATION, BOTH, DUPLICATE, BACKGROUND_KIND, MISSED = range(len(ERROR_KINDS))


@dataclass(frozen=True)
class ErrorKinds:
    """Every error of a detector, sorted by kind; numbers of kinds are places in `ERROR_KINDS`.

    Attributes:
        matches: The matched detections (n,).
        kind: Kind of each detection that is wrong; -1 of one that is right.
        target: Class that mending gives to the detection; -1 where mending takes the detection out.
        missed: Missed objects, (classes, images).
    """

    matches: Matches
    kind: np.ndarray
    target: np.ndarray
    missed: np.ndarray

    def counts(self) -> tuple[int, ...]:
        """Return the number of errors of each kind."""
        wrong = np.bincount(self.kind[self.kind != RIGHT], minlength=len(ERROR_KINDS))
        return (*wrong[:MISSED].tolist(), int(self.missed.sum()))

    def gains(self) -> tuple[float | None, ...]:
        """Return the AP at IoU 0.5, a share, that mending each kind alone gains; None where no object would be left."""
        now = self.average_precision(())
        after = [self.average_precision([kind]) for kind in range(len(ERROR_KINDS))]
        return tuple(None if value is None or now is None else value - now for value in after)

    def average_precision(self, mended: Collection[int]) -> float | None:
        """Return AP at IoU 0.5 with these kinds mended, as a mean over the classes that still have an object."""
        touched = np.isin(self.kind, list(mended))
        right = (self.kind == RIGHT) | (touched & (self.target >= 0))
        cls = np.where(touched & (self.target >= 0), self.target, self.matches.cls)
        kept = np.flatnonzero(~touched | (self.target >= 0))
        kept = kept[np.lexsort((-self.matches.score[kept], cls[kept]))]
        objects = self.matches.objects.copy()
        if MISSED in mended:
            objects[0] -= self.missed
        changed = replace(
            self.matches,
            image=self.matches.image[kept],
            cls=cls[kept],
            hit=right[kept].astype(np.uint64),  # the bit of the first threshold, 0.5, over all areas
            ignored=np.zeros(len(kept), np.uint64),
            objects=objects,
        )
        values = Curves.of(changed, thresholds=1).average_precision()[0]
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else None


def error_kinds(truth: Truth, detections: Detections, matches: Matches) -> ErrorKinds:
    """Sort errors by kind.

    A detection that is not right at an IoU of 0.5 is, by what it overlaps most, and in this order:

    * localisation: an object of its class, by 0.1 to 0.5; mended, the box is right;
    * classification: an object of another class, by at least 0.5; mended, the class is right;
    * duplicate: an object of its class by at least 0.5, which another detection found; mended, it is gone;
    * background: no object by as much as 0.1; mended, it is gone;
    * both: the rest, an object of another class by 0.1 to 0.5; mended, it is gone.

    An object is missed when it is not found, nor would be by mending a box or a class; mended, it is no object. Of
    several detections that would be mended to one object, or of one to an object that is found already, the one with
    the highest score, or the one that found it, stays and the others go.

    Args:
        truth: The objects.
        detections: What was found.
        matches: The same, matched.
    """
    rows = np.concatenate(detections.images)[matches.row].astype(np.float64)
    objects = np.concatenate(truth.images)
    first = np.cumsum([0, *(len(one) for one in truth.images)])
    right = matches.flags(matches.hit, "all", 1)[0]
    found = np.zeros(len(objects), bool)
    found[matches.partner[right]] = True
    kind = np.full(len(rows), RIGHT)
    thing = np.full(len(rows), NO_OBJECT)  # that mending would lead to
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(matches.image[wrong], kind="stable")]
    ends = np.searchsorted(matches.image[wrong], np.arange(len(truth.images) + 1))
    for index, theirs in enumerate(truth.images):
        mine = wrong[ends[index] : ends[index + 1]]
        kind[mine], local = _kinds(rows[mine], theirs)
        thing[mine] = np.where(local == NO_OBJECT, NO_OBJECT, local + first[index])
    mended = _best(thing, matches, found)
    target = np.full(len(rows), NO_OBJECT)
    target[mended] = objects[thing[mended], 0]
    left = ~found
    left[thing[mended]] = False
    missed = np.zeros_like(matches.objects[0])
    image = np.repeat(np.arange(len(truth.images)), np.diff(first))
    np.add.at(missed, (objects[left, 0].astype(np.intp), image[left]), 1)
    return ErrorKinds(matches, kind, target, missed)


def _kinds(rows: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return kind and object, as a row of this image's, of detections that are not right."""
    if not len(objects):
        return np.full(len(rows), BACKGROUND_KIND), np.full(len(rows), NO_OBJECT)
    overlap = overlaps(rows, objects)
    agrees = rows[:, 5:6] == objects[:, 0]
    same, other = np.where(agrees, overlap, 0), np.where(agrees, 0, overlap)
    most_same, most_other = same.max(axis=1), other.max(axis=1)
    kind = np.select(
        [
            (most_same >= BACKGROUND) & (most_same < FOREGROUND),
            most_other >= FOREGROUND,
            most_same >= FOREGROUND,
            most_other < BACKGROUND,
        ],
        [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND_KIND],
        BOTH,
    )
    thing = np.select(
        [kind == LOCALISATION, kind == CLASSIFICATION], [same.argmax(axis=1), other.argmax(axis=1)], NO_OBJECT
    )
    return kind, thing


def _best(thing: np.ndarray, matches: Matches, found: np.ndarray) -> np.ndarray:
    """Return the detections that mending makes right: of each object that is not found the one of the highest score."""
    asked = np.flatnonzero(thing != NO_OBJECT)
    asked = asked[~found[thing[asked]]]
    asked = asked[np.lexsort((matches.row[asked], -matches.score[asked], thing[asked]))]
    return asked[np.append(True, thing[asked][1:] != thing[asked][:-1])[: len(asked)]]
