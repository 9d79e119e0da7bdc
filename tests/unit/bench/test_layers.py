# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Layer graphs against torch, and the table that keeps their times."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from yolo_compress.bench.layers import LayerSpec, LayerTable, layer_graph

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
SPECS = [
    LayerSpec(3, 2, (10, 12), depthwise=False, inputs=4, outputs=6),
    LayerSpec(1, 1, (7, 5), depthwise=False, inputs=8, outputs=3),
    LayerSpec(3, 1, (9, 9), depthwise=True, inputs=5, outputs=5),
]


def _run(model, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": image})[0]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_layer_is_a_convolution_with_silu(spec: LayerSpec, precision: str) -> None:
    model = layer_graph(spec, precision=precision)
    image = np.random.default_rng(0).random((1, spec.inputs, *spec.size), dtype=np.float32)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    kernel = weights["w"].astype(np.float32)
    if precision == "int8":
        kernel = kernel * weights["w_scale"][:, None, None, None]
    groups = spec.inputs if spec.depthwise else 1
    y = functional.conv2d(
        torch.from_numpy(image), torch.from_numpy(kernel), None, spec.stride, spec.kernel // 2, 1, groups
    )
    expected = functional.silu(y).numpy()
    found = _run(model, image)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4 if precision == "fp32" else 0.08)
    quantizers = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert quantizers == (2 if precision == "int8" else 0)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_empty_graph_reads_and_writes_the_same_shapes(spec: LayerSpec, precision: str) -> None:
    image = np.zeros((1, spec.inputs, *spec.size), np.float32)
    empty = layer_graph(spec, precision=precision, empty=True)
    assert _run(empty, image).shape == _run(layer_graph(spec, precision=precision), image).shape
    assert not any(node.op_type == "Conv" for node in empty.graph.node)


def test_a_table_keeps_what_it_measured(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = LayerTable("onnxruntime", "fp32", threads=1, folder=tmp_path, rounds=3)
    table.measure(SPECS[:2])
    assert all(table[spec] > 0 for spec in SPECS[:2])
    again = LayerTable("onnxruntime", "fp32", threads=1, folder=tmp_path, rounds=3)
    monkeypatch.setattr(again, "_time", lambda spec: 42.0)
    again.measure(SPECS)
    assert [again[spec] == 42.0 for spec in SPECS] == [False, False, True]
    assert again[SPECS[0]] == table[SPECS[0]]
    other = LayerTable("onnxruntime", "int8", threads=1, folder=tmp_path, rounds=3)
    assert not other.seconds
    stored = json.loads(again.file.read_text())
    assert stored["conditions"]["version"] == onnxruntime.__version__
    assert len(stored["seconds"]) == 3
