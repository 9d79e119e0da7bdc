# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""How the shipped recipe edge-cpu should train: learning rate, mosaic and labels, on the model that it has pruned.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.recipe_training [seed ...] [candidate ...]

yolov8n with a fifth of its operations pruned by the default way is trained for three epochs, taught by the dense model.
The last checkpoint counts, since choosing the best one would look at the validation images. Rows that a call before has
measured are kept.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.prune_recovery import IMGSZ, SETTINGS, train_and_score, write_pruned
from benchmarks.prune_training_free import accuracy
from benchmarks.record import Experiment, asked
from yolo_compress.host.checkpoint import load_model

NAME = "recipe_training"
MODEL, FLOPS, EPOCHS = "yolov8n", 0.2, 3
CANDIDATES: dict[str, dict[str, Any]] = {
    f"lr0={rate:g}, mosaic={mosaic:g}": {"lr0": rate, "mosaic": mosaic, "close_mosaic": int(mosaic > 0)}
    for rate, mosaic in ((1e-4, 0.5), (3e-5, 0.5), (3e-5, 0.0), (1e-5, 0.5), (1e-5, 0.0))
}
CANDIDATES["lr0=1e-05, mosaic=0, labels=False"] = {**CANDIDATES["lr0=1e-05, mosaic=0"], "labels": False}


def main(given: list[str]) -> int:
    """Measure what is missing and write the result file."""
    seeds, named = asked(given, CANDIDATES)
    made = Experiment(NAME, imgsz=IMGSZ, model=MODEL, flops=FLOPS, settings={**SETTINGS, "epochs": EPOCHS})
    dense = made.folder / "weights" / f"{MODEL}.pt"
    with tempfile.TemporaryDirectory() as place:
        pruned = Path(place) / "pruned.pt"
        write_pruned(made, MODEL, FLOPS, pruned)
        if not made.has(candidate="not trained"):
            made.add({"candidate": "not trained", "map50_95_points": accuracy(load_model(pruned), made.data)})
        for seed in seeds:
            for index, name in enumerate(named):
                if not made.has(candidate=name, seed=seed):
                    flags = {"epochs": EPOCHS, "teacher": str(dense), **CANDIDATES[name]}
                    run = Path(place) / f"{index}-{seed}"
                    points, seconds = train_and_score(pruned, made.data, seed, run, **flags)
                    made.add({"candidate": name, "seed": seed, "map50_95_points": points, "seconds": seconds})
    return made.finish([])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
