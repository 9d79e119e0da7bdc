# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Time models on a runtime at a precision, for pruning that is to meet a latency.

It stands above pruning and quantization, which do not know each other: an INT8 engine of a pruned model needs both.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import nn

from yolo_compress.bench.layers import LayerTimesCache, layer_seconds
from yolo_compress.bench.paired import ROUNDS, noise_image, paired_seconds
from yolo_compress.engines import get_engine
from yolo_compress.engines.protocol import Engine
from yolo_compress.errors import UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx
from yolo_compress.recipe import PROFILED, PruneSection, Target

RANGE_IMAGES = 4  # enough to put quantizers into a graph whose accuracy nobody asks for
PROFILE_ROUNDS = 30
SCHEMES: dict[str, Target] = {"openvino": "openvino", "onnxruntime": "onnxruntime"}


class RuntimeTiming:
    """Times models against a reference on one runtime; close it to remove the reference's files."""

    def __init__(
        self,
        reference: nn.Module,
        target: str,
        *,
        imgsz: int,
        images: Sequence[Path],
        threads: int | None = None,
        cache: Path | None = None,
        rounds: int = ROUNDS,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Build the reference.

        Args:
            reference: The model that ratios refer to.
            target: `runtime:precision`, such as openvino:int8.
            imgsz: Side of the square input in pixels.
            images: Images that INT8 ranges are taken from.
            threads: Of the runtime; all cores when not given.
            cache: Folder that layer times are kept in; that of the user when not given.
            rounds: Timed rounds per comparison.
            progress: Takes a line now and then.

        Raises:
            UsageError: The runtime or precision does not exist, or cannot run here.
        """
        self.runtime, _, self.precision = target.partition(":")
        self.engine, self.imgsz, self.images = _usable(target), imgsz, tuple(images[:RANGE_IMAGES])
        folder = cache if cache is not None else cache_folder()
        self.cache = LayerTimesCache(self.runtime, self.precision, threads=threads, folder=folder)
        self.threads, self.rounds, self.progress = threads, rounds, progress
        self._place = tempfile.TemporaryDirectory()
        self.reference = self._build(reference, Path(self._place.name))

    def ratio(self, model: nn.Module) -> float:
        """Return the median of a model's time over the reference's, round by round."""
        with tempfile.TemporaryDirectory() as place:
            seconds = paired_seconds(
                self.engine,
                self.reference,
                self._build(model, Path(place)),
                noise_image(self.imgsz),
                rounds=self.rounds,
                threads=self.threads,
                progress=self.progress,
            )
        return float(np.median(seconds[:, 1] / seconds[:, 0]))

    def profile(self, model: nn.Module, layers: Iterable[str]) -> dict[str, float]:
        """Return seconds by layer, as they run inside the whole model; a structure that is known is not run again."""
        shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
        structure = hashlib.sha256(repr((self.imgsz, shapes)).encode()).hexdigest()[:16]
        known = self.cache.get(structure)
        if known is None:
            with tempfile.TemporaryDirectory() as place:
                path = self._build(model, Path(place))
                nodes = self.engine.profile(path, noise_image(self.imgsz), rounds=PROFILE_ROUNDS, threads=self.threads)
            known = layer_seconds(nodes, layers)
            self.cache.put(structure, known)
        return known

    def close(self) -> None:
        """Remove the reference."""
        self._place.cleanup()

    def _build(self, model: nn.Module, folder: Path) -> Path:
        checkpoint.write_model(model, folder / "model.pt")
        source = folder / "model.pt"
        if self.precision == "int8":
            floating = export_onnx(source, folder / "float.onnx", imgsz=self.imgsz)
            source = folder / "int8.onnx"
            scheme = SCHEMES[self.runtime]
            quantize_onnx(
                floating, source, images=self.images, imgsz=self.imgsz, target=scheme, range="minmax", keep=()
            )
        return self.engine.build(source, folder / "built", precision=self.precision, imgsz=self.imgsz).path


@contextmanager
def timing_for(
    section: PruneSection,
    model: nn.Module,
    *,
    imgsz: int,
    images: Sequence[Path],
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[RuntimeTiming | None]:
    """Give the timing that a section's latency target needs, or None where it has no such target."""
    if section.latency is None or section.target is None:
        yield None
        return
    timing = RuntimeTiming(model, section.target, imgsz=imgsz, images=images, progress=progress)
    try:
        yield timing
    finally:
        timing.close()


def cache_folder() -> Path:
    """Return where layer times are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "yolo_compress" / "layers"


def _usable(target: str) -> Engine:
    engine = get_engine(target.partition(":")[0])
    if engine.name not in PROFILED:
        raise UsageError(f"target={target} does not tell the time of each layer; give {' or '.join(PROFILED)}")
    if (why := engine.unavailable()) is not None:
        raise UsageError(f"target={target} cannot be timed here: {why}")
    return engine
