# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether everything that computes a quantized model finds the same: PyTorch as in training, and the runtimes.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.quant_agreement [openvino|onnxruntime|tensorrt ...]

The same ranges and codes are computed by PyTorch with the quantizers of training, by ONNX Runtime with quantizers as
they are written, by its integer kernels, and by OpenVINO where it takes the form. How far the same arithmetic lies from
itself when sums are only taken in another order is the yardstick: as written once more, without the optimizations of
the graph. mAP is told on the validation images and on all images, those of training and calibration too: whoever
computes, the model has seen the same, and with five times the images a mean over classes does not hang on single
objects. Detections from a score of 0.25 on are held against those of the graph as it is written, on the validation
images: a pair is of one class and overlaps by half or more. Rows that a call before has measured are kept.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from benchmarks.quant_ptq import GENUINE, STAND_INS, AsWritten
from benchmarks.record import Experiment, claim
from yolo_compress.bench.accuracy import DEPLOYED_CONF, Detections, Truth, detect, evaluate
from yolo_compress.engines import engine_for, get_engine
from yolo_compress.engines.pytorch import ModelSession
from yolo_compress.host.checkpoint import load_model
from yolo_compress.host.data import sample
from yolo_compress.host.detect import answer_densely
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import quantize_onnx
from yolo_compress.quantize.emulation import install
from yolo_compress.quantize.start import starting_point
from yolo_compress.recipe import QuantizeSection

NAME = "quant_agreement"
IMGSZ, IMAGES = 320, 128
REFERENCE = "onnxruntime, as written"
YARDSTICK = "onnxruntime, as written, other order of sums"
ALSO = {  # beside PyTorch and the graph as it is written
    "openvino": ("onnxruntime", "openvino"),
    "onnxruntime": ("onnxruntime",),
    "tensorrt": (),  # CPUs have no kernels for it that compute what GPUs do
}
OVERLAP = 0.5
APART = 0.15


def main(targets: list[str]) -> int:
    """Measure what is missing and write the result file; return 1 when the claim does not hold."""
    if unknown := sorted(set(targets).difference(ALSO)):
        sys.exit(f"'{unknown[0]}' is no target; give some of {', '.join(ALSO)}")
    made = Experiment(NAME, imgsz=IMGSZ, calibration_images=IMAGES)
    # rows of before mAP was told on all images are measured again: the claim cannot be made of them
    made.rows = [row for row in made.rows if "map50_95_points_all" in row]
    for target in targets or ALSO:
        for model in (*GENUINE, *STAND_INS):
            names = ("float", "pytorch", REFERENCE, YARDSTICK, *ALSO[target])
            missing = [name for name in names if not made.has(target=target, model=model, computed_by=name)]
            if missing:
                with tempfile.TemporaryDirectory() as place:
                    for row in _rows(made, target, model, missing, Path(place)):
                        made.add(row)
    return made.finish(_claims(made.rows))


def _rows(made: Experiment, target: str, model: str, missing: list[str], place: Path) -> list[dict[str, Any]]:
    weights, images = made.folder / "weights" / f"{model}.pt", sample(made.data.train, IMAGES, seed=0)
    floating = export_onnx(weights, place / "float.onnx", imgsz=IMGSZ)
    graph = quantize_onnx(floating, place / "quantized.onnx", images=images, imgsz=IMGSZ, target=target).path

    def built(runtime: str) -> Any:
        path = get_engine(runtime).build(graph, place / runtime, precision="int8", imgsz=IMGSZ).path
        return engine_for(path).load(path)

    make: dict[str, Callable[[], Any]] = {
        "float": lambda: engine_for(floating).load(floating),
        "pytorch": lambda: _emulated(made, weights, target),
        REFERENCE: lambda: AsWritten(graph),
        YARDSTICK: lambda: InOtherOrder(graph),
        **{runtime: partial(built, runtime) for runtime in ALSO[target]},
    }
    wanted = [name for name in make if name in (*missing, REFERENCE)]
    everything, count = [*made.data.val, *made.data.train], len(made.data.val)
    truth, found = detect([make[name]() for name in wanted], everything, imgsz=IMGSZ, progress=print)
    by_name = dict(zip(wanted, found, strict=True))
    on_val = {name: Detections(detections.images[:count]) for name, detections in by_name.items()}
    val = Truth(truth.images[:count], truth.shapes[:count])
    rows = []
    for name in missing:
        row = {
            "target": target,
            "model": model,
            "computed_by": name,
            "map50_95_points": 100 * evaluate(val, on_val[name], classes=len(made.data.names)).map50_95,
            "map50_95_points_all": 100 * evaluate(truth, by_name[name], classes=len(made.data.names)).map50_95,
            "images_all": len(everything),
        }
        same = name in (REFERENCE, "float")
        rows.append(row if same else {**row, **differences(on_val[REFERENCE], on_val[name])})
    return rows


class InOtherOrder(AsWritten):
    """The same operations one by one, with the kernels that ONNX Runtime takes before it has rearranged anything."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _emulated(made: Experiment, weights: Path, target: str) -> ModelSession:
    """Return the PyTorch model with the quantizers that training would begin with."""
    model, form = load_model(weights).eval(), QuantizeSection(target=target, images=IMAGES)
    start, _, _ = starting_point(model, form, sample(made.data.train, IMAGES, seed=0), IMGSZ)
    install(model, start)
    return Unfused(model)


class Unfused(ModelSession):
    """A model whose BatchNorm the quantizers have folded already."""

    def __init__(self, model: Any) -> None:
        answer_densely(model)
        model.fuse = lambda verbose=False: model
        super().__init__(model)


def differences(wanted: Detections, got: Detections) -> dict[str, float]:
    """Return how far detections lie from those of another computation, over all images.

    Returns:
        `unpaired`: share of the detections of both that have no partner; of pairs the median and the 95th percentile of
        the distance of scores, and of the farthest side of the boxes in pixels of the image.
    """
    everything = 0
    scores: list[float] = []
    sides: list[float] = []
    for ours, theirs in zip(wanted.images, got.images, strict=True):
        ours, theirs = (rows[rows[:, 4] >= DEPLOYED_CONF] for rows in (ours, theirs))
        everything += len(ours) + len(theirs)
        overlap = box_iou(*(torch.from_numpy(rows[:, :4]) for rows in (ours, theirs))).numpy()
        overlap = overlap * (ours[:, None, 5] == theirs[None, :, 5])
        while overlap.size and overlap.max() >= OVERLAP:
            one, other = np.unravel_index(overlap.argmax(), overlap.shape)
            overlap[one], overlap[:, other] = 0, 0
            scores.append(abs(float(ours[one, 4] - theirs[other, 4])))
            sides.append(float(np.abs(ours[one, :4] - theirs[other, :4]).max()))
    return {
        "unpaired": 1 - 2 * len(scores) / everything,
        "pairs": len(scores),
        "score_median": float(np.median(scores)),
        "score_p95": float(np.percentile(scores, 95)),
        "side_px_median": float(np.median(sides)),
        "side_px_p95": float(np.percentile(sides, 95)),
    }


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the claim, once the form that all of them compute is measured on every model."""
    claimed = ("pytorch", REFERENCE, *ALSO["openvino"])
    apart, on_val, yardstick = {}, {}, {}
    for model in (*GENUINE, *STAND_INS):
        by_name = {row["computed_by"]: row for row in rows if (row["target"], row["model"]) == ("openvino", model)}
        if any("map50_95_points_all" not in by_name.get(name, ()) for name in (*claimed, YARDSTICK)):
            return []
        apart[model] = _reach([by_name[name]["map50_95_points_all"] for name in claimed])
        on_val[model] = _reach([by_name[name]["map50_95_points"] for name in claimed])
        yardstick[model] = _reach([by_name[name]["map50_95_points_all"] for name in (REFERENCE, YARDSTICK)])
    told, few, order = (
        ", ".join(f"{name} {value:.2f}" for name, value in of.items()) for of in (apart, on_val, yardstick)
    )
    statement = (
        f"mAP50-95 at {IMGSZ} px of one quantized model, target=openvino, computed by PyTorch with the quantizers of "
        "training, by ONNX Runtime as written and by its integer kernels, and by OpenVINO, on all "
        f"{max(row.get('images_all', 0) for row in rows)} images: farthest apart {told}; on the validation images "
        f"alone {few}; the order of sums alone moves it by {order}"
    )
    value = max(apart.values())
    return [claim("quant.runtimes_agree", statement, value, "mAP", f"<= {APART}", holds=round(value, 3) <= APART)]


def _reach(values: list[float]) -> float:
    return max(values) - min(values)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
