# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Run the edge-cpu recipe on real images, killed in the middle of every stage and resumed each time.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.spine_run [project]

The rows are those of the run's bench.json; `kills` says where the process was ended with SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.record import data_folder, write

NAME = "spine_run"
RECIPE = "edge-cpu"
SETTINGS = ("imgsz=320", "epochs=3", "cache=ram")
# seconds into a stage; training is cut once it has saved an epoch, so that there is something to go on from
DELAYS = {"baseline": 8, "prune": 8, "quantize": 6, "build": 2, "native": 10, "bench": 15}


def main(project: Path) -> int:
    """Run, kill, resume, check and record; return 1 when a stage was done twice or missed."""
    folder = data_folder()
    model, data = folder / "weights/yolov8n.pt", folder / "coco/coco-mini.yaml"
    given = [f"recipe={RECIPE}", f"model={model}", f"data={data}", *SETTINGS, f"project={project}", "name=run"]
    kills: list[dict[str, Any]] = []
    began = time.monotonic()
    while True:
        killed = _until_killed(given, project / "run", {kill["stage"] for kill in kills})
        if killed is None:
            break
        kills.append(killed)
        print(f"killed in {killed['stage']} after {killed['seconds_into_stage']:.0f} s", flush=True)
        given = [f"resume={project / 'run'}"]
    record = json.loads((project / "run" / "run.json").read_text(encoding="utf-8"))
    stages = [stage["name"] for stage in record["stages"]]
    if record["status"] != "done" or len(set(stages)) != len(stages):
        print(f"the run ended as {record['status']} with stages {stages}")
        return 1
    file = next(stage["outputs"]["bench"]["path"] for stage in record["stages"] if "bench" in stage["outputs"])
    bench = json.loads((project / "run" / file).read_text(encoding="utf-8"))
    rows = [{**row, "latency_ms_samples": [], "path": Path(row["path"]).name} for row in bench["rows"]]
    extra = {
        "model": model.name,
        "recipe": record["recipe"],
        "settings": SETTINGS,
        "kills": kills,
        "stages": [{key: stage[key] for key in ("name", "seconds", "metrics", "notes")} for stage in record["stages"]],
        "seconds": time.monotonic() - began,
        "never_killed": sorted({*DELAYS, "train"} - {kill["stage"] for kill in kills}),
        "images": bench["images"],
        "imgsz": bench["imgsz"],
    }
    return write(NAME, rows, [], **extra)


def _until_killed(arguments: list[str], run_dir: Path, done: set[str]) -> dict[str, Any] | None:
    """Run until a stage that was not killed before is well under way, and kill it; None when the run ended."""
    command = [sys.executable, "-m", "yolo_compress", "run", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    state: dict[str, Any] = {"stage": None, "since": 0.0}

    def watch() -> None:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.startswith("stage "):
                state.update(stage=line.rpartition(": ")[2].strip(), since=time.monotonic())

    reader = threading.Thread(target=watch, daemon=True)
    reader.start()
    while process.poll() is None:
        time.sleep(0.2)
        stage, into = state["stage"], time.monotonic() - state["since"]
        if stage is None or stage in done:
            continue
        saved = list(run_dir.glob("*-train/train/weights/last.pt"))
        ready = bool(saved) and time.time() - saved[0].stat().st_mtime > 5 if stage == "train" else into > DELAYS[stage]
        if ready:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {"stage": stage, "seconds_into_stage": round(into, 1)}
    reader.join(timeout=10)
    if process.returncode:
        raise SystemExit(f"the run failed with exit code {process.returncode}")
    return None


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1]).resolve()))
    with tempfile.TemporaryDirectory() as place:
        sys.exit(main(Path(place)))
