# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What is left of a detector after pruning and repair, without any training, by score, allocation and repair.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.prune_training_free [model ...]

Scores and repair see images of the training set, accuracy is that of the validation set. Rows that a call before has
measured are kept. For the stand-ins (weights rebuilt from INT8) the same commands run, and their accuracy is no figure
to compare.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.record import RESULTS, Experiment
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.engines.pytorch import ModelSession
from yolo_compress.host.checkpoint import load_model
from yolo_compress.host.data import DataSpec, image_batches, labelled_batches, sample
from yolo_compress.prune import prune
from yolo_compress.recipe import PruneSection

NAME = "prune_training_free"
IMGSZ = 320
FLOPS = 0.2
IMAGES = 256
MORE_IMAGES = 512
MODELS = ("yolov8s", "yolov8n")
STAND_INS = ("yolo11n-int8dq", "yolo26n-int8dq")
BASELINES = ("random", "l1", "l2", "bn_scale", "lamp", "fpgm", "taylor")  # data-free or of first order
SCORED = ("obs", "output", *reversed(BASELINES))
WEIGHED = ("obs", "output", "taylor")  # also where the score says how much each layer gives up
PLAIN = ("l2", "taylor")  # also as everybody does it: the same share everywhere, BatchNorm anew
ABLATION = (("budget", "nothing"), ("budget", "batchnorm"))  # of what `obs` does
KEPT_TARGET = 0.85
MINUTES_TARGET = 10.0
POINTS_TARGET = 1.0


def main(models: list[str]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ)
    for model in models:
        for setting in _settings(model):
            if not made.has(**setting):
                row = _row(made.folder, made.data, setting)
                made.add(row, _claims([*made.rows, row]))
    (RESULTS / f"{NAME}.png").write_bytes(picture(made.rows))
    return made.finish(_claims(made.rows))


def picture(rows: list[dict[str, Any]]) -> bytes:
    """Return a PNG of what each way to prune leaves, a panel per model; stand-ins are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = [model for model in MODELS if any(row["model"] == model for row in rows)]
    height = 0.26 * sum(row["model"] in models for row in rows) + len(models)
    figure = Figure(figsize=(7.2, height), dpi=130)
    FigureCanvasAgg(figure)
    for index, (model, axes) in enumerate(zip(models, figure.subplots(len(models), squeeze=False).flat, strict=True)):
        ways = [row for row in rows if row["model"] == model]
        dense = next(row["map50_95_points"] for row in ways if row["importance"] == "none")
        found = sorted((r for r in ways if r["importance"] != "none"), key=lambda row: row["map50_95_points"])
        names = [f"{r['importance']}, {r['scope']}, {r['repair']}, {r['images']} images" for r in found]
        bars = axes.barh(names, [row["map50_95_points"] for row in found], color="#0f766e")
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
        axes.axvline(dense, color="#111827", ls="--", lw=1)
        axes.set_title(f"{model}: {dense:.1f} before pruning (dashed), {FLOPS:.0%} of the operations gone", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_xlim(0, 1.08 * dense)
        if index == len(models) - 1:
            axes.set_xlabel("mAP50-95 without any training", fontsize=8)
    figure.tight_layout()
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def accuracy(model: nn.Module, data: DataSpec) -> float:
    """Return mAP50-95 in points on the validation images."""
    truth, found = detect([ModelSession(model)], data.val, imgsz=IMGSZ)
    return 100 * evaluate(truth, found[0], classes=len(data.names)).map50_95


def _settings(model: str) -> list[dict[str, Any]]:
    ways = [("obs", "budget", "reconstruct", MORE_IMAGES)]
    ways += [(name, "budget", "reconstruct", IMAGES) for name in WEIGHED]
    ways += [(name, "savings", "reconstruct", IMAGES) for name in SCORED]
    ways += [(name, "local", "batchnorm", IMAGES) for name in PLAIN]
    if model == "yolov8n":
        ways += [("obs", *way, IMAGES) for way in ABLATION]
    if model in STAND_INS:
        ways = [(name, "budget", "reconstruct", IMAGES) for name in ("l2", "obs")]
    keys = ("importance", "scope", "repair", "images")
    dense = {"importance": "none", "scope": "none", "repair": "none", "images": 0}
    return [{"model": model, **setting} for setting in (dense, *(dict(zip(keys, way, strict=True)) for way in ways))]


def _row(folder: Path, data: DataSpec, setting: dict[str, Any]) -> dict[str, Any]:
    model = load_model(folder / "weights" / f"{setting['model']}.pt")
    if setting["importance"] == "none":
        return {**setting, "map50_95_points": accuracy(model, data), "flops_removed": 0.0, "params_removed": 0.0}
    given = {key: setting[key] for key in ("importance", "scope", "repair", "images")}
    chosen = sample(data.train, setting["images"], seed=0)
    begin = time.perf_counter()
    result = prune(
        model,
        config=PruneSection(flops=FLOPS, **given),
        imgsz=IMGSZ,
        loss_batches=lambda: labelled_batches(data, IMGSZ, limit=setting["images"]),
        image_batches=lambda: image_batches(chosen, IMGSZ),
    )
    seconds = time.perf_counter() - begin
    return {
        **setting,
        "map50_95_points": accuracy(result.model, data),
        "flops_removed": 1 - result.gflops_after / result.gflops_before,
        "params_removed": 1 - result.params_after / result.params_before,
        "seconds": seconds,
        "widths": {row.name: [row.width_before, row.width_after] for row in result.layers if row.why == "pruned"},
    }


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the rows at hand can show: each claim needs only the rows that it speaks of."""
    dense = {row["model"]: row["map50_95_points"] for row in rows if row["importance"] == "none"}
    small = [row for row in rows if row["model"] == "yolov8s"]
    claims = []
    if {"obs", "output", *BASELINES} <= {row["importance"] for row in small if row["images"] == IMAGES}:
        best = max((r for r in small if r["importance"] in BASELINES), key=lambda r: r["map50_95_points"])
        ours = max(
            (r for r in small if r["importance"] in ("obs", "output") and r["images"] == IMAGES),
            key=lambda r: r["map50_95_points"],
        )
        ahead = ours["map50_95_points"] - best["map50_95_points"]
        alike = {r["importance"]: r["map50_95_points"] for r in small if r["scope"] == "savings"}
        claims.append(
            {
                "id": "prune.output_importance",
                "statement": f"yolov8s at -20 % FLOPs, {IMAGES} images, no training: importance={ours['importance']} "
                f"({ours['scope']}, {ours['repair']}) keeps {ours['map50_95_points']:.2f} mAP of "
                f"{dense['yolov8s']:.2f}; the best of {', '.join(BASELINES)} with any allocation and repair "
                f"keeps {best['map50_95_points']:.2f} ({best['importance']}, {best['scope']}, "
                f"{best['repair']}). With scope=savings for all: "
                f"obs {alike['obs']:.2f}, output {alike['output']:.2f}, taylor {alike['taylor']:.2f}",
                "value": round(ahead, 2),
                "unit": "mAP",
                "target": f">= {POINTS_TARGET}",
                "holds": round(ahead, 2) >= POINTS_TARGET,
                "seeds": [0],
            }
        )
    full = {row["model"]: row for row in rows if row["images"] == MORE_IMAGES}
    if "yolov8s" in full:
        kept = {name: row["map50_95_points"] / dense[name] for name, row in full.items()}
        minutes = {name: row["seconds"] / 60 for name, row in full.items()}
        told = "; ".join(f"{name} {100 * kept[name]:.1f} % in {minutes[name]:.1f} min" for name in kept)
        claims.append(
            {
                "id": "prune.training_free",
                "statement": f"share of the dense mAP50-95 that is left at -20 % FLOPs after repair from {MORE_IMAGES} "
                f"unlabelled images: {told} on this machine (at most {MINUTES_TARGET:g} min)",
                "value": round(kept["yolov8s"], 4),
                "unit": "share of dense mAP50-95",
                "target": f">= {KEPT_TARGET}",
                "holds": round(kept["yolov8s"], 4) >= KEPT_TARGET and minutes["yolov8s"] <= MINUTES_TARGET,
                "seeds": [0],
            }
        )
    return claims


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [*MODELS, *STAND_INS]))
