# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Sweep six short trials of the demonstration set on a local Ray of two workers, one of which is killed midway.

Usage: python -m benchmarks.sweep_ray [project]

The model is the demonstration's student at random weights: what is shown is that every trial has its row and that
nothing which had finished is run twice, and accuracies of such a model mean nothing. Rows are those of sweep.json, with
the attempts that each trial's folder lists.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.record import claim, write
from yolo_compress import api
from yolo_compress import recipe as recipes
from yolo_compress.demo.dataset import IMGSZ, write_demo_set
from yolo_compress.demo.models import STUDENT
from yolo_compress.demo.parts import PARTS
from yolo_compress.host import checkpoint
from yolo_compress.host.ultralytics import YOLO

NAME = "sweep_ray"
WORKERS = 2
SPACE = {"prune": "0.1,0.2,0.3", "quantize_range": "minmax,mse"}
# no training: the student is at random weights anyway, and every trial still has four stages to lose
FIXED = {"prune_importance": "l2", "prune_images": 8, "prune_repair": "batchnorm", "quantize_images": 8}
KILL_AFTER_STAGE = "prune"  # of the trial whose worker is killed: it quantizes then, with work behind it


def main(project: Path) -> int:
    """Sweep, kill, check and record; return 1 when a row is missing or something was run twice."""
    data = write_demo_set(project / "data", train=48, val=16)
    model = _student(project)
    recipe = recipes.from_flags(
        {**FIXED, "prune": 0.1, "engines": "openvino:int8", "bench_candidates": "native:fp32", "bench_rounds": 20}
    )
    killed: dict[str, Any] = {}
    threading.Thread(target=_kill_one, args=(project / "sweep", killed), daemon=True).start()
    began = time.monotonic()
    given = {"model": model, "data": data, "imgsz": IMGSZ, "project": project, "name": "sweep"}
    result = api.sweep(recipe, **given, **SPACE, ray="local", workers=WORKERS)
    rows = [_row(result.folder, row) for row in result.rows]
    begun = {trial: [a["stages_done"] for a in row["attempts"]] for trial, row in enumerate(rows, start=1)}
    again = {trial for trial, attempts in begun.items() if len(attempts) > 1}
    repeated = sum(row["stages"] != list(dict.fromkeys(row["stages"])) for row in rows)
    lost = [row for row in rows if row["trial"] == killed.get("trial")]
    kept = bool(lost) and len(lost[0]["attempts"]) == 2 and KILL_AFTER_STAGE in lost[0]["attempts"][1]["stages_done"]
    claims = [
        claim("sweep.rows", "trials that have ended as done, of six", sum(r["state"] == "done" for r in rows), "trials",
              "== 6", holds=len(rows) == 6 and all(r["state"] == "done" for r in rows)),
        claim("sweep.killed", "trials begun a second time, which is the one whose worker was killed", len(again),
              "trials", "== 1", holds=again == {killed.get("trial")}),
        claim("sweep.repeated", "finished trials or stages that were run twice", repeated + (not kept), "trials",
              "== 0", holds=not repeated and kept),
    ]  # fmt: skip
    extra = {"workers": WORKERS, "space": SPACE, "killed": killed}
    return write(NAME, rows, claims, **extra, seconds=round(time.monotonic() - began, 1))


def _student(project: Path) -> Path:
    file, architecture = project / "student.pt", project / "student.yaml"
    if not file.is_file():
        architecture.write_text(STUDENT.architecture(len(PARTS)), encoding="utf-8")
        model = YOLO(str(architecture)).model
        model.names = dict(enumerate(PARTS))
        model.task = "detect"
        checkpoint.save_model(model.eval(), file)
    return file


def _kill_one(folder: Path, killed: dict[str, Any]) -> None:
    """End the worker of the first trial that is seen to quantize, once its pruning is recorded."""
    while not killed:
        time.sleep(0.1)
        for record in folder.glob("trials/*/run/run.json"):
            stages = [stage["name"] for stage in json.loads(record.read_text(encoding="utf-8"))["stages"]]
            if stages[-1:] == [KILL_AFTER_STAGE]:
                trial = record.parents[1]
                last = json.loads((trial / "attempts.jsonl").read_text(encoding="utf-8").splitlines()[-1])
                os.kill(last["pid"], signal.SIGKILL)
                number = int(trial.name.partition("-")[0])
                ended = sorted(int(p.parent.name.partition("-")[0]) for p in folder.glob("trials/*/outcome.json"))
                killed.update(trial=number, stages_done=stages, trials_ended_before=ended)
                print(f"killed the worker of trial {number}, after {', '.join(stages)}", flush=True)
                return


def _row(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    place = folder / row["folder"]
    attempts = [json.loads(line) for line in (place / "attempts.jsonl").read_text(encoding="utf-8").splitlines()]
    run = json.loads((place / "run" / "run.json").read_text(encoding="utf-8"))
    kept = {key: row[key] for key in ("values", "state", "seconds", "error", "figures")}
    began = [{key: attempt[key] for key in ("began", "pid", "stages_done")} for attempt in attempts]
    stages = [stage["name"] for stage in run["stages"]]
    return {"trial": row["number"], **kept, "stages": stages, "attempts": began}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1]).resolve()))
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(main(Path(scratch)))
