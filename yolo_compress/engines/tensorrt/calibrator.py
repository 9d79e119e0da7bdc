# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""TensorRT's own INT8 calibrator: a subclass that feeds batches and keeps what goes wrong in its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from yolo_compress.engines.tensorrt.capability import CALIBRATORS
from yolo_compress.errors import EngineError

SMALLEST_BATCH, LARGEST_BATCH = 8, 32
# of the legacy calibrator: which share of the values has to fit, and of the largest one where its regression begins;
# 0.5 for both is what Polygraphy gives it
LEGACY = {"percentile": (0.9999, 1.0), "legacy": (0.5, 0.5)}
_ALIVE: list[Any] = []  # TensorRT holds a bare pointer to a calibrator; the object must not go before the build ends


class Memory(Protocol):
    """The part of the CUDA back end that calibration needs."""

    def device(self, nbytes: int) -> Any:
        """Return device memory with an integer `address` and a method `free`."""
        ...

    def upload(self, host: np.ndarray, buffer: Any, stream: Any = None) -> None:
        """Copy to the device; done when it returns, where no stream is given."""
        ...


def batch_size(images: int, wanted: int) -> int:
    """Return the batch that calibration uses: as large as wanted, less where that leaves fewer images unused.

    TensorRT takes full batches only. Between 8 and what is wanted, the size that wastes the fewest images is taken, the
    largest of those; fewer images than 8 are one batch.
    """
    if images < SMALLEST_BATCH:
        return max(images, 1)
    sizes = range(min(images, wanted), SMALLEST_BATCH - 1, -1)
    return min(sizes, key=lambda size: images % size)


def make_calibrator(
    trt: ModuleType | Any,
    algorithm: str,
    batches: Iterable[np.ndarray],
    *,
    memory: Callable[[], Memory],
    batch: int,
    read: Callable[[], bytes | None],
    write: Callable[[bytes], None],
) -> Any:
    """Make a calibrator for `config.int8_calibrator`; call its `finish` when the build has returned.

    Args:
        trt: The TensorRT module.
        algorithm: One of `CALIBRATORS` that the module has.
        batches: (batch, 3, H, W) float32, letterboxed as at inference, in fixed order; a smaller last one is not used.
        memory: Gives the CUDA back end; called when the first batch is asked for, which a cache makes needless.
        batch: Images per batch.
        read: Gives the content of a cache that may be used, or None.
        write: Takes the content of the new cache; called when everything has gone well.

    Raises:
        EngineError: The module has no such calibrator.
    """
    base = getattr(trt, CALIBRATORS[algorithm], None)
    if base is None:
        raise EngineError(f"this {trt.__name__} has no calibrator for '{algorithm}'; give another calibrator=")

    class Calibrator(base):
        """Feeds images, and remembers the first exception: the binding prints those of callbacks and goes on."""

        def __init__(self) -> None:
            base.__init__(self)  # by name: without its C++ half the first callback ends the process
            self.waiting: Iterator[np.ndarray] = iter(batches)
            self.buffer: Any = None
            self.cuda: Memory | None = None
            self.content: bytes | None = None
            self.error: BaseException | None = None
            self.images = 0

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str], *_: Any) -> list[int] | None:
            return self._guard(self._next)

        def read_calibration_cache(self, *_: Any) -> bytes | None:
            self.content = self._guard(read)  # kept, since TensorRT reads the memory after this has returned
            return self.content

        def write_calibration_cache(self, content: Any, *_: Any) -> None:
            self._guard(lambda: write(bytes(content)))

        def finish(self) -> None:
            """Free device memory and raise what a callback has raised."""
            if self.buffer is not None:
                self.buffer.free()
            self.buffer = self.cuda = None
            if self in _ALIVE:
                _ALIVE.remove(self)
            if self.error is not None:
                raise self.error

        def _next(self) -> list[int] | None:
            images = next(self.waiting, None)
            if images is None or len(images) < batch:
                return None
            images = np.ascontiguousarray(images, np.float32)
            if self.buffer is None:
                self.cuda = memory()
                self.buffer = self.cuda.device(images.nbytes)
            assert self.cuda is not None
            self.cuda.upload(images, self.buffer)
            self.images += batch
            return [int(self.buffer.address)]

        def _guard(self, call: Callable[[], Any]) -> Any:
            if self.error is not None:  # ranges from half of the images are no ranges, and none are written
                return None
            try:
                return call()
            except BaseException as error:  # an interruption too would be swallowed
                self.error = error
                return None

    if algorithm in LEGACY:
        quantile, cutoff = LEGACY[algorithm]
        Calibrator.get_quantile = lambda self: quantile  # type: ignore[attr-defined]
        Calibrator.get_regression_cutoff = lambda self: cutoff  # type: ignore[attr-defined]
        Calibrator.read_histogram_cache = lambda self, *_: None  # type: ignore[attr-defined]
        Calibrator.write_histogram_cache = lambda self, *_: None  # type: ignore[attr-defined]
    made = Calibrator()
    _ALIVE.append(made)
    return made
