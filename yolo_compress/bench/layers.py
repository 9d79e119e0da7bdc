# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Layer times: how long one convolution takes on a runtime at a precision, by its widths.

A layer is measured as it runs inside a detector, convolution and SiLU, at INT8 with quantizers around both, as a graph
of its own. What a graph of the same input and output costs without the layer (copies, dispatch) is measured in turns
with it and taken off.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_compress.artifacts import atomic_write
from yolo_compress.bench.latency import time_alternately
from yolo_compress.bench.machine import describe_machine
from yolo_compress.engines import get_engine
from yolo_compress.errors import require

ROUNDS = 15
WARMUP = 3
SAVE_EVERY = 20  # layers, so that an interrupted measurement goes on
FLOOR_S = 1e-7  # a layer that is lost in the noise of the copies still takes some time
OPSET = 17


@dataclass(frozen=True, order=True)
class LayerSpec:
    """A convolution with its activation.

    Attributes:
        kernel: Side of the kernel.
        stride: Of the convolution.
        size: (height, width) of its input.
        depthwise: One filter per channel; `inputs` equals `outputs`.
        inputs: Input channels.
        outputs: Output channels.
    """

    kernel: int
    stride: int
    size: tuple[int, int]
    depthwise: bool
    inputs: int
    outputs: int

    @property
    def key(self) -> str:
        """Return a name for files."""
        kind = "dw" if self.depthwise else "c"
        return f"{kind}{self.kernel}s{self.stride}_{self.size[0]}x{self.size[1]}_{self.inputs}_{self.outputs}"


def layer_graph(spec: LayerSpec, *, precision: str, empty: bool = False) -> Any:
    """Return an ONNX model of one layer with random weights, input and output in float32.

    Args:
        spec: The layer.
        precision: `int8` puts quantizers around it; anything else leaves it in float.
        empty: Without the layer: the input is read and an output of the same shape written.
    """
    onnx = require("onnx", extra="onnx", purpose="layer times")
    helper, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    rng = np.random.default_rng(0)
    pad = spec.kernel // 2
    out_size = [(side + 2 * pad - spec.kernel) // spec.stride + 1 for side in spec.size]
    nodes, constants = [], {}

    def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(name: str, value: np.ndarray) -> str:
        constants[name] = value
        return name

    def quantized(name: str, source: str) -> str:
        scale, zero = constant(f"{name}_scale", np.float32(0.02)), constant(f"{name}_zero", np.uint8(14))
        codes = node("QuantizeLinear", [source, scale, zero], f"{name}_codes")
        return node("DequantizeLinear", [codes, scale, zero], f"{name}_values")

    int8 = precision == "int8"
    value = quantized("in", "images") if int8 else "images"
    if empty:
        shape = [1, spec.outputs, *out_size]
        # One element of the input, spread: the output is written, the input is copied in, nothing is computed.
        start, stop = constant("start", np.zeros(4, np.int64)), constant("stop", np.ones(4, np.int64))
        one = node("Slice", [value, start, stop], "one")
        value = node("Expand", [one, constant("shape", np.array(shape, np.int64))], "spread")
    else:
        fan = (1 if spec.depthwise else spec.inputs) * spec.kernel**2
        shape = (spec.outputs, 1 if spec.depthwise else spec.inputs, spec.kernel, spec.kernel)
        weights = (rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
        if int8:
            scale = np.abs(weights).max(axis=(1, 2, 3)) / 127
            codes = np.round(weights / scale[:, None, None, None]).astype(np.int8)
            names = [constant("w", codes), constant("w_scale", scale.astype(np.float32))]
            names.append(constant("w_zero", np.zeros(spec.outputs, np.int8)))
            filters = node("DequantizeLinear", names, "w_values", axis=0)
        else:
            filters = constant("w", weights)
        bias = constant("b", np.zeros(spec.outputs, np.float32))
        groups = spec.inputs if spec.depthwise else 1
        options = {"kernel_shape": [spec.kernel] * 2, "strides": [spec.stride] * 2, "pads": [pad] * 4, "group": groups}
        made = node("Conv", [value, filters, bias], "y", **options)
        value = node("Mul", [made, node("Sigmoid", [made], "gate")], "z")
    if int8:
        value = quantized("out", value)
    node("Identity", [value], "output0")
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("images", kind.FLOAT, [1, spec.inputs, *spec.size])],
        [helper.make_tensor_value_info("output0", kind.FLOAT, [1, spec.outputs, *out_size])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model


class LayerTable:
    """Measured times of layers on one runtime at one precision, kept in a file per machine and version."""

    def __init__(
        self,
        engine: str,
        precision: str,
        *,
        threads: int | None = None,
        folder: Path | None = None,
        rounds: int = ROUNDS,
    ) -> None:
        """Read what was measured before under the same conditions.

        Args:
            engine: A runtime that builds from ONNX.
            precision: One of its precisions.
            threads: Of the runtime; all cores when not given.
            folder: Where tables are kept; nothing is kept when not given.
            rounds: Timed rounds per layer.
        """
        self.engine, self.precision, self.threads, self.rounds = engine, precision, threads, rounds
        self.conditions = self._conditions()
        digest = hashlib.sha256(json.dumps(self.conditions, sort_keys=True).encode()).hexdigest()[:16]
        self.file = folder / f"{engine}-{precision}-{digest}.json" if folder is not None else None
        self.seconds: dict[str, float] = {}
        if self.file is not None and self.file.is_file():
            self.seconds = json.loads(self.file.read_text(encoding="utf-8"))["seconds"]

    def measure(self, specs: Iterable[LayerSpec], *, progress: Callable[[str], None] = lambda _: None) -> None:
        """Measure the layers that are not known yet.

        Raises:
            MissingDependency: The runtime or onnx is not installed.
            EngineError: The runtime refuses a layer.
        """
        missing = [spec for spec in sorted(set(specs)) if spec.key not in self.seconds]
        for index, spec in enumerate(missing, 1):
            self.seconds[spec.key] = self._time(spec)
            if index % SAVE_EVERY == 0 or index == len(missing):
                self._save()
            progress(f"layer times: {index} of {len(missing)}")

    def __getitem__(self, spec: LayerSpec) -> float:
        """Return the seconds of a layer that was measured."""
        return self.seconds[spec.key]

    def _time(self, spec: LayerSpec) -> float:
        engine = get_engine(self.engine)
        onnx = require("onnx", extra="onnx", purpose="layer times")
        image = np.random.default_rng(0).random((1, spec.inputs, *spec.size), dtype=np.float32)
        sessions = []
        with tempfile.TemporaryDirectory() as place:
            for name in ("layer", "empty"):
                source = Path(place) / f"{name}.onnx"
                onnx.save(layer_graph(spec, precision=self.precision, empty=name == "empty"), str(source))
                made = engine.build(source, Path(place) / "built", precision=self.precision, imgsz=spec.size[0])
                sessions.append(engine.load(made.path, threads=self.threads))
            timings = time_alternately(
                [session.infer for session in sessions],
                lambda index: image,
                finish=lambda raw: None,
                rounds=self.rounds,
                warmup=WARMUP,
            )
        for session in sessions:
            session.close()
        whole, copies = np.median(timings.inference, axis=0)
        return max(float(whole - copies), FLOOR_S)

    def _save(self) -> None:
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(
                self.file, json.dumps({"conditions": self.conditions, "seconds": self.seconds}, indent=1) + "\n"
            )

    def _conditions(self) -> dict[str, Any]:
        machine = describe_machine()
        known = {key: machine.get(key) for key in ("cpu_model", "cpu_flags", "cpus_usable")}
        version = getattr(require(self.engine, extra="openvino", purpose="layer times"), "__version__", "")
        return {**known, "machine": platform.machine(), "engine": self.engine, "precision": self.precision} | {
            "version": version,
            "threads": self.threads,
            "rounds": self.rounds,
            "format": 1,
        }
