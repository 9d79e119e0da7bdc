# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Find out what stock Ultralytics, without this package, keeps of a pruned checkpoint.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.spine_stock [ratio ...]

Each pruned checkpoint is loaded, used for prediction, exported, trained for an epoch and resumed in a fresh process in
which this package cannot be imported; then trained and resumed by our trainer. A row tells how many parameters each
step left, or the error that it ended with.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import data_folder, write
from yolo_compress.host import checkpoint
from yolo_compress.host.data import image_batches, read_data
from yolo_compress.prune import prune
from yolo_compress.recipe import PruneSection

NAME = "spine_stock"
MODELS = ("yolov8n", "yolov8s", "yolo11n-int8dq", "yolo26n-int8dq")
RATIOS = (0.1, 0.3, 0.5)
IMGSZ = 160  # what is kept does not depend on the image size
SETTINGS = {"epochs": 2, "imgsz": IMGSZ, "batch": 4, "plots": False, "device": "cpu", "optimizer": "SGD", "val": False}
STOCK = """
import sys; sys.modules["yolo_compress"] = None
import json, os
from ultralytics import YOLO
job = json.loads(sys.argv[1])
found = {}
def params(model): return sum(p.numel() for p in model.parameters())
def step(name, action):
    try: found[name] = action()
    except Exception as error: found[name] = "error: " + " ".join(str(error).split())[:160]
def train():
    model = YOLO(job["model"]); model.train(data=job["data"], project=job["folder"], name="stock", **job["settings"])
    return params(model.model)
def resume():
    model = YOLO(job["last"]); model.train(resume=True)
    return params(model.model)
def export(format):
    made = YOLO(job["model"]).export(format=format, imgsz=job["settings"]["imgsz"], device="cpu")
    if format == "onnx":
        import onnx
        from onnx import numpy_helper
        return sum(numpy_helper.to_array(t).size for t in onnx.load(made).graph.initializer if len(t.dims) > 1)
    YOLO(made, task="detect").predict(job["image"], imgsz=job["settings"]["imgsz"], verbose=False)
    return sum(os.path.getsize(os.path.join(made, f)) for f in os.listdir(made) if f.endswith(".bin"))
step("load", lambda: params(YOLO(job["model"]).model))
step("predict", lambda: len(YOLO(job["model"]).predict(job["image"], imgsz=job["settings"]["imgsz"], verbose=False)))
step("export_onnx_weights", lambda: export("onnx"))
step("export_openvino_bytes", lambda: export("openvino"))
if job["train"]: step("train", train)
if job["last"]: step("resume_of_ours", resume)
print("FOUND", json.dumps(found))
"""
OURS = """
import sys, json
from yolo_compress import train as training
from yolo_compress.host import checkpoint
from yolo_compress.host.trainer import CompressTrainer
job = json.loads(sys.argv[1])
class Cut(Exception): pass
save = CompressTrainer.save_model
def cut(self):
    save(self)
    if self.epoch == 0: raise Cut
CompressTrainer.save_model = cut
place = {"data": job["data"], "project": job["folder"], "name": "ours"}
try: training.train(job["model"], fast_cpu=True, **place, **job["settings"])
except Cut: pass
CompressTrainer.save_model = save
last = job["folder"] + "/ours/weights/last.pt"
found = {"last": last, "train": sum(p.numel() for p in checkpoint.load_model(last).parameters())}
if job["resume"]:
    training.train(last, resume=True)
    found["resume"] = sum(p.numel() for p in checkpoint.load_model(last).parameters())
print("FOUND", json.dumps(found))
"""


def main(ratios: list[float]) -> int:
    """Measure every model and ratio, write the result file; return 1 when our trainer or stock loading loses widths."""
    folder = data_folder()
    rows = []
    for name in MODELS:
        for ratio in ratios:
            with tempfile.TemporaryDirectory() as place:
                rows.append(_row(folder, Path(place), name, ratio))
            print(json.dumps(rows[-1]), flush=True)
    kept = all(row["stock"]["load"] == row["pruned"] == row["ours"]["train"] == row["ours"]["resume"] for row in rows)
    write(NAME, rows, [])
    print(f"loaded, trained and resumed at the pruned widths: {kept}")
    return 0 if kept else 1


def _row(folder: Path, place: Path, name: str, ratio: float) -> dict[str, Any]:
    data = _small_data(folder, place)
    source = checkpoint.load_model(folder / f"weights/{name}.pt")
    section = PruneSection(ratio=ratio, importance="l2", images=16)
    images = read_data(data).train
    result = prune(source, config=section, imgsz=IMGSZ, image_batches=lambda: image_batches(images, IMGSZ))
    model = place / "pruned.pt"
    checkpoint.save_model(result.model, model, facts={"prune": result.facts()})
    job: dict[str, Any] = {
        "model": str(model),
        "data": str(data),
        "folder": str(place),
        "image": str(images[0]),
        "settings": SETTINGS,
    }
    cut = _run(OURS, {**job, "resume": False})
    shutil.copy(cut["last"], place / "cut.pt")
    stock = _run(STOCK, {**job, "train": True, "last": str(place / "cut.pt")})
    shutil.rmtree(place / "ours")
    ours = _run(OURS, {**job, "resume": True})
    del ours["last"]
    full = sum(p.numel() for p in source.parameters())
    return {"model": name, "ratio": ratio, "full": full, "pruned": result.params_after, "stock": stock, "ours": ours}


def _small_data(folder: Path, place: Path) -> Path:
    """Copy eight training images, so that nothing is written beside the real ones."""
    spec = read_data(folder / "coco/coco-mini.yaml")
    for image in spec.train[:8]:
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        for file, kind in ((image, "images"), (label, "labels")):
            target = place / "data" / kind / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.is_file():
                shutil.copy(file, target)
    path = place / "data" / "data.yaml"
    path.write_text(json.dumps({"train": "images", "val": "images", "names": dict(enumerate(spec.names))}))
    return path


def _run(code: str, job: dict[str, Any]) -> dict[str, Any]:
    run = subprocess.run([sys.executable, "-c", code, json.dumps(job)], capture_output=True, text=True, check=False)
    found = [line for line in run.stdout.splitlines() if line.startswith("FOUND ")]
    if not found:
        raise SystemExit(f"a step ended without a result:\n{run.stderr[-2000:]}")
    return json.loads(found[-1].removeprefix("FOUND "))


if __name__ == "__main__":
    sys.exit(main([float(value) for value in sys.argv[1:]] or list(RATIOS)))
