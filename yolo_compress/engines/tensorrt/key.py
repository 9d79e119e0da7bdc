# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a calibration cache belongs to, written beside it, so that one that belongs to something else is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yolo_compress.artifacts import atomic_write
from yolo_compress.calibrate import CalibrationSet
from yolo_compress.engines.tensorrt.cache import LARGEST_FILE, CalibrationCache, version_number
from yolo_compress.errors import DataError, UsageError, require

SCHEMA_VERSION = 1
LARGEST_SIDECAR = 1 << 20  # bytes
SHOWN = 12  # digits of a hash that messages repeat
REMEDY = "delete it to calibrate again, or name another file"


@dataclass(frozen=True)
class CacheKey:
    """All that the scales of a calibration depend on; TensorRT looks at the last two at most.

    Attributes:
        model: sha256 of graph and weights, see `graph_sha256`.
        images: sha256 of the calibration set.
        preprocessing: How images become the input, see `preprocessing`.
        algorithm: Of the calibrator, such as EntropyCalibration2.
        tensorrt: Version, such as 10.3.0.
    """

    model: str
    images: str
    preprocessing: str
    algorithm: str
    tensorrt: str

    @staticmethod
    def of(graph: Path, images: CalibrationSet, *, imgsz: int, algorithm: str, tensorrt: str) -> CacheKey:
        """Return the key of a calibration of an ONNX graph.

        Raises:
            DataError: The graph cannot be read.
        """
        return CacheKey(graph_sha256(graph), images.sha256, preprocessing(imgsz), algorithm, tensorrt)


def preprocessing(imgsz: int) -> str:
    """Say what `host.data.image_batches` makes of an image."""
    return f"letterbox to {imgsz}x{imgsz}, RGB, divided by 255"


def graph_sha256(path: Path) -> str:
    """Hash graph and weights of an ONNX file, wherever the weights lie.

    Metadata takes no part: Ultralytics writes the date of the export into it, and the same checkpoint exported twice
    has the same activations.

    Raises:
        DataError: It cannot be read.
    """
    onnx = require("onnx", extra="onnx", purpose="calibration caches")
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; export one with: yolo export format=onnx")
    try:
        model = onnx.load(str(path))  # weights in other files are read as well
    except Exception as error:  # protobuf has its own hierarchy of decode errors
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"'{path}' is not a readable ONNX file ({reason}); export it again") from error
    digest = hashlib.sha256(model.graph.SerializeToString(deterministic=True))
    for opset in sorted((item.domain, item.version) for item in model.opset_import):
        digest.update(repr(opset).encode())
    return digest.hexdigest()


def write_cache(path: Path, content: bytes, key: CacheKey) -> None:
    """Write a cache, and beside it as `<path>.json` what it belongs to.

    The sidecar is written first: cut off between the two, there is no cache, or one that the sidecar does not speak of.

    Raises:
        DataError: The content is no calibration cache; nothing is written.
        OutputError: It cannot be written.
    """
    content = bytes(content)  # TensorRT hands over a view of memory that it frees
    CalibrationCache.parse(content)
    sidecar = {"schema_version": SCHEMA_VERSION, "cache_sha256": _sha256(content), "key": asdict(key)}
    atomic_write(sidecar_of(path), json.dumps(sidecar, indent=1) + "\n")
    atomic_write(path, content)


def read_cache(path: Path, key: CacheKey, *, trust: bool = False) -> bytes | None:
    """Return a cache that belongs to `key`, None where there is none.

    Args:
        path: The cache; `<path>.json` lies beside it.
        key: What is about to be calibrated.
        trust: Take a cache without sidecar, one from elsewhere, for what it is; only the version of TensorRT in its
            first line can be checked then.

    Raises:
        UsageError: It belongs to something else, is not the one that its sidecar speaks of, or has none.
        DataError: It is damaged.
    """
    if not path.exists():
        return None
    content = _read(path, LARGEST_FILE)
    sidecar = sidecar_of(path)
    if sidecar.exists():
        _compare(path, content, sidecar, key)
    elif not trust:
        raise UsageError(
            f"'{path}' has no '{sidecar.name}' beside it, so nothing says which model and images it belongs to; "
            f"{REMEDY}, or say that it is to be trusted"
        )
    cache = CalibrationCache.parse(content)
    if not sidecar.exists() and cache.version != version_number(key.tensorrt):
        raise UsageError(
            f"'{path}' was made by TensorRT {cache.version} and {version_number(key.tensorrt)} ({key.tensorrt}) is "
            f"running, which does not read it; {REMEDY}, or make a quantized graph of it, which any version reads: "
            f"yolo-compress quantize model=FLOAT.onnx cache={path}"
        )
    return content


def sidecar_of(path: Path) -> Path:
    """Return the file that says what a cache belongs to."""
    return path.with_name(f"{path.name}.json")


def _compare(path: Path, content: bytes, sidecar: Path, key: CacheKey) -> None:
    try:
        tree = json.loads(_read(sidecar, LARGEST_SIDECAR))
        schema, digest, parts = tree["schema_version"], tree["cache_sha256"], CacheKey(**tree["key"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"'{sidecar}' is damaged ({error}), so nothing says what '{path.name}' belongs to; delete both to "
            "calibrate again, or name another file"
        ) from error
    if schema != SCHEMA_VERSION:
        raise UsageError(f"'{sidecar}' was written by another version of yolo_compress; {REMEDY}")
    if digest != _sha256(content):
        raise UsageError(
            f"'{path}' is not the cache that '{sidecar.name}' speaks of ({_short(_sha256(content))} in place of "
            f"{_short(digest)}): one of the two was changed or copied; {REMEDY}"
        )
    found, wanted = asdict(parts), asdict(key)
    differing = [
        f"{name} {_short(found[name])} (now {_short(wanted[name])})" for name in wanted if found[name] != wanted[name]
    ]
    if differing:
        raise UsageError(f"'{path}' belongs to another calibration: {'; '.join(differing)}; {REMEDY}")


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}; check the path") from error
    if len(content) > most:
        raise DataError(f"'{path}' has more than {most:,} bytes, so it is not what it is taken for; name another file")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text[:SHOWN] if len(text) == 64 and all(digit in "0123456789abcdef" for digit in text) else text[:80]
