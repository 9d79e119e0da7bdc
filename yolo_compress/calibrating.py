# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Choose a calibration set, write its manifest and its picture, and tell how well it covers the data set."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yolo_compress.artifacts import atomic_write
from yolo_compress.calibrate.choose import Selection, choose_measured
from yolo_compress.calibrate.coverage import BALANCE, DRAWS
from yolo_compress.calibrate.manifest import CalibrationSet, write_manifest
from yolo_compress.calibrate.plot import picture
from yolo_compress.errors import UsageError, entry_of, require
from yolo_compress.host.data import read_data
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import RANGES, SCHEMES, CalibrationScore

FOLDER = Path("calib_data")


@dataclass(frozen=True)
class CalibrationFiles:
    """A calibration set and where it was written."""

    chosen: CalibrationSet
    manifest: Path
    picture: Path | None

    def __str__(self) -> str:
        """Return the table of coverage, what was skipped, and the places of the files."""
        how = self.chosen.how
        lines = [
            f"{len(self.chosen.images)} of {self.chosen.data['train_images']} training images, method {how['method']}, "
            f"seed {how['seed']}; random: mean of {DRAWS} draws of as many",
            "",
            f"{'feature':<12}{'bins':>6}{'covered':>10}{'random':>9}{'score':>9}{'random':>9}",
        ]
        for name, row in self.chosen.coverage.items():
            shares = f"{100 * row['covered']:>8.1f} %{100 * row['random_covered']:>7.1f} %"
            lines.append(f"{name:<12}{row['bins']:>6}{shares}{row['score']:>9.4f}{row['random_score']:>9.4f}")
        if "candidates" in how:
            moves, on = how["candidates"], f"target={how['target']} range={how['range']}: on {how['scored_on']} images"
            told = f"the best of {len(moves)} sets for {on} detections move by {min(moves):.4g}"
            lines += ["", f"{told}, with the first set by {moves[0]:.4g}"]
        if self.chosen.skipped:
            lines += ["", f"note: {len(self.chosen.skipped)} images that cannot be read were skipped"]
        places = [self.manifest] if self.picture is None else [self.manifest, self.picture]
        return "\n".join([*lines, "", *(f"wrote {place}" for place in places)])


def calib(
    data: str | Path,
    *,
    n: int = 512,
    seed: int = 0,
    method: str = "cover",
    labels: bool = True,
    model: str | Path | None = None,
    imgsz: int = 640,
    weights: Mapping[str, float] | Sequence[str] = (),
    balance: float = BALANCE,
    candidates: int = 1,
    target: str | None = None,
    range: str | None = None,
    skip_unreadable: bool = False,
    hashes: bool = True,
    plot: bool = True,
    out: str | Path | None = None,
    progress: Callable[[str], None] = print,
) -> CalibrationFiles:
    """Choose training images to calibrate on, so that they cover the data set, and write their manifest.

    Args:
        data: Data YAML; only training images are chosen.
        n: Images to choose.
        seed: Says which of equally useful images is taken, and draws the random ones; the same seed, the same manifest.
        method: cover, or random.
        labels: Take classes, numbers and sizes of objects from the labels.
        model: Float checkpoint: its activations count, and without labels its detections stand in for objects.
        imgsz: Side of the square input in pixels, which sizes of objects and the model refer to.
        weights: Of features, such as {"classes": 2} or ["classes=2"]; 1 where not given.
        balance: 0 has every bin as often as it is in the data set, 1 has all alike.
        candidates: Choose so many sets, quantize the model on each, and keep the one whose detections move least.
        target: Runtime that the candidates are quantized for; openvino when not given.
        range: How their ranges are chosen, and will be with the set that is kept; mse when not given.
        skip_unreadable: Leave out images that cannot be read, and count them, instead of stopping.
        hashes: Note the hash of every image; without, the names serve copies of the data that are encoded otherwise.
        plot: Draw the picture.
        out: Manifest to write; calib_data/DATA-N.json when not given. The picture lies beside it.
        progress: Takes a line now and then.

    Raises:
        UsageError: An option is out of range, or `n` is more than there are images.
        DataError: Data, images, labels or weights are missing or damaged.
        UnsupportedModel: The model is no float detector, or an activation of it is not finite.
        EngineError: The model cannot be exported for candidates.
        MissingDependency: matplotlib is not installed and a picture is wanted, or candidates are and onnx,
            onnxruntime or onnxslim is not.
        OutputError: The files cannot be written.
    """
    if plot:  # said before minutes of work
        require("matplotlib", extra="report", purpose="coverage pictures (left out with plot=false)")
    if model is not None and imgsz % 32:
        raise UsageError(f"imgsz={imgsz} cannot be used, a detector needs a multiple of 32; write imgsz=640")
    spec = read_data(data)
    target, range = _checked(candidates, model, target, range)
    place = Path(out) if out is not None else FOLDER / f"{spec.path.stem}-{n}.json"
    if place.suffix != ".json":
        raise UsageError(f"out={out} is no name of a manifest; give one that ends in .json, such as {place.stem}.json")
    weighed, network = _weights(weights), None if model is None else Path(model)
    with _selection(candidates, network, imgsz=imgsz, target=target, range=range) as selection:
        choice = choose_measured(
            spec,
            n,
            seed=seed,
            method=method,
            labels=labels,
            model=network,
            imgsz=imgsz,
            weights=weighed,
            balance=balance,
            selection=selection,
            skip_unreadable=skip_unreadable,
            hashes=hashes,
            progress=progress,
        )
    image = picture(choice, seed=seed) if plot else None
    write_manifest(choice.chosen, place)
    if image is None:
        return CalibrationFiles(choice.chosen, place, None)
    atomic_write(place.with_suffix(".png"), image)
    return CalibrationFiles(choice.chosen, place, place.with_suffix(".png"))


@contextmanager
def _selection(
    candidates: int, model: Path | None, *, imgsz: int, target: str, range: str
) -> Iterator[Selection | None]:
    if candidates == 1 or model is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as place:
        graph = export_onnx(model, Path(place) / "float.onnx", imgsz=imgsz)  # what it lacks is said at once

        def score_on(images: Sequence[Path]) -> CalibrationScore:
            return CalibrationScore(graph, images, imgsz=imgsz, target=target, range=range)

        yield Selection(candidates, score_on, {"target": target, "range": range})


def _checked(candidates: int, model: str | Path | None, target: str | None, range: str | None) -> tuple[str, str]:
    """Refuse what has no meaning, and return the target and the range."""
    if candidates == 1:
        for key, value in (("target", target), ("range", range)):
            if value is not None:
                raise UsageError(
                    f"{key}={value} says what several sets are quantized for, and one is chosen without; add "
                    f"candidates=16, or leave out {key}"
                )
        return "openvino", "mse"
    if candidates < 1:
        raise UsageError(f"candidates={candidates} leaves no set to choose; give 1, or 16 to have the best of 16")
    if model is None:
        raise UsageError(
            f"candidates={candidates} compares sets by what a model quantized on them detects; give model=best.pt"
        )
    target, range = target or "openvino", range or "mse"
    entry_of(SCHEMES, "target", target)
    entry_of(RANGES, "range", range)
    return target, range


def _weights(given: Mapping[str, float] | Sequence[str]) -> dict[str, float]:
    if isinstance(given, Mapping):
        return {str(name): float(weight) for name, weight in given.items()}
    found = {}
    for part in given:
        name, _, weight = part.partition("=")
        try:
            found[name.strip()] = float(weight)
        except ValueError:
            raise UsageError(
                f"weights={part} is no feature and number; write such as weights=classes=2,clutter=0"
            ) from None
    return found
