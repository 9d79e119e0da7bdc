# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Show that pruning is exact: against the masked dense model, and against a form in which nothing had to be folded.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.spine_prune [images]
"""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.record import data_folder, write
from yolo_compress.artifacts import sha256_path
from yolo_compress.host.checkpoint import count, load_model
from yolo_compress.host.data import DataSpec, image_batches, labelled_batches, read_data, sample
from yolo_compress.prune import PruneResult, mask, prune, unfold
from yolo_compress.recipe import PruneSection

WEIGHTS = ("yolov8n.pt", "yolov8s.pt", "yolo11n-int8dq.pt", "yolo26n-int8dq.pt")
DATA = "coco/coco-mini.yaml"
SHARES = (0.1, 0.3, 0.5)
METHODS = (("taylor", "local"), ("l2", "global"))
IMGSZ = 640
SCORED = 16  # images for the score and for BatchNorm: how good the choice is does not matter here
SCORED_IMGSZ = 320
TARGETS = {"fold": 1e-5, "scores": 1e-4, "boxes": 1e-2, "seconds": 20.0}
Outputs = dict[str, torch.Tensor]


def main(images: int) -> int:
    """Measure every model at every share and write the result file; return 1 when a claim does not hold."""
    folder = data_folder()
    data = read_data(folder / DATA)
    rows = [row for name in WEIGHTS for row in _rows(folder / "weights" / name, data, images)]
    measured = ("fold_error", "score_error", "box_error_px", "graph_seconds")
    worst = {key: max(row[key] for row in rows) for key in measured}
    models = ", ".join(Path(name).stem for name in WEIGHTS)
    scope = f"{models} at {', '.join(map(str, SHARES))} on {images} real images at {IMGSZ} px in float32"
    boxes = f"decoded boxes by at most {worst['box_error_px']:.1e} px (target < {TARGETS['boxes']:g})"
    claims = [
        _claim(
            "spine.fold_error",
            f"all outputs of the folded model differ from the unfolded pruned model's by at most this: {scope}",
            worst["fold_error"],
            "",
            TARGETS["fold"],
        ),
        {
            **_claim(
                "spine.prune_exact",
                f"scores of the pruned model differ from the masked dense model's by at most this, {boxes}: {scope}",
                worst["score_error"],
                "",
                TARGETS["scores"],
            ),
            "holds": worst["score_error"] < TARGETS["scores"] and worst["box_error_px"] < TARGETS["boxes"],
        },
        _claim(
            "spine.graph_seconds",
            f"the longest that building a dependency graph took: {models}",
            worst["graph_seconds"],
            "s",
            TARGETS["seconds"],
        ),
    ]
    return write("spine_prune", rows, claims)


def _claim(name: str, statement: str, value: float, unit: str, limit: float) -> dict[str, Any]:
    claim = {"id": name, "statement": statement, "value": value, "unit": unit, "target": f"< {limit:g}"}
    return {**claim, "holds": value < limit, "seeds": [0]}


def _rows(path: Path, data: DataSpec, images: int) -> list[dict[str, Any]]:
    model = load_model(path)
    batches = [torch.from_numpy(b) for b in image_batches(sample(data.val, images, seed=0), IMGSZ, batch=1)]
    chosen = sample(data.train, SCORED, seed=0)
    rows = []
    for importance, scope in METHODS:
        for share in SHARES:
            result = prune(
                model,
                config=PruneSection(ratio=share, importance=importance, scope=scope),
                imgsz=IMGSZ,
                loss_batches=lambda: labelled_batches(data, SCORED_IMGSZ, limit=SCORED),
                image_batches=lambda: image_batches(chosen, SCORED_IMGSZ),
            )
            row = {"model": path.name, "sha256": sha256_path(path), "ratio": share}
            rows.append({**row, "importance": importance, "scope": scope, **_measure(model, result, batches)})
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items() if key != "sha256"), flush=True)
    return rows


def _measure(model: nn.Module, result: PruneResult, batches: list[torch.Tensor]) -> dict[str, Any]:
    params, gflops = count(result.model, IMGSZ)
    dense = _with_statistics(model, result)
    masked, unfolded = mask(dense, result.plan), unfold(dense, result.plan)
    worst = dict.fromkeys(("fold_error", "score_error", "box_error_px", "raw_error", "score_max"), 0.0)
    for batch in batches:
        pruned, other, split = (_outputs(m, batch) for m in (result.model, masked, unfolded))
        for key, value in pruned.items():
            kind = {"raw": "raw_error", "boxes": "box_error_px", "scores": "score_error"}[key.rpartition(" ")[2]]
            worst[kind] = max(worst[kind], float((value - other[key]).abs().max()))
            worst["fold_error"] = max(worst["fold_error"], float((value - split[key]).abs().max()))
            if kind == "score_error":
                worst["score_max"] = max(worst["score_max"], float(value.max()))
    return {
        "params_before": result.params_before,
        "params_after": result.params_after,
        "params_counted": params,
        "gflops_before": result.gflops_before,
        "gflops_after": result.gflops_after,
        "gflops_counted": gflops,
        "ratio_reached": 1 - result.params_after / result.params_before,
        "graph_seconds": result.graph_seconds,
        "seconds": result.seconds,
        **worst,
    }


def _with_statistics(model: nn.Module, result: PruneResult) -> nn.Module:
    """Return the dense model with the pruned one's re-estimated BatchNorm statistics, where its channels are.

    Straight after surgery all scores are next to nothing, and comparing them would show nothing.
    """
    dense = deepcopy(model)
    theirs, ours = dict(result.model.named_modules()), dict(dense.named_modules())
    for norm in result.plan.graph.norms:
        kept = torch.from_numpy(result.plan.positions(norm.channels))
        for name in ("running_mean", "running_var"):
            getattr(ours[norm.name], name)[kept] = getattr(theirs[norm.name], name)
    return dense


def _outputs(model: nn.Module, batch: torch.Tensor) -> Outputs:
    """Return raw tensors, decoded boxes in pixels and scores of every branch, for all anchors.

    An end-to-end head's own output is its best detections, whose order flips where two scores are equal to the last
    bit; so its branches are decoded before that choice.
    """
    head = model.model[-1]
    with torch.no_grad():
        found = model(batch)[1]
        branches = found if "one2many" in found else {"one2many": found}
        outputs: Outputs = {}
        for name, branch in branches.items():
            decoded = head._inference(branch)
            outputs |= {f"{name} boxes": decoded[:, :4], f"{name} scores": decoded[:, 4:]}
            outputs |= {f"{name} {key} raw": branch[key] for key in ("boxes", "scores")}
    return outputs


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4))
