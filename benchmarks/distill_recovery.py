# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A pruned detector recovered with and without distillation: ours, Ultralytics' own, none, and each loss alone.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.distill_recovery [seed ...] [candidate ...]

The student is yolov8n with 30 % of its operations pruned by the default way. Every candidate trains it for 500 steps
with the same data, batches, optimizer and seed; the last checkpoint counts, since choosing the best one would look at
the validation images. The claims need every candidate of `CLAIMED` at both seeds; the ablation is run at the first one,
and some candidates there at a lower learning rate, or for four times as long, as well. Rows that a call before has
measured are kept. What a loss costs in time and memory is told by `distill_step_cost`, in turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.prune_recovery import IMGSZ, SETTINGS, train_and_score, write_pruned
from benchmarks.prune_training_free import accuracy
from benchmarks.record import Experiment, claim
from yolo_compress.distill import LOSSES
from yolo_compress.host.checkpoint import load_model

NAME = "distill_recovery"
STUDENT, FLOPS = "yolov8n", 0.3
TEACHERS = ("yolov8n", "yolov8s")
CLAIMED = ("none", *(f"{kind} {teacher}" for teacher in TEACHERS for kind in ("native", "ours")), "label-free yolov8n")
PAIRS = ("cwd,response", "response,box", "cwd,response,box", "crosskd,cwd")
SLOWER, SLOWER_LR = ", slower", 0.00003  # so that no candidate looks better by the learning rate alone
LONGER, LONGER_EPOCHS = ", longer", 20  # 2000 steps: what a few steps from labels give may not last, or may come later
GROWING = ", growing"  # three quarters of the channels first, all of them after two fifths of the run
ABLATION = (
    *(f"{name}{SLOWER}" for name in ("none", "native yolov8n", "ours yolov8n", "label-free yolov8n", "ours yolov8s")),
    *(f"{name}{LONGER}" for name in ("none", "native yolov8s", "ours yolov8n", "ours yolov8s", "label-free yolov8n")),
    "ours yolov8n,yolov8s",  # the model that was pruned, and a larger one beside it
    f"ours yolov8n{GROWING}",
    *(f"{loss} yolov8s" for loss in ("response", "cwd")),  # the two of the default, with the larger teacher
    "cwd=4,response=4 yolov8s",  # and both with four times the weight beside the labels
    *(f"{losses} yolov8n" for losses in (*PAIRS, *LOSSES) if losses not in ("psa", "iou")),  # no attention; that is box
)
VS_NATIVE, VS_NONE, LABEL_FREE = 0.7, 1.5, 0.5


def main(given: list[str]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    seeds = [int(word) for word in given if word.isdigit()] or [0, 1]
    named = [word for word in given if not word.isdigit()]
    made = Experiment(NAME, imgsz=IMGSZ, settings=SETTINGS, flops=FLOPS)
    wanted = [(name, seed) for seed in seeds for name in named or CLAIMED]
    wanted += [] if named else [(name, seeds[0]) for name in ABLATION]
    with tempfile.TemporaryDirectory() as place:
        student = Path(place) / "student.pt"
        write_pruned(made, STUDENT, FLOPS, student)
        if not made.has(candidate="before"):
            made.add({"candidate": "before", "map50_95_points": accuracy(load_model(student), made.data)})
        for index, (name, seed) in enumerate(wanted):
            if not made.has(candidate=name, seed=seed):
                flags = _flags(name, made.folder)
                points, _ = train_and_score(student, made.data, seed, Path(place) / f"{index}", **flags)
                made.add({"candidate": name, "seed": seed, "map50_95_points": points})
    return made.finish(_claims(made.rows))


def _flags(candidate: str, folder: Path) -> dict[str, Any]:
    """Return the training flags of a candidate."""
    if candidate.endswith(SLOWER):
        return {**_flags(candidate.removesuffix(SLOWER), folder), "lr0": SLOWER_LR}
    if candidate.endswith(LONGER):
        return {**_flags(candidate.removesuffix(LONGER), folder), "epochs": LONGER_EPOCHS}
    if candidate.endswith(GROWING):
        grow = {"grow": 0.75, "grow_steps": 2, "grow_window": 0.4}
        return {**_flags(candidate.removesuffix(GROWING), folder), **grow}
    if candidate == "none":
        return {}
    kind, _, teacher = candidate.rpartition(" ")
    file = ",".join(str(folder / "weights" / f"{name}.pt") for name in teacher.split(","))
    if kind == "native":
        return {"distill_model": file}
    named = {"ours": {}, "label-free": {"labels": False}}
    return {"teacher": file, **named.get(kind, {"distill": kind})}


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    points: dict[str, list[float]] = {}
    for row in rows:
        if row["candidate"] in CLAIMED:
            points.setdefault(row["candidate"], []).append(row["map50_95_points"])
    if any(len(points.get(name, ())) < 2 for name in CLAIMED):
        return []
    mean = {name: statistics.mean(found) for name, found in points.items()}
    spread = max(max(found) - min(found) for found in points.values())
    told = "; ".join(f"{name} {mean[name]:.2f}" for name in CLAIMED)
    what = f"{STUDENT} with {100 * FLOPS:.0f} % of its operations pruned, after 500 steps, mAP50-95: {told}; spread "
    what += f"over seeds up to {spread:.2f}"
    seeds = sorted({row["seed"] for row in rows if row["candidate"] in CLAIMED})
    native = min(mean[f"ours {teacher}"] - mean[f"native {teacher}"] for teacher in TEACHERS)
    none = min(mean[f"ours {teacher}"] - mean["none"] for teacher in TEACHERS)
    gap = mean["ours yolov8n"] - mean["label-free yolov8n"]
    return [
        claim("distill.vs_native", what, native, "mAP", f">= {VS_NATIVE}", holds=native >= VS_NATIVE, seeds=seeds),
        claim("distill.vs_none", what, none, "mAP", f">= {VS_NONE}", holds=none >= VS_NONE, seeds=seeds),
        claim("distill.label_free_gap", what, gap, "mAP", f"<= {LABEL_FREE}", holds=gap <= LABEL_FREE, seeds=seeds),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
