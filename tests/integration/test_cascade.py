# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A cascade through the bench: made, measured beside its engines, and loaded again."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tiny import export_families, write_data
from yolo_compress import api
from yolo_compress.engines import engine_for
from yolo_compress.errors import UsageError
from yolo_compress.host.data import image_batches, read_data
from yolo_compress.host.detect import class_outputs


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")

    def lively(model):
        """Let scores depend on the image, which they hardly do in a model that was never trained."""
        for output in class_outputs(model).values():
            output.bias.data.zero_()
            output.weight.data.mul_(100)

    export_families(folder, lively)
    write_data(folder / "data")
    return folder


def test_a_cascade_is_measured_beside_its_engines(files, tmp_path):
    pair = f"{files / 'yolov8n.onnx'},{files / 'yolo11n.onnx'}"
    options = {"imgsz": 64, "project": tmp_path, "rounds": 4, "warmup": 1}
    made = api.bench(data=files / "data/data.yaml", cascade=pair, cascade_share=0.5, **options)
    rows = {row.label: row for row in made.result.rows}
    assert list(rows) == ["yolov8n.onnx", "yolo11n.onnx", "yolov8n-yolo11n.cascade.json"]
    both = rows["yolov8n-yolo11n.cascade.json"]
    assert both.engine == "cascade"
    assert both.size_bytes == sum(rows[name].size_bytes for name in ("yolov8n.onnx", "yolo11n.onnx"))
    assert both.status == "ok"
    assert both.latency_ms_mean > 0
    assert "images went to yolo11n.onnx" in " ".join(both.describe["notes"])
    path = tmp_path / "bench" / "yolov8n-yolo11n.cascade.json"
    sessions = [engine_for(file).load(file) for file in (path, files / "yolov8n.onnx", files / "yolo11n.onnx")]
    images = next(image_batches(read_data(files / "data/data.yaml").train, 64))
    went = []
    for image in images:
        found, cheap, precise = (session.infer(image[None]) for session in sessions)
        assert not np.array_equal(cheap, precise)
        went.append(np.array_equal(found, precise))
        assert went[-1] or np.array_equal(found, cheap)
    assert sum(went) == len(images) // 2  # those that the rule was fitted on, of which half were to go on


def test_a_cascade_of_one_engine_is_refused(files, tmp_path):
    with pytest.raises(UsageError, match="a cascade has two engines and 1 were given"):
        api.bench(data=files / "data/data.yaml", cascade=[files / "yolov8n.onnx"], imgsz=64, project=tmp_path)
