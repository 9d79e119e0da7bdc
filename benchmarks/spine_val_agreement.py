# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Compare our accuracy of a float checkpoint with Ultralytics' own validator and with pycocotools.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.spine_val_agreement [imgsz ...]
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import data_folder, write
from yolo_compress.artifacts import sha256_path
from yolo_compress.bench import accuracy
from yolo_compress.bench.yolo_val import yolo_val_map50_95
from yolo_compress.engines import engine_for
from yolo_compress.host.data import DataSpec, read_data
from yolo_compress.host.ultralytics import YOLO, img2label_paths

MODEL, DATA = "weights/yolov8n.pt", "coco/coco-mini.yaml"
TARGET_POINTS = 0.2
TARGET_ORACLE = 1e-6


def main(sizes: list[int]) -> int:
    """Measure at each size and write the result file; return 1 when a claim does not hold."""
    folder = data_folder()
    rows = [_row(folder / MODEL, folder / DATA, imgsz) for imgsz in sizes]
    points = max(abs(row["difference_points"]) for row in rows)
    oracle = max(row["pycocotools_max_difference"] for row in rows)
    rule = max(abs(row["coco_rule_points"]) for row in rows)
    claims = [
        {
            "id": "spine.val_agreement",
            "statement": f"For {Path(MODEL).name} at imgsz {' and '.join(map(str, sizes))} the yolo_val_map50_95 of "
            "yolo-compress bench differs from what YOLO.val(rect=False) returns by at most this, and on the same "
            f"detections its twelve COCO numbers equal pycocotools' to {TARGET_ORACLE:g} (worst: {oracle:.1e}). The "
            f"COCO mAP50-95 of the same detections lies up to {rule:.2f} points above it, which is its rule of "
            "integration",
            "value": round(points, 4),
            "unit": "mAP points",
            "target": f"<= {TARGET_POINTS}",
            "holds": points <= TARGET_POINTS and oracle <= TARGET_ORACLE,
            "seeds": [],
        }
    ]
    return write("spine_val_agreement", rows, claims)


def _row(model: Path, yaml: Path, imgsz: int) -> dict[str, Any]:
    data = read_data(yaml)
    begin = time.monotonic()
    session = engine_for(model).load(model, device="cpu")
    truth, found = accuracy.detect([session], data.val, imgsz=imgsz, progress=print)
    session.close()
    ours = accuracy.evaluate(truth, found[0], classes=len(data.names))
    middle = time.monotonic()
    theirs = _native(model, data, imgsz)
    end = time.monotonic()
    oracle = _pycocotools(truth, found[0], len(data.names))
    printed = yolo_val_map50_95(truth, found[0])
    row = {
        "model": model.name,
        "sha256": sha256_path(model),
        "data": yaml.name,
        "images": len(data.val),
        "objects": truth.count,
        "detections": found[0].count,
        "imgsz": imgsz,
        "map50_95": ours.map50_95,
        "map50": ours.map50,
        "yolo_val_map50_95": printed,
        "ultralytics_map50_95": theirs["map50_95"],
        "ultralytics_map50": theirs["map50"],
        "difference_points": 100 * (printed - theirs["map50_95"]),
        "coco_difference_points": 100 * (ours.map50_95 - theirs["map50_95"]),
        "coco_rule_points": 100 * (ours.map50_95 - printed),
        "stats": ours.stats,
        "pycocotools_stats": oracle,
        "pycocotools_max_difference": max(
            abs((-1.0 if mine is None else mine) - value) for mine, value in zip(ours.stats, oracle, strict=True)
        ),
        "seconds_ours": round(middle - begin, 1),
        "seconds_ultralytics": round(end - middle, 1),
    }
    print(
        f"imgsz {imgsz}: mAP50-95 of YOLO.val {100 * theirs['map50_95']:.3f}, ours by its rule {100 * printed:.3f}, by "
        f"COCO's {100 * ours.map50_95:.3f}; largest difference to pycocotools {row['pycocotools_max_difference']:.1e}"
    )
    return row


def _native(model: Path, data: DataSpec, imgsz: int) -> dict[str, float]:
    """Validate through the public API, on links to the images: a cache of labels is written beside what it is given."""
    with tempfile.TemporaryDirectory(prefix="yolo_compress_") as place:
        for kind in ("images", "labels"):
            (Path(place) / kind).mkdir()
        for image, label in zip(data.val, img2label_paths([str(image) for image in data.val]), strict=True):
            (Path(place) / "images" / image.name).symlink_to(image)
            if Path(label).is_file():
                (Path(place) / "labels" / Path(label).name).symlink_to(label)
        yaml = Path(place) / "data.yaml"
        yaml.write_text(json.dumps({"train": "images", "val": "images", "names": dict(enumerate(data.names))}))
        metrics = YOLO(str(model)).val(
            data=str(yaml),
            imgsz=imgsz,
            rect=False,
            conf=accuracy.CONF,
            iou=accuracy.IOU,
            max_det=accuracy.MAX_DET,
            batch=1,
            device="cpu",
            workers=0,
            plots=False,
            verbose=False,
            project=place,
        )
    return {"map50_95": float(metrics.box.map), "map50": float(metrics.box.map50)}


def _pycocotools(truth: accuracy.Truth, found: accuracy.Detections, classes: int) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("truth.json", "results.json")]
        paths[0].write_text(json.dumps(accuracy.coco_truth(truth, classes)))
        paths[1].write_text(json.dumps(accuracy.coco_results(found)))
        reference = COCO(str(paths[0]))
        evaluation = COCOeval(reference, reference.loadRes(str(paths[1])), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


if __name__ == "__main__":
    sys.exit(main([int(argument) for argument in sys.argv[1:]] or [320, 640]))
