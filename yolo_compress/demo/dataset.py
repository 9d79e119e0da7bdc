# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Write the demonstration set: drawn pictures with YOLO labels, the same bytes for the same seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import atomic_path, sha256_path
from yolo_compress.errors import DataError, OutputError

SPLITS = ("train", "val")
IMGSZ = 128
MANIFEST = "manifest.json"
DRAWING = 1  # raised whenever the drawing changes, so that an older set is not taken for this one


def write_demo_set(folder: str | Path, *, seed: int = 0, train: int = 400, val: int = 80, imgsz: int = IMGSZ) -> Path:
    """Draw the demonstration set and return its data YAML.

    Picture k of a split depends on the seed, the split and k alone. The bytes are the same wherever the same versions
    of NumPy and OpenCV run. A complete set of the same parameters is verified by its hashes and used again; an older
    or damaged one is replaced as a whole, so a set is never half old and half new.

    Args:
        folder: Where the set goes; new, empty, or holding an earlier set.
        seed: Non-negative seed of all randomness.
        train: Number of training pictures.
        val: Number of validation pictures.
        imgsz: Side of the square pictures in pixels.

    Raises:
        DataError: A count, the side or the seed is out of range.
        OutputError: The folder holds something else, or cannot be written to.
    """
    folder = Path(folder)
    if min(train, val) < 1 or seed < 0 or imgsz < 64:
        raise DataError(
            f"seed={seed}, train={train}, val={val}, imgsz={imgsz} cannot be drawn; give a seed of at least 0, "
            "at least one picture for training and one for validation, and a side of at least 64 pixels"
        )
    parameters = {"drawing": DRAWING, "seed": seed, "train": train, "val": val, "imgsz": imgsz}
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"'{folder}' holds no demonstration set and is not empty; give a new or empty folder")
    if not _complete(folder, parameters):
        with atomic_path(folder) as new:
            _write(new, parameters)
    return folder / "data.yaml"


def _complete(folder: Path, parameters: dict[str, Any]) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["parameters"] != parameters:
            return False
        return all(sha256_path(folder / name) == digest for name, digest in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged in whatever way: draw again
        return False


def _write(folder: Path, parameters: dict[str, Any]) -> None:
    from yolo_compress.demo.scene import CLASSES

    folder.mkdir()
    for index, split in enumerate(SPLITS):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for k in range(parameters[split]):
            _write_picture(images / f"{k:04d}.png", labels / f"{k:04d}.txt", parameters, index, k)
    names = "".join(f"  {k}: {name}\n" for k, name in enumerate(CLASSES))
    head = f"# Drawn parts on work surfaces, seed {parameters['seed']}; paths are relative to this file.\n"
    (folder / "data.yaml").write_text(f"{head}train: images/train\nval: images/val\nnames:\n{names}", encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): sha256_path(path) for path in files}
    manifest = json.dumps({"parameters": parameters, "files": hashes}, indent=1)
    (folder / MANIFEST).write_text(manifest + "\n", encoding="utf-8")


def _write_picture(image: Path, label: Path, parameters: dict[str, Any], split: int, k: int) -> None:
    import cv2
    import numpy as np

    from yolo_compress.demo.scene import draw_scene

    size = parameters["imgsz"]
    rng = np.random.Generator(np.random.PCG64([parameters["seed"], split, k]))
    scene = draw_scene(rng, size=size)
    done, png = cv2.imencode(".png", scene.image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise OutputError(f"OpenCV could not encode '{image}'; check its installation: python -c 'import cv2'")
    image.write_bytes(png.tobytes())  # not cv2.imwrite, which cannot open every path and hides a full disk
    lines = []
    for part in scene.parts:
        x1, y1, x2, y2 = part.box
        values = (x1 + x2) / 2 / size, (y1 + y2) / 2 / size, (x2 - x1) / size, (y2 - y1) / size
        lines.append(f"{part.class_id} " + " ".join(f"{value:.6f}" for value in values) + "\n")
    label.write_text("".join(lines), encoding="utf-8")
