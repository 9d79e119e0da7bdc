# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Images and labels of an Ultralytics data YAML, prepared exactly as the validator prepares them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from yolo_compress.errors import DataError
from yolo_compress.host.ultralytics import DATASETS_DIR, IMG_FORMATS, YAML, LetterBox, check_yaml, img2label_paths


@dataclass(frozen=True)
class DataSpec:
    """A detection data set: its YAML, class names, image files in a fixed order, and the folder that they lie below."""

    path: Path
    names: tuple[str, ...]
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    root: Path = Path()


def read_data(path: str | Path) -> DataSpec:
    """Read a data YAML and list its images; nothing is downloaded.

    Raises:
        DataError: The YAML, its keys or its images are missing.
    """
    try:
        file = Path(check_yaml(str(path)))  # finds the YAMLs that Ultralytics ships, such as coco128.yaml
        tree = YAML.load(file)
    except Exception as error:
        raise DataError(f"data '{path}' cannot be read ({error}); give a data YAML, such as coco128.yaml") from error
    if not isinstance(tree, dict) or tree.get("names") is None:
        raise DataError(f"data '{path}' has no 'names'; add the class list, such as names: {{0: person}}")
    root = Path(tree.get("path") or file.parent)
    if not root.is_absolute():
        root = root if root.exists() else (DATASETS_DIR / root)
    names = tree["names"]
    ordered = tuple(str(names[key]) for key in sorted(names)) if isinstance(names, dict) else tuple(map(str, names))
    val_entry = tree.get("val") or tree.get("validation")
    if not val_entry:
        raise DataError(f"data '{path}' has no 'val' images, and accuracy cannot be measured without; add val: FOLDER")
    if not tree.get("train"):
        raise DataError(f"data '{path}' has no 'train' images; add train: FOLDER")
    hint = "; Ultralytics downloads the sets that it knows at the first `yolo train`" if tree.get("download") else ""
    train = _images(root, tree["train"], f"data '{path}' train", hint)
    return DataSpec(file.resolve(), ordered, train, _images(root, val_entry, f"data '{path}' val", hint), root)


def labels_for(images: Sequence[Path]) -> list[np.ndarray]:
    """Return the labels of each image as (n, 5): class, then centre x, y, width, height as shares of the image.

    An image without a label file has no objects.

    Raises:
        DataError: A label file does not hold rows of five numbers.
    """
    found = []
    for file in map(Path, img2label_paths([str(image) for image in images])):
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        try:
            rows = [[float(value) for value in line.split()[:5]] for line in text.splitlines() if line.strip()]
            found.append(np.array(rows, dtype=np.float32).reshape(len(rows), 5))
        except ValueError as error:
            raise DataError(f"labels '{file}' are not rows of 'class x y width height'; correct that file") from error
    return found


def read_image(path: Path) -> np.ndarray:
    """Read an image as (height, width, 3) BGR bytes.

    Raises:
        DataError: It cannot be decoded.
    """
    return _decoded(path, path.read_bytes() if path.is_file() else b"", cv2.IMREAD_COLOR)


def read_luma(path: Path, side: int) -> np.ndarray:
    """Read an image as (height, width) bytes of luma whose longer side has `side` pixels, or fewer where it has fewer.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, which is several times faster; averages over
    areas do the rest.

    Raises:
        DataError: It cannot be decoded.
    """
    data = path.read_bytes() if path.is_file() else b""
    luma = _decoded(path, data, _REDUCED[_reduction(_jpeg_side(data), side)])
    scale = side / max(luma.shape)
    if scale >= 1:
        return luma
    size = [max(1, round(pixels * scale)) for pixels in luma.shape[::-1]]
    return cv2.resize(luma, size, interpolation=cv2.INTER_AREA)


def letterbox(image: np.ndarray, imgsz: int) -> tuple[np.ndarray, tuple[float, float], tuple[int, int]]:
    """Resize and pad an image to a square, as the validator does with `rect=False`.

    Args:
        image: (height, width, 3) BGR bytes.
        imgsz: Side of the square in pixels.

    Returns:
        The image as (3, imgsz, imgsz) RGB bytes, its scale in x and in y, which differ since both sides are rounded to
        whole pixels, and the (left, top) padding in pixels.
    """
    height, width = image.shape[:2]
    scale = imgsz / max(height, width)
    if scale != 1:
        size = min(math.ceil(width * scale), imgsz), min(math.ceil(height * scale), imgsz)
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    frame = LetterBox(new_shape=(imgsz, imgsz), auto=False, scaleup=False)
    params = frame.get_params({"img": image})
    padded = frame(image=image)
    chw = np.ascontiguousarray(padded[..., ::-1].transpose(2, 0, 1))
    return chw, (image.shape[1] / width, image.shape[0] / height), (params["left"], params["top"])


def image_batches(images: Sequence[Path], imgsz: int, *, batch: int = 8) -> Iterator[np.ndarray]:
    """Yield letterboxed images in order as (N, 3, imgsz, imgsz) float32 in 0 to 1; the last batch may be small."""
    for start in range(0, len(images), batch):
        frames = [letterbox(read_image(path), imgsz)[0] for path in images[start : start + batch]]
        yield np.stack(frames).astype(np.float32) / 255


def labelled_batches(
    data: DataSpec,
    imgsz: int,
    *,
    batch: int = 8,
    limit: int | None = None,
    seed: int = 0,
    split: Literal["train", "val"] = "train",
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches without augmentation in the form that Ultralytics' losses take.

    Args:
        data: The data set.
        imgsz: Side of the letterboxed square in pixels.
        batch: Images per batch.
        limit: Images to use, drawn without replacement; all when not given.
        seed: Seed of that draw.
        split: Which images.

    Yields:
        `img` (N, 3, imgsz, imgsz) in 0 to 1, `batch_idx` (n,), `cls` (n, 1), `bboxes` (n, 4) as centre boxes in shares.
    """
    chosen = sample(getattr(data, split), limit, seed=seed)
    for start in range(0, len(chosen), batch):
        paths = chosen[start : start + batch]
        frames, rows = [], []
        for index, (path, labels) in enumerate(zip(paths, labels_for(paths), strict=True)):
            image = read_image(path)
            frame, scale, (left, top) = letterbox(image, imgsz)
            frames.append(frame)
            size = np.array([image.shape[1], image.shape[0]] * 2, np.float32) * np.array(scale * 2, np.float32)
            boxes = (labels[:, 1:] * size + np.array([left, top, 0, 0], np.float32)) / imgsz
            rows.append(np.column_stack([np.full(len(labels), index), labels[:, 0], boxes]))
        table = torch.from_numpy(np.concatenate(rows).astype(np.float32))
        yield {
            "img": torch.from_numpy(np.stack(frames)).float() / 255,
            "batch_idx": table[:, 0],
            "cls": table[:, 1:2],
            "bboxes": table[:, 2:],
        }


def sample(images: Sequence[Path], limit: int | None, *, seed: int) -> tuple[Path, ...]:
    """Draw up to `limit` images without replacement, kept in their order; the same seed draws the same ones."""
    if limit is None or limit >= len(images):
        return tuple(images)
    chosen = np.random.default_rng(seed).choice(len(images), size=limit, replace=False)
    return tuple(images[i] for i in sorted(chosen))


def _images(root: Path, entry: str | Sequence[str], what: str, hint: str) -> tuple[Path, ...]:
    found: list[Path] = []
    for part in [entry] if isinstance(entry, str) else entry:
        place = root / part
        if place.is_dir():
            found += [file for file in place.rglob("*") if file.suffix[1:].lower() in IMG_FORMATS]
        elif place.is_file():  # a list of images, relative ones beside the list
            lines = place.read_text(encoding="utf-8").split("\n")
            found += [place.parent / line.strip() for line in lines if line.strip()]
        else:
            raise DataError(f"{what} images are not at '{place}'; correct the path in the YAML{hint}")
    if not found:
        raise DataError(f"{what} holds no images at '{root}'; point it to a folder of images{hint}")
    return tuple(sorted(found))


_REDUCED = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def _decoded(path: Path, data: bytes, flags: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise DataError(f"image '{path}' cannot be read; replace it or take it out of the data set")
    return image


def _reduction(longest: int, side: int) -> int:
    return next((factor for factor in (8, 4, 2) if longest >= factor * side), 1)


def _jpeg_side(data: bytes) -> int:
    """Return the longer side of a JPEG from its frame header, 0 where there is none."""
    place = 2
    while data[:2] == b"\xff\xd8" and data[place : place + 1] == b"\xff" and len(data) >= place + 9:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame, no table and no extension
            sides = (data[place + 5 : place + 7], data[place + 7 : place + 9])
            return max(int.from_bytes(pixels, "big") for pixels in sides)
        place += 2 + length
    return 0
