# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What rewriting a graph before OpenVINO converts it takes off its time, paired with the graph as it was exported.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.engine_rewrite

Rows that a call before has measured are kept.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.quant_ptq import GENUINE
from benchmarks.record import Experiment, claim
from yolo_compress.bench.result import Candidate
from yolo_compress.bench.run import run_bench
from yolo_compress.engines import get_engine, openvino
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx

NAME = "engine_rewrite"
IMGSZ, IMAGES, ROUNDS = 640, 128, 60


def main() -> int:
    """Measure what is missing and write the result file; return 1 when the claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ, calibration_images=IMAGES)
    for model in GENUINE:
        for precision in ("int8", "fp32"):
            if not made.has(model=model, precision=precision):
                with tempfile.TemporaryDirectory() as place:
                    made.add({"model": model, "precision": precision, **_ratio(made, model, precision, Path(place))})
    return made.finish(_claims(made.rows))


def _ratio(made: Experiment, model: str, precision: str, place: Path) -> dict[str, float]:
    """Return the median of the rewritten graph's time over the other's in the same round, and its interval."""
    graph = export_onnx(made.folder / "weights" / f"{model}.pt", place / f"{model}.onnx", imgsz=IMGSZ)
    if precision == "int8":
        images = sample(made.data.train, IMAGES, seed=0)
        graph = quantize_onnx(graph, place / f"{model}_int8.onnx", images=images, imgsz=IMGSZ).path
    engine, given = get_engine("openvino"), {"precision": precision, "imgsz": IMGSZ}
    with mock.patch.object(openvino, "rewritten", lambda exported: exported):
        before = engine.build(graph, place / "before", **given).path
    after = engine.build(graph, place / "after", **given).path
    both = [Candidate("before", before, "native"), Candidate("after", after, "ours")]
    row = run_bench(both, made.data, imgsz=IMGSZ, rounds=ROUNDS, images=16, memory=False, min_accuracy_share=0).rows[1]
    low, high = row.latency_ratio_interval
    return {"ratio": row.latency_ratio_p50, "low": low, "high": high}


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the claim that no graph becomes slower."""
    told = "; ".join(f"{row['model']} {row['precision']} {row['ratio']:.3f}" for row in rows)
    statement = f"time of an OpenVINO build over that of the same graph as it was exported, {IMGSZ} px, paired: {told}"
    worst = max(row["ratio"] for row in rows)
    return [claim("engine.rewrite", statement, worst, "of the time", "<= 1.0", holds=worst <= 1)]


if __name__ == "__main__":
    sys.exit(main())
