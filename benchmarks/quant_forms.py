# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What each form of weights and activations costs without training: yolov8n, as ONNX Runtime computes it.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.quant_forms

All forms calibrate on the same images of the training set, and nothing is repaired but where the row says so. Beside
the accuracy stands the size of the file. Nothing is timed. Rows that a call before has measured are kept.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import Experiment, claim
from yolo_compress.artifacts import MEGABYTE
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.engines import get_engine
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx

NAME = "quant_forms"
MODEL, TARGET, IMGSZ, IMAGES = "yolov8n", "onnxruntime", 320, 64
AT_ONCE = 3  # sessions that look at an image when it has been read
REPAIRED: dict[str, Any] = {"rounding": "adaround", "bias_correction": True}
FORMS: dict[str, dict[str, Any] | None] = {
    "float": None,
    "int8": {},
    "int8 weights, float activations": {"activations": "none"},
    "int8, ranges at run time": {"activations": "dynamic"},
    "fp16 weights, float activations": {"weight_form": "fp16", "activations": "none"},
    "bf16 weights, float activations": {"weight_form": "bf16", "activations": "none"},
    "int4 weights": {"weight_bits": 4},
    "int4 weights, packed": {"weight_bits": 4, "weight_storage": "packed"},
    "int4 weights, packed, blocks of 32": {"weight_bits": 4, "weight_group": 32, "weight_storage": "packed"},
    "int4 weights, packed, blocks of 32, float activations": {
        "weight_bits": 4,
        "weight_group": 32,
        "weight_storage": "packed",
        "activations": "none",
    },
    "codebook of 16": {"weight_form": "codebook"},
    "codebook of 16, packed": {"weight_form": "codebook", "weight_storage": "packed"},
    "powers of two, 4 bits": {"weight_form": "pow2"},
    "ternary weights": {"weight_form": "ternary"},
    "binary weights": {"weight_form": "binary"},
    "int6 weights": {"weight_bits": 6},
    "int12 weights": {"weight_bits": 12},
    "16-bit activations": {"activation_bits": 16},
    "6-bit activations": {"activation_bits": 6},
    "4-bit activations": {"activation_bits": 4},
    "int4 weights, repaired": {"weight_bits": 4, **REPAIRED},
    "codebook of 16, repaired": {"weight_form": "codebook", **REPAIRED},
    "powers of two, 4 bits, repaired": {"weight_form": "pow2", **REPAIRED},
    "ternary weights, repaired": {"weight_form": "ternary", **REPAIRED},
    "binary weights, repaired": {"weight_form": "binary", **REPAIRED},
}


def main() -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, model=MODEL, target=TARGET, imgsz=IMGSZ, calibration_images=IMAGES)
    images, seen = sample(made.data.train, IMAGES, seed=0), {}
    missing = [form for form in FORMS if not made.has(form=form)]
    with tempfile.TemporaryDirectory() as place:
        floating = export_onnx(made.folder / f"weights/{MODEL}.pt", Path(place) / "float.onnx", imgsz=IMGSZ)
        for start in range(0, len(missing), AT_ONCE):
            files = {}
            for number, form in enumerate(missing[start : start + AT_ONCE]):
                files[form], options = floating, FORMS[form]
                if options is not None:
                    files[form] = Path(place) / f"{start + number}.onnx"
                    given: dict[str, Any] = {"images": images, "imgsz": IMGSZ, "target": TARGET, "seen": seen}
                    quantize_onnx(floating, files[form], **given, **options, progress=print)
            sessions = [get_engine(TARGET).load(file, threads=1) for file in files.values()]
            truth, found = detect(sessions, made.data.val, imgsz=IMGSZ, progress=print)
            for (form, file), boxes in zip(files.items(), found, strict=True):
                points = 100 * evaluate(truth, boxes, classes=len(made.data.names)).map50_95
                made.add({"form": form, "map50_95_points": points, "size_mb": file.stat().st_size / MEGABYTE})
    return made.finish(_claims(made.rows))


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the rows show of packed weights: the same detections from a smaller file."""
    by_form = {row["form"]: row for row in rows}
    claims = []
    for plain, packed, name in (
        ("int4 weights", "int4 weights, packed", "quant.packed_int4"),
        ("codebook of 16", "codebook of 16, packed", "quant.packed_codebook"),
    ):
        if plain not in by_form or packed not in by_form:
            continue
        apart = abs(by_form[plain]["map50_95_points"] - by_form[packed]["map50_95_points"])
        share = by_form[packed]["size_mb"] / by_form[plain]["size_mb"]
        statement = f"{packed}: {share:.2f} of the size of the same codes in bytes, with mAP50-95 apart by"
        claims.append(claim(name, statement, apart, "mAP", "<= 0.15", holds=apart <= 0.15))
    return claims


if __name__ == "__main__":
    sys.exit(main())
