# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Names of a runtime's nodes, sums per layer, and the file that keeps them."""

from __future__ import annotations

import json

import pytest

from yolo_compress.bench.layers import TICK, LayerTimesCache, layer_seconds, module_scope
from yolo_compress.errors import EngineError


@pytest.mark.parametrize(
    ("node", "scope"),
    [
        ("/model.0/conv/Conv/WithoutBiases", "model.0.conv.Conv"),
        ("/model.2/m.0/cv1/act/Mul", "model.2.m.0.cv1.act"),
        ("/model.22/cv3.0/cv3.0.1/conv/Conv_token_3", "model.22.cv3.0.1.conv"),
        ("/model.22/cv2.0/cv2.0.2/Conv", "model.22.cv2.0.2"),
        ("/model.10/m/m.0/attn/qkv/conv/Conv", "model.10.m.0.attn.qkv.conv"),
        ("/model.23/cv3.0/cv3.0.0/cv3.0.0.1/conv/Conv", "model.23.cv3.0.0.1.conv"),
        ("images_f32_abcd_bf16_acdb_/model.0/conv/Conv/WithoutBiases", "model.0.conv.Conv"),
        ("/model.0/act/Mul/QuickGeluFusion/", "model.0.act.Mul"),
        ("/model.2/Concat", "model.2"),
        ("ReorderOutput_token_245", ""),
    ],
)
def test_the_module_of_a_node(node: str, scope: str) -> None:
    assert module_scope(node) == scope


def test_a_layer_takes_all_of_its_nodes() -> None:
    nodes = {
        "/model.1/conv/Conv": 3.0,
        "/model.1/act/Mul": 1.0,
        "/model.10/conv/Conv": 5.0,
        "/model.1/cv/conv/Conv": 2.0,
        "Reorder": 9.0,
        "/model.9/Concat": 4.0,
    }
    found = layer_seconds(nodes, ["model.1", "model.10", "model.1.cv"])
    assert found == {"model.1": 4.0, "model.10": 5.0, "model.1.cv": 2.0}
    with pytest.raises(EngineError, match=r"does not name 1 of 2 layers \(model.3\)"):
        layer_seconds(nodes, ["model.1", "model.3"])
    assert layer_seconds({"/model.3/conv/Conv": 0.0}, ["model.3"]) == {"model.3": TICK}


def test_a_cache_belongs_to_a_runtime_and_a_precision(tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = LayerTimesCache("onnxruntime", "fp32", threads=1, folder=tmp_path)
    assert made.get("a") is None
    made.put("a", {"model.0": 0.5})
    again = LayerTimesCache("onnxruntime", "fp32", threads=1, folder=tmp_path)
    assert again.get("a") == {"model.0": 0.5}
    assert json.loads(again.file.read_text())["conditions"]["version"] == onnxruntime.__version__
    for other in (("onnxruntime", "int8", 1), ("onnxruntime", "fp32", 2)):
        assert LayerTimesCache(other[0], other[1], threads=other[2], folder=tmp_path).get("a") is None
    kept = LayerTimesCache("onnxruntime", "fp32", threads=1, folder=None)
    kept.put("a", {"model.0": 0.5})
    assert kept.file is None
