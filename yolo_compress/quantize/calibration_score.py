# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A score of calibration images: how far quantizing a model on them moves its detections on a fixed set of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolo_compress.host.data import image_batches
from yolo_compress.quantize.answers import Asker, moved
from yolo_compress.quantize.format import number_format
from yolo_compress.quantize.placement import Wiring, place
from yolo_compress.quantize.ptq import choose_all
from yolo_compress.quantize.result import quantized_graph
from yolo_compress.quantize.source import read_float
from yolo_compress.quantize.widths import placed


class CalibrationScore:
    """Quantizes one float model to INT8 on sets of images, and compares what it detects on always the same images."""

    def __init__(self, source: Path, images: Sequence[Path], *, imgsz: int, target: str, range: str) -> None:
        """Take the model, and run it on the images that sets are scored on; its answers to them stay in memory.

        Args:
            source: A detector exported by Ultralytics, float32, BatchNorm folded.
            images: Images, without labels, that detections are compared on.
            imgsz: Side of the square input in pixels.
            target: Runtime whose scheme is followed; see `SCHEMES`.
            range: How activation ranges are chosen; see `RANGES`.

        Raises:
            UsageError: Unknown target or range, another image size, or a model that is quantized already.
            DataError: An image cannot be read, or there is no such model.
            UnsupportedModel: Not a float detector of Ultralytics.
        """
        self.images, self.imgsz, self.range = tuple(images), imgsz, range
        self.numbers = number_format(target=target, range=range)
        self.model = read_float(source)
        self.placement = placed(place(self.model.graph, self.numbers.scheme), self.numbers)
        self.wiring = Wiring(self.model.graph)
        asker = Asker(self.model, self.wiring, imgsz)
        self.exact = [asker([batch]) for batch in image_batches(self.images, imgsz, batch=1)]

    def __call__(self, calibration: Sequence[Path]) -> float:
        """Return how far detections move, the mean over the images of `bench.response.distance`; less is better.

        Raises:
            DataError: An image cannot be read.
            UnsupportedModel: An activation is not finite.
        """
        made = choose_all(self.model, self.placement, self.numbers, calibration, imgsz=self.imgsz, range=self.range)
        asker = Asker(quantized_graph(self.model, self.placement, self.numbers, made), self.wiring, self.imgsz)
        batches = image_batches(self.images, self.imgsz, batch=1)
        return sum(moved(e, asker([b])) for e, b in zip(self.exact, batches, strict=True)) / len(self.images)
