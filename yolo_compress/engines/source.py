# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What engines are built from: a checkpoint, or an ONNX graph that is float or quantized."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from yolo_compress.engines.codes import check_codes
from yolo_compress.errors import DataError, EngineError, UsageError, require

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
FLOAT_RUN = "activations are not quantized, so convolutions run in float: smaller than the float model, and no faster"


def check_precision(engine: str, precision: str, known: Sequence[str]) -> None:
    """Refuse a precision that a runtime does not have.

    Raises:
        UsageError: It does not.
    """
    if precision not in known:
        raise UsageError(f"{engine} has no precision '{precision}'; choose from {', '.join(known)}")


def check_cpu(engine: str, device: str) -> None:
    """Refuse devices that an engine does not run on here.

    Raises:
        UsageError: The device is not the CPU.
    """
    if device != "cpu":
        raise UsageError(f"the {engine} engine runs on device=cpu only, and device={device} was given")


def check_file(path: Path, suffix: str) -> None:
    """Refuse what is missing or of another kind.

    Raises:
        DataError: It does not exist.
        UsageError: It is of another kind.
    """
    if not path.exists():
        raise DataError(f"'{path}' does not exist; build it first with: yolo-compress build")
    if not path.name.endswith(suffix):
        raise UsageError(f"'{path}' is not a *{suffix} artifact; give one that this engine built")


def onnx_source(source: Path, scratch: Path, *, precision: str, imgsz: int) -> Path:
    """Return the ONNX graph to build from, exported from a checkpoint where that is what was given.

    Raises:
        DataError: The source does not exist or is damaged.
        UsageError: INT8 from a float model, or a float precision from a quantized one.
    """
    from yolo_compress.host.export import export_onnx  # torch, which a session does not need

    if source.suffix == ".pt":
        if precision == "int8":
            raise UsageError(
                f"an int8 engine needs a quantized graph; run: yolo-compress quantize model={source} data=..."
            )
        return export_onnx(source, scratch / f"{source.stem}.onnx", imgsz=imgsz)
    check_file(source, ".onnx")
    quantized = is_quantized(source)
    if precision == "int8" and not quantized:
        check_float(source)
        raise UsageError(f"'{source}' holds no quantizers; run first: yolo-compress quantize model={source} data=...")
    if precision != "int8" and quantized:
        raise UsageError(
            f"'{source}' is quantized, so it cannot become {precision}; give the checkpoint, or precision=int8"
        )
    return source


def is_quantized(path: Path) -> bool:
    """Tell whether an ONNX graph holds quantizers.

    Raises:
        EngineError: It cannot be parsed.
    """
    onnx = require("onnx", extra="onnx", purpose="ONNX files")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf has its own hierarchy of decode errors
        raise EngineError(f"'{path}' is not a readable ONNX file ({error}); export it again") from error
    if not graph.node:
        raise EngineError(f"'{path}' is not a readable ONNX file (it holds no graph); export it again")
    return any(node.op_type in QUANTIZERS for node in graph.node)


def check_float(path: Path) -> None:
    """Refuse an ONNX graph without quantizers that holds quantized values all the same, as float numbers.

    Raises:
        UsageError: It does, so that quantizing or calibrating it would round it a second time.
    """
    from yolo_compress.host.export import onnx_metadata  # torch, which a session does not need

    if "yolo_compress" in onnx_metadata(path):
        raise UsageError(f"'{path}' was quantized without codes of 8 bits; build it with precision=fp32")


def scheme_notes(engine: str, graph: Path) -> tuple[str, ...]:
    """Say what it means how a graph was quantized; empty where it was for this runtime as it likes it, or by others.

    Raises:
        UsageError: The runtime cannot run such a graph, or computes wrong values from it.
    """
    from yolo_compress.host.export import onnx_metadata  # torch, which a session does not need

    scheme = "tensorrt" if engine == "tensorrt_rtx" else engine
    facts = json.loads(onnx_metadata(graph).get("yolo_compress", "{}"))
    target = facts.get("target", scheme)
    remedy = f"yolo-compress quantize target={scheme}"
    if scheme == "tensorrt" and target != scheme:
        raise UsageError(
            f"'{graph}' was quantized for {target}, with zero points, which TensorRT does not take; quantize the float "
            f"model again with: {remedy}"
        )
    check_codes(engine, graph)
    notes = (FLOAT_RUN,) if facts.get("activations") == "none" else ()
    if target == scheme:
        return notes
    if engine == "openvino" and target == "tensorrt":  # seen with 2026.4: int8 codes do not survive a Concat
        raise UsageError(
            f"'{graph}' was quantized for tensorrt, with signed activations that OpenVINO computes wrongly on CPUs; "
            f"quantize the float model again with: {remedy}"
        )
    slower = f"the graph was quantized for {target}, which {engine} may run more slowly than its own form: {remedy}"
    return (*notes, slower)
