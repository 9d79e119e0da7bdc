# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Two engines of one task as one: the cheap one answers, and images that it is unsure about go to the precise one.

How unsure an answer is, its doubt, is read off the answer itself: `sum_i s_i (1 - s_i)` over its boxes, the variance of
the number of right ones if scores were probabilities. What a doubt means is calibrated without labels: on other images,
how many boxes the two engines disagree about, as a function of the doubt that can only rise (isotonic regression; as
Zadrozny and Elkan 2002 calibrate scores).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_compress.artifacts import EngineFile, atomic_write, sha256_path, size_bytes
from yolo_compress.errors import DataError, EngineError, UsageError

if TYPE_CHECKING:
    from yolo_compress.engines.protocol import Session

SUFFIX = ".cascade.json"
SCHEMA_VERSION = 1
FAINTEST, SHOWN = 0.05, 0.25  # scores from which a box counts for doubt, and from which `yolo predict` shows it
MOST = 100  # boxes of an answer that are looked at
OVERLAP = 0.5  # from which two boxes are the same one


@dataclass(frozen=True)
class Rule:
    """When an image goes on.

    Attributes:
        threshold: It goes on where the cheap answer's doubt is above this.
        share: Of the calibration images that went on.
        doubts: Rising doubts of the calibration curve.
        differing: How many boxes the engines are expected to disagree about at each.
        correlation: Spearman's, between the doubt and that number over the calibration images; 0 says it tells nothing.
        images: How many the curve was fitted to.
    """

    threshold: float
    share: float
    doubts: tuple[float, ...]
    differing: tuple[float, ...]
    correlation: float
    images: int


def fit_rule(
    cheap: Callable[[np.ndarray], np.ndarray],
    precise: Callable[[np.ndarray], np.ndarray],
    inputs: Iterable[np.ndarray],
    *,
    share: float | None = None,
    differing: float | None = None,
) -> Rule:
    """Fit when images go on, without labels.

    Args:
        cheap: Gives the raw answer of the cheap engine to an image (1, 3, H, W).
        precise: Gives that of the other one.
        inputs: Calibration images, none of which accuracy is measured on.
        share: Share of such images that is to go on; give this or `differing`.
        differing: Images go on where the engines are expected to disagree about more boxes than this.

    Raises:
        UsageError: None or both of the two are given, or one is out of range.
        DataError: There are fewer than two images.
    """
    from scipy.optimize import isotonic_regression
    from scipy.stats import spearmanr

    if (share is None) == (differing is None):
        raise UsageError("a cascade needs to know when images go on; give share=0.25 or differing=1, and one of them")
    if share is not None and not 0 < share < 1:
        raise UsageError(f"share={share} makes no cascade; give a number between 0 and 1, such as 0.25")
    if differing is not None and not differing >= 0:
        raise UsageError(f"differing={differing} is no number of boxes; give 0 or more")
    pairs = [(_doubt(first), differences(first, precise(image))) for image in inputs for first in (cheap(image),)]
    if len(pairs) < 2:
        raise DataError(f"a cascade cannot be fitted to {len(pairs)} images; give training images, better 128 or more")
    doubts, counts = (np.array(column, float) for column in zip(*sorted(pairs), strict=True))
    curve = isotonic_regression(counts).x
    if share is not None:
        threshold = float(np.quantile(doubts, 1 - share))
    else:
        below = doubts[curve <= differing]
        threshold = float(below[-1]) if len(below) else -1.0
    varied = len(set(doubts)) > 1 and len(set(counts)) > 1
    correlation = float(spearmanr(doubts, counts).statistic) if varied else 0.0
    went = float((doubts > threshold).mean())
    return Rule(threshold, went, tuple(doubts.tolist()), tuple(curve.tolist()), correlation, len(pairs))


def write_cascade(path: Path, cheap: Path, precise: Path, rule: Rule, *, imgsz: int) -> EngineFile:
    """Write a cascade, which names its engines relative to itself where it can, with their hashes.

    Raises:
        UsageError: The name does not end as a cascade's does.
        OutputError: It cannot be written.
    """
    if not path.name.endswith(SUFFIX):
        raise UsageError(f"'{path}' is no name for a cascade; let it end in {SUFFIX}")
    place = path.parent.resolve()
    engines = {}
    for role, file in (("cheap", cheap), ("precise", precise)):
        found = file.resolve()
        relative = found.relative_to(place) if found.is_relative_to(place) else found
        engines[role] = {"path": str(relative), "sha256": sha256_path(found)}
    content = {"schema_version": SCHEMA_VERSION, "imgsz": imgsz, **engines, "rule": vars(rule)}
    atomic_write(path, json.dumps(content, indent=1) + "\n")
    return EngineFile(path, Cascade.name, "mixed", imgsz, path.stat().st_size, sha256_path(path))


class Cascade:
    """Loads cascades; `write_cascade` makes them from engines that exist."""

    name = "cascade"
    precisions: tuple[str, ...] = ()

    def unavailable(self) -> str | None:
        """Return None: what the two engines need is theirs to say."""
        return None

    def build(self, source: Path, out_dir: Path, *, precision: str, imgsz: int) -> EngineFile:
        """Refuse: a cascade is not made from one model."""
        raise UsageError("a cascade is made of two engines; give bench cascade=int8.onnx,fp32.onnx")

    def load(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> CascadeSession:
        """Load both engines, after checking that they are the ones that the rule was fitted to."""
        from yolo_compress.engines import engine_for

        sessions, names = [], []
        content = _read(path)
        for role in ("cheap", "precise"):
            file = path.parent / content[role]["path"]
            if not file.exists():
                raise EngineError(f"'{path}' needs '{file}', which does not exist; make the cascade again")
            if sha256_path(file) != content[role]["sha256"]:
                raise EngineError(f"'{file}' is not the file that '{path}' was fitted to; make the cascade again")
            sessions.append(engine_for(file).load(file, device=device, threads=threads))
            names.append(file.name)
        size = sum(size_bytes(path.parent / content[role]["path"]) for role in ("cheap", "precise"))
        return CascadeSession(sessions[0], sessions[1], content["rule"]["threshold"], (names[0], names[1]), size)

    def profile(self, path: Path, images: np.ndarray, *, rounds: int, threads: int | None = None) -> dict[str, float]:
        """Refuse: it has no layers of its own."""
        raise UsageError("a cascade has no layers of its own; profile its engines")


class CascadeSession:
    """Two sessions that answer as one; images of a batch are decided one by one."""

    def __init__(self, cheap: Session, precise: Session, threshold: float, names: tuple[str, str], size: int) -> None:
        self.cheap, self.precise, self.threshold, self.names, self.size = cheap, precise, threshold, names, size
        self.answered = self.passed_on = 0

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return the answer of the cheap engine, or of the precise one where that one has doubts."""
        found = self.cheap.infer(images)
        self.answered += len(images)
        doubtful = [index for index in range(len(images)) if _doubt(found[index : index + 1]) > self.threshold]
        if doubtful:
            self.passed_on += len(doubtful)
            found = np.array(found)  # a runtime may hand out memory of its own
            for index in doubtful:
                found[index] = self.precise.infer(images[index : index + 1])[0]
        return found

    def describe(self) -> dict[str, Any]:
        """Say what both run, and which share of the images so far has gone on."""
        both = [session.describe() for session in (self.cheap, self.precise)]
        share = self.passed_on / self.answered if self.answered else None
        told = "" if share is None else f"{100 * share:.1f} % of {self.answered} images went to {self.names[1]}"
        return {
            "engine": Cascade.name,
            "precision": " then ".join(str(entry["precision"]) for entry in both),
            "version": " / ".join(str(entry["version"]) for entry in both),
            "device": both[0]["device"],
            "threads": both[0]["threads"],
            "passed_on": share,
            "size_bytes": self.size,
            "notes": [*([told] if told else []), *(note for entry in both for note in entry["notes"])],
        }

    def close(self) -> None:
        """Close both."""
        self.cheap.close()
        self.precise.close()


def boxes(raw: np.ndarray) -> np.ndarray:
    """Return the boxes of one raw answer (1, ...), without duplicates, as (n, 6): corners in pixels, score, class.

    A lighter way than the one that accuracy is measured with: one class for each anchor, `MOST` boxes.
    """
    if raw.shape[-1] == 6:
        found = raw[0][raw[0][:, 4] > FAINTEST]
        return found[np.argsort(-found[:, 4], kind="stable")][:MOST]
    scores = raw[0, 4:].max(0)
    kept = np.flatnonzero(scores > FAINTEST)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:MOST]
    middle, size = raw[0, :2, kept], raw[0, 2:4, kept]
    corners = np.concatenate([middle - size / 2, middle + size / 2], axis=1)
    classes = raw[0, 4:, kept].argmax(1)
    same = (overlaps(corners, corners) > OVERLAP) & (classes[:, None] == classes)
    alive = np.ones(len(kept), bool)
    for index in range(len(kept)):
        if alive[index]:
            alive[index + 1 :] &= ~same[index, index + 1 :]
    return np.column_stack([corners, scores[kept], classes])[alive]


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union of corner boxes (n, 4) and (m, 4) as (n, m)."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:4], b[:, 2:4])
    inner = (high - low).clip(0).prod(2)
    areas = [(c[:, 2:4] - c[:, :2]).clip(0).prod(1) for c in (a, b)]
    return inner / np.maximum(areas[0][:, None] + areas[1] - inner, 1e-9)


def differences(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many boxes that are shown, of two raw answers to one image, have no partner of their class there."""
    one, other = (found[found[:, 4] >= SHOWN] for found in (boxes(first), boxes(second)))
    if not len(one) or not len(other):
        return len(one) + len(other)
    fit = overlaps(one, other) * (one[:, None, 5] == other[:, 5])
    partners = 0
    for index in range(len(one)):  # the surest first
        best = int(fit[index].argmax())
        if fit[index, best] > OVERLAP:
            partners += 1
            fit[:, best] = 0
    return len(one) + len(other) - 2 * partners


def _doubt(raw: np.ndarray) -> float:
    scores = boxes(raw)[:, 4].astype(float)
    return float((scores * (1 - scores)).sum())


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; give a cascade that bench cascade= has written")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        words = [content[role][key] for role in ("cheap", "precise") for key in ("path", "sha256")]
        float(content["rule"]["threshold"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"'{path}' is not a cascade ({error}); make it again: bench cascade=A,B") from error
    if not all(isinstance(word, str) for word in words) or content.get("schema_version") != SCHEMA_VERSION:
        raise EngineError(f"'{path}' is not a cascade that this version reads; make it again: bench cascade=A,B")
    return content
