# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What activations look like on calibration images: the float model runs, and histograms are kept."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_compress.errors import DataError, EngineError, UnsupportedModel, UsageError, require
from yolo_compress.host.data import image_batches
from yolo_compress.quantize.histogram import Histogram
from yolo_compress.quantize.placement import Group

if TYPE_CHECKING:
    import onnx


def observe(
    model: onnx.ModelProto,
    groups: Sequence[Group],
    images: Sequence[Path],
    *,
    imgsz: int,
    progress: Callable[[str], None] | None = None,
) -> dict[Group, Histogram]:
    """Run a float model over images and return what each group of tensors held.

    One pass: histograms widen as values come in, so memory does not grow with the images.

    Raises:
        DataError: There are no images, or one cannot be read.
        UnsupportedModel: An activation is not finite.
        UsageError: The model was exported for another image size.
        EngineError: ONNX Runtime cannot run the model.
    """
    if not images:
        raise DataError("the calibration set is empty; give data=FILE.yaml with training images")
    runner = Runner(model, [name for group in groups for name in group.observed], imgsz)
    seen = {group: Histogram() for group in groups}
    for values in runner.run(images, "looking for ranges", progress):
        for group, histogram in seen.items():
            for name in group.observed:
                _check_finite(name, values[name])
                histogram.add(values[name])
    return seen


def _check_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(float(values.min()) + float(values.max())):
        raise UnsupportedModel(
            f"activation '{name}' is not finite on a calibration image; the weights are damaged or training diverged: "
            "quantize a checkpoint whose validation works"
        )


class Runner:
    """A model, float or with quantizers, whose intermediate tensors are its outputs."""

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str], imgsz: int) -> None:
        """Prepare to run; only what the tensors depend on is computed.

        Raises:
            UsageError: The model was exported for another image size.
            EngineError: ONNX Runtime cannot run the model.
        """
        onnx = require("onnx", extra="onnx", purpose="quantization")
        runtime = require("onnxruntime", extra="onnx", purpose="calibration")
        self.imgsz = imgsz
        self.input = model.graph.input[0].name
        self.batch = fixed_batch(model, imgsz)
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        del watched.graph.output[:]
        self.tensors = [name for name in tensors if name != self.input]
        nodes = needed(model.graph, self.tensors)
        del watched.graph.node[:]
        watched.graph.node.extend(nodes)
        watched.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in self.tensors
        )
        self.session = None
        if not self.tensors:
            return
        try:
            self.session = runtime.InferenceSession(
                watched.SerializeToString(), runtime_options(runtime), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise EngineError(f"ONNX Runtime cannot run the model for calibration: {error}") from error

    def values(self, batch: np.ndarray, more: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Return the tensors of one batch, which has the size that the model was exported for, by name.

        Args:
            batch: (N, 3, H, W) float32.
            more: Values for other inputs of the graph.
        """
        found = self.session.run(None, {self.input: batch, **(more or {})}) if self.session else []
        return {self.input: batch, **dict(zip(self.tensors, found, strict=True))}

    def run(
        self, images: Sequence[Path], what: str, progress: Callable[[str], None] | None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the tensors of each batch by name, the input among them."""
        done, told = 0, 0
        for batch in image_batches(images, self.imgsz, batch=self.batch):
            yield self.values(np.concatenate([batch, np.repeat(batch[-1:], self.batch - len(batch), axis=0)]))
            done += len(batch)
            if progress and done * 4 // len(images) > told:
                told = done * 4 // len(images)
                progress(f"{what}: {done} of {len(images)} images")


def fixed_batch(model: onnx.ModelProto, imgsz: int) -> int:
    """Return how many images a graph takes at once; one where that is free, since all activations are held.

    Raises:
        UsageError: The model was exported for another image size.
    """
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]  # 0 where it is free
    if shape[2:] != [imgsz, imgsz] and any(shape[2:]):
        height, width = shape[2:]
        raise UsageError(f"the ONNX takes {width}x{height} images and imgsz={imgsz} was asked for; give imgsz={width}")
    return shape[0] or 1


def runtime_options(runtime: ModuleType) -> Any:
    """Return the options of a session in which quantizers compute as they are written."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the CPU to us
    return options


def needed(graph: onnx.GraphProto, tensors: Sequence[str], known: Container[str] = ()) -> list[onnx.NodeProto]:
    """Return the nodes that some tensors depend on, in their order; those behind what is known are not needed."""
    wanted, nodes = set(tensors), []
    for node in reversed(graph.node):  # a graph is in topological order
        if wanted.intersection(node.output):
            wanted.update(name for name in node.input if name not in known)
            nodes.append(node)
    return nodes[::-1]
