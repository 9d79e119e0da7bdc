# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Two engines of one task as one: the cheap one answers, and images that it is unsure about go to the precise one.

How unsure an answer is, its doubt, is read off the answer itself: `sum_i s_i (1 - s_i)` over its boxes, the variance of
the number of right ones if scores were probabilities. `bench.cascade` finds out which doubt is too much.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_compress.artifacts import EngineFile, atomic_write, sha256_path, size_bytes
from yolo_compress.errors import DataError, EngineError, UsageError
from yolo_compress.host.detect import overlaps

if TYPE_CHECKING:
    from yolo_compress.engines.protocol import Session

SUFFIX = ".cascade.json"
SCHEMA_VERSION = 1
FAINTEST = 0.05  # score from which a box counts for doubt
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
        doubtful = [index for index in range(len(images)) if doubt(found[index : index + 1]) > self.threshold]
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


def doubt(raw: np.ndarray) -> float:
    """Return how unsure a raw answer to one image is: the sum of `s (1 - s)` over its boxes."""
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
