# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""INT8 ranges by TensorRT's own calibration: from images, or from a cache that fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_compress.engines.tensorrt.builder import build_engine
from yolo_compress.engines.tensorrt.calibrator import LARGEST_BATCH, LEGACY, SMALLEST_BATCH, batch_size, make_calibrator
from yolo_compress.engines.tensorrt.capability import CALIBRATORS, capabilities
from yolo_compress.engines.tensorrt.cuda import choose
from yolo_compress.engines.tensorrt.decision import Decision
from yolo_compress.errors import DataError, EngineError, UsageError, entry_of
from yolo_compress.recipe.tensorrt import TensorRtSection

if TYPE_CHECKING:
    import onnx

    from yolo_compress.calibrate import CalibrationSet

DLA_ALGORITHM = "entropy"  # the only one that a DLA takes


@dataclass(frozen=True)
class Calibration:
    """How TensorRT chooses ranges.

    Attributes:
        images: In the order in which they are looked at. Without any, the ranges are those of the cache: one that is
            no calibration of ours, but made from a quantized graph or by another tool.
        algorithm: One of `CALIBRATORS`.
        cache: File that ranges are kept in: read where it fits model, images and TensorRT, else written.
        batch: Most images that are looked at together, 8 to 32.
        float_layers: Layers that stay in half precision beside those of the head, by their names in the graph.
    """

    images: CalibrationSet | None
    algorithm: str = "entropy"
    cache: Path | None = None
    batch: int = 16
    float_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no TensorRT has.

        Raises:
            UsageError: No such algorithm, or a batch that is out of range.
        """
        entry_of(CALIBRATORS, "calibrator", self.algorithm)
        if not SMALLEST_BATCH <= self.batch <= LARGEST_BATCH:
            raise UsageError(
                f"calibration_batch={self.batch} is out of range; give {SMALLEST_BATCH} to {LARGEST_BATCH}"
            )


def calibrated(
    trt: ModuleType | Any,
    model: onnx.ModelProto,
    graph: Path,
    decision: Decision,
    calibration: Calibration,
    *,
    imgsz: int,
    options: TensorRtSection,
) -> tuple[Any, tuple[str, ...]]:
    """Return a calibrator that knows the ranges already, and notes.

    Ranges are chosen in a build of their own, of the graph with a fixed batch: the engine itself may take one image or
    any number of them, and histograms want many at a time. That build is not spent on speed.

    Args:
        trt: The TensorRT module.
        model: The float graph, best one that takes any number of images; changed nowhere.
        graph: Where the graph of the engine lies, which the cache belongs to.
        decision: In mode `calibrate`.
        calibration: Images and algorithm.
        imgsz: Side of the square input in pixels.
        options: Workspace and DLA.

    Raises:
        UsageError: No such calibrator in this version, or a cache that belongs to something else.
        DataError: An image cannot be read, which it names; no cache is left then. Or there are no images and no cache.
        EngineError: There is no GPU, or TensorRT did not calibrate.
    """
    algorithm, images, caps = calibration.algorithm, calibration.images, capabilities(trt)
    if algorithm not in caps.calibrators:
        raise UsageError(
            f"{caps.module} {caps.version} has no calibrator={algorithm}; give {' or '.join(caps.calibrators)}"
        )
    if options.dla is not None and algorithm != DLA_ALGORITHM:
        raise UsageError(
            f"a DLA only takes calibrator={DLA_ALGORITHM}, and calibrator={algorithm} was given; leave it out"
        )
    axis = model.graph.input[0].type.tensor_type.shape.dim[0]
    if images is None:
        content = _trusted(calibration.cache, graph, caps.version)
        told = f"ranges are those of '{calibration.cache}', which came without calibration images"
        return _known(trt, algorithm, content, axis.dim_value or 1), (told,)
    batch = axis.dim_value or batch_size(len(images.images), calibration.batch)
    used = len(images.images) // batch * batch
    notes = _notes(len(images.images), used, batch, fixed=bool(axis.dim_value))
    content, key = None, None
    if calibration.cache is not None:
        from yolo_compress.engines.tensorrt.key import read_cache

        key = _key(graph, images, algorithm, batch, imgsz=imgsz, version=caps.version)
        content = read_cache(calibration.cache, key)
    if content is not None:
        notes = (f"ranges are those of the calibration cache '{calibration.cache}'",)
    else:
        content = _calibrate(trt, model, graph, decision, calibration, batch, imgsz=imgsz, options=options)
    if key is not None and calibration.cache is not None and not calibration.cache.exists():
        from yolo_compress.engines.tensorrt.key import write_cache

        write_cache(calibration.cache, content, key)
    return _known(trt, algorithm, content, batch), notes


def _trusted(path: Path | None, graph: Path, version: str) -> bytes:
    """Return the content of a cache from elsewhere, as far as it can be checked."""
    from yolo_compress.engines.tensorrt.cache import CalibrationCache, version_number
    from yolo_compress.engines.tensorrt.key import check_graph

    if path is None or not path.is_file():
        raise DataError(f"there are neither images to choose ranges on nor a cache at '{path}'; give data=FILE.yaml")
    check_graph(path, graph)
    found, running = CalibrationCache.read(path), version_number(version)
    if found.version != running:
        raise UsageError(
            f"'{path}' is for TensorRT {found.version}, and {running}, which is here, does not read it; make it again "
            f"for this one: yolo-compress cache model=int8.onnx trt_version={version}"
        )
    return path.read_bytes()


def _calibrate(
    trt: ModuleType | Any,
    model: onnx.ModelProto,
    graph: Path,
    decision: Decision,
    calibration: Calibration,
    batch: int,
    *,
    imgsz: int,
    options: TensorRtSection,
) -> bytes:
    """Run a calibration and return what TensorRT would cache."""
    assert calibration.images is not None
    fixed = type(model)()
    fixed.CopyFrom(model)
    number, _, *sides = fixed.graph.input[0].type.tensor_type.shape.dim
    number.dim_value = batch
    for side in sides:
        side.dim_value = imgsz
    del fixed.graph.value_info[:]  # they speak of any batch
    for value in fixed.graph.output:
        value.type.tensor_type.shape.dim[0].Clear()
    written: list[bytes] = []
    calibrator = make_calibrator(
        trt,
        calibration.algorithm,
        _batches(calibration.images, imgsz, batch),
        memory=choose,
        batch=batch,
        read=lambda: None,
        write=written.append,
    )
    plain = TensorRtSection(workspace=options.workspace)
    build_engine(trt, fixed, graph, decision, imgsz=imgsz, options=plain, calibrator=calibrator, quick=True)
    if not written or not calibrator.images:
        raise EngineError(
            f"{trt.__name__} built '{graph}' without calibrating it ({calibrator.images} images were asked for); give "
            "a quantized graph instead: yolo-compress quantize target=tensorrt"
        )
    return written[-1]


def _batches(images: CalibrationSet, imgsz: int, batch: int) -> Iterator[np.ndarray]:
    from yolo_compress.host.data import image_batches  # torch, which a session does not need

    return image_batches(images.images, imgsz, batch=batch)


def _known(trt: ModuleType | Any, algorithm: str, content: bytes, batch: int) -> Any:
    """Return a calibrator that has a cache and no images; being asked for one is an error."""

    def no_images() -> Iterator[np.ndarray]:
        raise EngineError(
            f"{trt.__name__} did not take its own calibration cache; delete the file that cache= names and build again"
        )
        yield

    def memory() -> Any:
        raise AssertionError("there are no images to copy")

    return make_calibrator(
        trt, algorithm, no_images(), memory=memory, batch=batch, read=lambda: content, write=lambda _: None
    )


def _key(graph: Path, images: CalibrationSet, algorithm: str, batch: int, *, imgsz: int, version: str) -> Any:
    from yolo_compress.engines.tensorrt.key import CacheKey

    name = CALIBRATORS[algorithm].removeprefix("IInt8").replace("Calibrator", "Calibration")
    settings = "".join(f", {value:g}" for value in LEGACY.get(algorithm, ()))
    told = f"{name}{settings}, batches of {batch}"
    return CacheKey.of(graph, images, imgsz=imgsz, algorithm=told, tensorrt=version)


def _notes(given: int, used: int, batch: int, *, fixed: bool) -> tuple[str, ...]:
    notes = []
    if fixed and batch < SMALLEST_BATCH:
        notes.append(
            f"calibrated {batch} image(s) at a time, since the ONNX takes no more; a checkpoint allows 8 to 32"
        )
    if used < given:
        notes.append(f"calibrated on {used} of {given} images: batches are of {batch}, and the last one was not full")
    return tuple(notes)
