# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What this machine computes and copies at most, measured: the roof of a roofline, not a figure of a data sheet."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_compress.artifacts import atomic_write
from yolo_compress.bench.machine import describe_machine, package_versions
from yolo_compress.errors import MissingDependency, require

FORMAT = 1  # of the file that peaks are kept in
SIDE = 1024  # of the square matrices: 2.1e9 operations, 12 MB in float32
COPIED_BYTES = 1 << 27  # more than the caches of a processor hold
REPEATS = 5
LONGEST_S = 0.5  # for the repeats of one product
RUNTIMES = ("onnxruntime", "openvino", "torch")


@dataclass(frozen=True)
class Peaks:
    """Operations per second by precision (a multiplication and an addition are two), and bytes copied per second.

    `how` says for each precision, and for "copy", what was run. A copy of n bytes counts as 2 n: read and written.
    """

    ops_per_s: Mapping[str, float]
    bytes_per_s: float
    how: Mapping[str, str]


def measured_peaks(*, threads: int | None = None, folder: Path | None = None) -> Peaks:
    """Return the peaks of this machine, from a file where they were measured before under the same conditions.

    Args:
        threads: That compute; all cores when not given.
        folder: Where they are kept; nothing is kept without.
    """
    machine = describe_machine()
    conditions: dict[str, Any] = {key: machine.get(key) for key in ("cpu_model", "cpu_flags", "cpus_usable")}
    conditions |= {"machine": platform.machine(), "threads": threads, "format": FORMAT}
    conditions |= package_versions(RUNTIMES)
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
    file = folder / f"peaks-{digest}.json" if folder is not None else None
    if file is not None and file.is_file():
        return Peaks(**json.loads(file.read_text(encoding="utf-8"))["peaks"])
    found = measure(threads=threads)
    if file is not None:
        atomic_write(file, json.dumps({"conditions": conditions, "peaks": asdict(found)}, indent=1) + "\n")
    return found


def measure(*, threads: int | None = None) -> Peaks:
    """Measure: one product of square matrices per precision that this processor has units for, and one copy."""
    import torch  # what runs an artifact alone does not load it

    from yolo_compress.host.cpu import bf16_units, usable_cores

    kept = torch.get_num_threads()
    torch.set_num_threads(threads or usable_cores())
    try:
        square = torch.rand(SIDE, SIDE)
        rates = {"fp32": _rate(lambda: square @ square)}
        how = {"fp32": f"torch, product of {SIDE} x {SIDE}", "copy": f"torch, copy of {COPIED_BYTES >> 20} MB"}
        if units := bf16_units():
            half = square.bfloat16()
            rates["bf16"], how["bf16"] = _rate(lambda: half @ half), f"torch, the same in bfloat16 ({', '.join(units)})"
        source = torch.zeros(COPIED_BYTES // 4)
        target = torch.zeros_like(source)
        bandwidth = 2 * COPIED_BYTES / fastest(lambda: target.copy_(source))
    finally:
        torch.set_num_threads(kept)
    try:
        rates["int8"] = _rate(_int8_product(threads))
        how["int8"] = f"onnxruntime, MatMulInteger of {SIDE} x {SIDE}"
    except MissingDependency as error:
        how["int8"] = f"unavailable: {error}"
    return Peaks(rates, bandwidth, how)


def fastest(run: Callable[[], object], *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the least seconds of several runs after one that does not count; what disturbs only makes them longer."""
    run()
    begin, best = clock(), float("inf")
    for _ in range(REPEATS):
        start = clock()
        run()
        end = clock()
        best = min(best, end - start)
        if end - begin > LONGEST_S:
            break
    return best


def _rate(run: Callable[[], object]) -> float:
    return 2 * SIDE**3 / fastest(run)


def _int8_product(threads: int | None) -> Callable[[], object]:
    """Return a product of unsigned by signed bytes, the form that quantized convolutions have."""
    onnx = require("onnx", extra="onnx", purpose="INT8 peaks")
    runtime = require("onnxruntime", extra="onnx", purpose="INT8 peaks")
    kinds, make = onnx.TensorProto, onnx.helper
    random = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(random.integers(-127, 128, (SIDE, SIDE), dtype=np.int8), "w")
    graph = make.make_graph(
        [make.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [make.make_tensor_value_info("x", kinds.UINT8, [SIDE, SIDE])],
        [make.make_tensor_value_info("y", kinds.INT32, [SIDE, SIDE])],
        [weight],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    options = runtime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    return lambda: session.run(None, {"x": given})
