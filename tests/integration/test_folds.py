# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A recipe that trains, quantizes and builds, run on folds from the command line."""

from __future__ import annotations

import csv
import json

from tests.tiny import tiny_model, write_data
from yolo_compress.cli import main
from yolo_compress.host import checkpoint

RECIPE = """
schema_version: 1
name: tiny
train:
  settings: {epochs: 1, batch: 4, nbs: 4, optimizer: SGD, lr0: 0.001, warmup_epochs: 0, plots: false, workers: 0}
quantize: {images: 4, range: minmax, target: onnxruntime}
build: {engines: [onnxruntime:int8]}
bench: {candidates: [native:fp32], rounds: 5, warmup: 1}
"""


def test_each_fold_trains_and_calibrates_on_the_others(tmp_path, capsys):
    checkpoint.save_model(tiny_model(), tmp_path / "model.pt")
    data = write_data(tmp_path / "data", train=5, val=3)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    given = [f"recipe={tmp_path / 'tiny.yaml'}", f"model={tmp_path / 'model.pt'}", f"data={data}", "imgsz=64"]
    assert main(["run", *given, f"project={tmp_path / 'runs'}", "folds=2"]) == 0
    out = capsys.readouterr().out
    assert "fold 2/2" in out
    assert "fold 2: done" in out
    run = tmp_path / "runs" / "tiny"
    measured = set()
    for number in (1, 2):
        fold = run / "folds" / str(number)
        record = json.loads((fold / "run" / "run.json").read_text())
        assert [stage["name"] for stage in record["stages"]] == [
            "baseline",
            "train",
            "quantize",
            "build",
            "native",
            "bench",
        ]
        listed = {split: set((fold / f"{split}.txt").read_text().split()) for split in ("train", "val")}
        (manifest,) = (fold / "run").glob("*-quantize/calibration.json")
        chosen = {entry["image"] for entry in json.loads(manifest.read_text())["images"]}
        assert len(chosen) == 4
        assert all(any(image.endswith(name.rpartition("images/")[2]) for image in listed["train"]) for name in chosen)
        assert not listed["train"] & listed["val"]
        bench = json.loads(next((fold / "run").glob("*-bench/bench.json")).read_text())
        assert bench["images"] == len(listed["val"]) == 4
        measured |= listed["val"]
    assert len(measured) == 8
    with (run / "folds.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) >= 2
    assert "<h2>Cross-validated</h2>" in (run / "report.html").read_text()
