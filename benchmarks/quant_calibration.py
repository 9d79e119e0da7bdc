# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What calibration costs: time against running the same images through the float model, and memory by their number.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.quant_calibration

Both read, letterbox and run the same images one by one in ONNX Runtime, in turns and each time in a process of its
own, so that its peak of resident memory is its own. Loading the model counts in neither.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import Experiment, claim, data_folder
from yolo_compress.bench.memory import peak_mb
from yolo_compress.host.cpu import use_all_cores
from yolo_compress.host.data import read_data, sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize.calibration import Runner, observe
from yolo_compress.quantize.placement import place
from yolo_compress.quantize.scheme import SCHEMES
from yolo_compress.quantize.source import read_float

NAME = "quant_calibration"
MODEL, IMGSZ = "yolov8n", 640
COUNTS, TIMED, TURNS = (64, 512, 1600), 512, 3
TIME_TARGET, GROWTH_TARGET = 1.3, 1.05


def main() -> int:
    """Measure what is missing and write the result file; return 1 when the claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ, model=MODEL)
    wanted = [(what, TIMED, turn) for turn in range(TURNS) for what in ("float", "calibrate")]
    wanted += [("calibrate", count, 0) for count in COUNTS if count != TIMED]
    with tempfile.TemporaryDirectory() as place:
        graph = export_onnx(made.folder / "weights" / f"{MODEL}.pt", Path(place) / "float.onnx", imgsz=IMGSZ)
        for what, count, turn in wanted:
            if not made.has(what=what, images=count, turn=turn):
                call = [sys.executable, "-m", f"benchmarks.{NAME}", what, str(graph), str(count)]
                answer = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
                made.add({"what": what, "images": count, "turn": turn, **json.loads(answer.splitlines()[-1])})
    return made.finish(_claims(made.rows))


def one(what: str, graph: Path, count: int) -> None:
    """Do one of the two in this process and print its seconds and peak memory as JSON."""
    use_all_cores()
    images = sample(read_data(data_folder() / "coco/coco-mini.yaml").train, count, seed=0)
    assert len(images) >= min(count, 1500)
    model = read_float(graph)
    if what == "float":
        runner = Runner(model, [model.graph.output[0].name], IMGSZ)
        begin = time.perf_counter()
        for _ in runner.run(images, "", None):
            pass
    else:
        groups = place(model.graph, SCHEMES["openvino"]).groups
        observe(model, groups, images[:1], imgsz=IMGSZ)
        begin = time.perf_counter()
        observe(model, groups, images, imgsz=IMGSZ)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "read": len(images), "peak_resident_mib": round(float(peak_mb()))}))


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def of(what: str) -> list[float]:
        timed = [row for row in rows if row["what"] == what and row["images"] == TIMED]
        return [row["seconds"] for row in sorted(timed, key=lambda row: row["turn"])]

    ratio = statistics.median(a / b for a, b in zip(of("calibrate"), of("float"), strict=True))
    peaks = {row["images"]: row["peak_resident_mib"] for row in rows if row["what"] == "calibrate" and row["turn"] == 0}
    growth = peaks[max(COUNTS)] / peaks[min(COUNTS)]
    told = ", ".join(f"{peaks[count]} MiB at {count}" for count in COUNTS)
    statement = (
        f"calibrating {MODEL} on {TIMED} images at {IMGSZ} px takes {ratio:.2f} of the time that running them through "
        f"the float model takes, median of {TURNS} turns; peak resident memory {told} images (growth {growth:.3f}, at "
        f"most {GROWTH_TARGET})"
    )
    holds = ratio <= TIME_TARGET and growth <= GROWTH_TARGET
    return [claim("quant.calibration_cost", statement, ratio, "x the float run", f"<= {TIME_TARGET}", holds=holds)]


if __name__ == "__main__":
    if sys.argv[1:]:
        one(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main())
