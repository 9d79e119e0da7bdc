# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a calibration cache belongs to, written beside it, so that one that belongs to something else is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_compress.artifacts import atomic_write
from yolo_compress.engines.tensorrt.cache import LARGEST_FILE, CalibrationCache, read_file, version_number
from yolo_compress.errors import DataError, UsageError, require

if TYPE_CHECKING:
    from yolo_compress.calibrate import CalibrationSet  # torch, which reading a cache does without

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
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")  # where they lie is not what they are
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
    content = read_file(path, LARGEST_FILE)
    parts = _parts(path, content)
    if parts is not None:
        _compare(path, asdict(parts), asdict(key))
    elif not trust:
        raise UsageError(
            f"'{path}' has no '{sidecar_of(path).name}' beside it, so nothing says which model and images it belongs "
            f"to; {REMEDY}, or say that it is to be trusted"
        )
    cache = CalibrationCache.parse(content)
    running = version_number(key.tensorrt)
    if parts is None and cache.version != running:
        raise UsageError(
            f"'{path}' was made by TensorRT {cache.version}, and {running}, which is about to read it, does not take "
            f"caches of others; {REMEDY}, or make a quantized graph of it, which every version reads: "
            f"yolo-compress quantize model=FLOAT.onnx cache={path}"
        )
    return content


def check_graph(path: Path, graph: Path) -> bool:
    """Refuse a cache that belongs to another graph or other weights; return whether anything says what it belongs to.

    Raises:
        UsageError: It belongs to another one, or is not the one that its sidecar speaks of.
        DataError: Something cannot be read.
    """
    parts = _parts(path, read_file(path, LARGEST_FILE))
    if parts is not None:
        _compare(path, {"model": parts.model}, {"model": graph_sha256(graph)})
    return parts is not None


def sidecar_of(path: Path) -> Path:
    """Return the file that says what a cache belongs to."""
    return path.with_name(f"{path.name}.json")


def _parts(path: Path, content: bytes) -> CacheKey | None:
    """Return what the sidecar says that a cache belongs to, None where there is no sidecar."""
    sidecar = sidecar_of(path)
    if not sidecar.exists():
        return None
    try:
        tree = json.loads(read_file(sidecar, LARGEST_SIDECAR))
        schema, digest, parts = tree["schema_version"], tree["cache_sha256"], CacheKey(**tree["key"])
        if not all(isinstance(value, str) for value in (digest, *asdict(parts).values())):
            raise TypeError("a part of the key is no text")
    except (DataError, ValueError, KeyError, TypeError, RecursionError) as error:
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
    return parts


def _compare(path: Path, found: dict[str, str], wanted: dict[str, str]) -> None:
    differing = [
        f"{name} {_short(found[name])} (now {_short(wanted[name])})" for name in wanted if found[name] != wanted[name]
    ]
    if differing:
        raise UsageError(f"'{path}' belongs to another calibration: {'; '.join(differing)}; {REMEDY}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _short(text: str) -> str:
    return text[:SHOWN] if len(text) == 64 and all(digit in "0123456789abcdef" for digit in text) else text[:80]
