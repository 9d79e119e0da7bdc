# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The score of calibration images, against the distance computed by hand from a written graph."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.tiny import FAMILIES
from yolo_compress.bench.response import SMALLEST_SIDE, STEP
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host.data import image_batches
from yolo_compress.quantize import CalibrationScore, quantize_onnx

OUTPUT = re.compile(r"/cv([23])\.(\d)/cv\1\.\2\.2/Conv$")  # the last convolution of a tower: its kind and its level


def heads(path, images):
    """Return, for each image, what comes out of the towers of boxes ("2") and of scores ("3"), (channels, anchors)."""
    model = onnx.load(str(path))
    found = {match.groups(): node.output[0] for node in model.graph.node if (match := OUTPUT.search(node.name))}
    assert len(found) == 6
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in found.values()
    )
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answers = []
    for batch in image_batches(images, 64, batch=1):
        values = session.run([found[tower] for tower in sorted(found)], {"images": batch})
        flat = [value[0].reshape(value.shape[1], -1).astype(float) for value in values]
        answers.append({"2": np.concatenate(flat[:3], 1), "3": np.concatenate(flat[3:], 1)})
    return answers


def sides(boxes):
    """Return the distances to four sides (4, anchors): expected values where the head puts out a distribution."""
    if len(boxes) == 4:
        return boxes
    bins = np.exp(boxes.reshape(4, -1, boxes.shape[1]))
    return (bins / bins.sum(1, keepdims=True) * np.arange(bins.shape[1])[None, :, None]).sum(1)


def by_formula(exact, changed) -> float:
    """Return the distance of one image as the docstring of `bench.response` has it."""
    p, q = (1 / (1 + np.exp(-answer["3"])) for answer in (exact, changed))
    divergence = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(0)
    d, e = sides(exact["2"]), sides(changed["2"])
    side = np.maximum(np.concatenate([d[:2] + d[2:]] * 2), SMALLEST_SIDE)
    return float((p.max(0) * (divergence + (((d - e) / (STEP * side)) ** 2 / 2).sum(0))).sum())


@pytest.mark.parametrize("range", ["minmax", "mse"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_distance_is_that_of_the_graph_that_quantize_writes(awake, images, tmp_path, family, range):
    source = awake / f"{family}.onnx"
    calibration, scored = images[:3], images[3:6]
    quantize_onnx(source, tmp_path / "q.onnx", images=calibration, imgsz=64, target="tensorrt", range=range)
    exact, changed = heads(source, scored), heads(tmp_path / "q.onnx", scored)
    expected = np.mean([by_formula(a, b) for a, b in zip(exact, changed, strict=True)])
    score = CalibrationScore(source, scored, imgsz=64, target="tensorrt", range=range)
    assert score(calibration) == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-5  # where 64 anchors see something; nothing moved would be 0
    other = score(images[6:8])
    assert other != score(calibration) == pytest.approx(expected, rel=1e-4)  # nothing is left over from an earlier set
    assert other == CalibrationScore(source, scored, imgsz=64, target="tensorrt", range=range)(images[6:8])


def test_what_cannot_be_scored_is_refused(awake, images):
    source = awake / "yolov8n.onnx"
    with pytest.raises(UsageError, match="the ONNX takes 64x64 images and imgsz=96 was asked for"):
        CalibrationScore(source, images[:1], imgsz=96, target="openvino", range="mse")
    score = CalibrationScore(source, images[:1], imgsz=64, target="openvino", range="mse")
    with pytest.raises(DataError, match="the calibration set is empty"):
        score([])
