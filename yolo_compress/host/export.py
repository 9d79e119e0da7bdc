# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Ultralytics' own exporter, for our float ONNX and for the native artifacts that ours are measured against."""

from __future__ import annotations

import ast
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from yolo_compress.artifacts import atomic_path
from yolo_compress.errors import DataError, EngineError, UsageError, require
from yolo_compress.host.cpu import keep_cores
from yolo_compress.host.ultralytics import YAML, YOLO

NATIVE_FORMATS = {"onnx": ".onnx", "openvino": "_openvino_model"}


def export_onnx(checkpoint: Path, out: Path, *, imgsz: int, free_batch: bool = False) -> Path:
    """Export a checkpoint to float32 ONNX with folded BatchNorm, simplified, carrying Ultralytics' metadata.

    Args:
        checkpoint: A .pt file.
        out: The .onnx file to write.
        imgsz: Side of the square input in pixels.
        free_batch: Let the graph take any number of images, else one at a time.

    Raises:
        MissingDependency: onnx, onnxruntime or onnxslim is not installed.
        EngineError: The exporter failed.
        OutputError: `out` cannot be written.
    """
    made = _export(checkpoint, out, format="onnx", imgsz=imgsz, dynamic=free_batch, simplify=True)
    if free_batch:
        _fix_size(made, imgsz)
    return made


def export_native(
    checkpoint: Path,
    out: Path,
    *,
    format: Literal["onnx", "openvino"],
    quantize: Literal[8, 16] | None = None,
    imgsz: int,
    data: Path | None = None,
) -> Path:
    """Export the way `yolo export` does, as the baseline that a report compares with.

    INT8 calibrates on the training images, as ours does: the default of `yolo export`, the validation images, would let
    the baseline see what it is measured on.

    Args:
        checkpoint: A .pt file; it is copied first, since the exporter writes beside its input.
        out: The .onnx file or the folder `*_openvino_model` to write.
        format: Native format.
        quantize: 8 for INT8, 16 for FP16, None for FP32.
        imgsz: Side of the square input in pixels.
        data: Data YAML, needed for INT8.

    Raises:
        UsageError: INT8 without data.
        MissingDependency: A package that the exporter needs is not installed.
        EngineError: The exporter failed.
    """
    options: dict[str, Any] = {}
    if quantize is not None:
        options["quantize"] = quantize
    if quantize == 8:
        if data is None:
            raise UsageError("a native INT8 export needs images to calibrate on; give data=FILE.yaml")
        options |= {"data": str(data), "split": "train"}
        if format == "openvino":
            require("nncf", extra="openvino", purpose="native INT8 OpenVINO exports")
    return _export(checkpoint, out, format=format, imgsz=imgsz, **options)


def onnx_metadata(path: Path) -> dict[str, str]:
    """Return the metadata properties of an ONNX file."""
    onnx = require("onnx", extra="onnx", purpose="ONNX files")
    return {item.key: item.value for item in onnx.load(str(path), load_external_data=False).metadata_props}


def openvino_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata that lies beside an OpenVINO model, or an empty dict where there is none."""
    file = folder / "metadata.yaml"
    return YAML.load(file) if file.is_file() else {}


def write_openvino_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write the metadata that Ultralytics reads beside an OpenVINO model."""
    YAML.save(folder / "metadata.yaml", metadata)


def class_names(metadata: dict[str, Any]) -> tuple[str, ...]:
    """Return the class names that an artifact carries, in class order; empty where it carries none."""
    found = metadata.get("names")
    if isinstance(found, str):
        found = ast.literal_eval(found)
    return tuple(str(found[key]) for key in sorted(found)) if isinstance(found, dict) else tuple(found or ())


def _fix_size(path: Path, imgsz: int) -> None:
    """Give a graph that takes images of any size one size: what was computed from it becomes constants again."""
    onnx = require("onnx", extra="onnx", purpose="ONNX exports")
    onnxslim = require("onnxslim", extra="onnx", purpose="ONNX exports")
    model = onnx.load(str(path))
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_value = imgsz
    del model.graph.value_info[:]  # shapes of before
    metadata = list(model.metadata_props)
    slim = onnxslim.slim(model)
    del slim.metadata_props[:]
    slim.metadata_props.extend(metadata)
    with atomic_path(path) as temporary:
        onnx.save(slim, str(temporary))


def _export(checkpoint: Path, out: Path, *, format: str, imgsz: int, **options: Any) -> Path:
    checkpoint, out = Path(checkpoint), Path(out)
    if not checkpoint.is_file():
        raise DataError(f"weights '{checkpoint}' do not exist; give the path of a trained checkpoint")
    require("onnx", extra="onnx", purpose="ONNX exports")
    if format == "onnx":
        require("onnxruntime", extra="onnx", purpose="ONNX exports")
        require("onnxslim", extra="onnx", purpose="ONNX exports")
    else:
        require("openvino", extra="openvino", purpose="OpenVINO exports")
    with tempfile.TemporaryDirectory(prefix="yolo_compress_") as folder:
        # named after the output, because OpenVINO files inside the folder carry the checkpoint's name
        stem = out.stem.removesuffix("_openvino_model").removesuffix("_int8")
        copy = Path(folder) / f"{stem}.pt"
        shutil.copyfile(checkpoint, copy)
        try:
            with keep_cores():  # what is computed next would run on fewer
                made = YOLO(str(copy)).export(format=format, imgsz=imgsz, device="cpu", verbose=False, **options)
        except Exception as error:  # the exporter raises whatever its runtimes raise
            reason = " ".join(str(error).split())[:300]
            raise EngineError(f"exporting '{checkpoint}' to {format} failed: {reason}") from error
        with atomic_path(out) as temporary:
            shutil.move(str(Path(made)), temporary)
    return out
