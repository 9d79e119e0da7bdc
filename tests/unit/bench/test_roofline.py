# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The roofline by hand-computed numbers from a profile that never ran, and the work of graphs counted by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from yolo_compress.bench import peaks as measuring
from yolo_compress.bench.layer_work import LayerWork, convolution, layer_work, merged
from yolo_compress.bench.peaks import Peaks, fastest, measured_peaks
from yolo_compress.bench.roof_layers import Roofline
from yolo_compress.bench.roofline import under_roof
from yolo_compress.errors import EngineError, UsageError

PEAKS = Peaks({"fp32": 100e9, "int8": 400e9}, 10e9, {"fp32": "a product", "int8": "another", "copy": "a copy"})
WORK = (
    LayerWork("model.0.conv", 2_000_000_000, 1_000_000, False),  # 4 MB: 20 ms of computing, 0.4 ms of copying
    LayerWork("model.1.conv", 40_000_000, 10_000_000, True),  # 10 MB: 0.1 ms of computing, 1 ms of copying
)
NODES = {"/model.0/conv/Conv": 0.025, "/model.0/act/Mul": 0.0, "/model.1/conv/Conv": 0.004, "/model.2/Concat": 0.011}


def test_a_layer_is_held_to_computing_or_to_memory_by_hand():
    found = under_roof(WORK, NODES, PEAKS, precision="int8")
    first, second = found.layers
    assert (first.precision, first.bytes, first.intensity, first.limit) == ("fp32", 4_000_000, 500.0, "compute")
    assert (first.seconds, first.least_seconds) == (0.025, 0.02)
    assert first.share == pytest.approx(0.8)
    assert (second.precision, second.bytes, second.intensity, second.limit) == ("int8", 10_000_000, 4.0, "memory")
    assert second.share == pytest.approx(0.25)
    assert found.other_seconds == pytest.approx(0.011)
    assert found.whole.seconds == pytest.approx(0.040)
    assert found.whole.share == pytest.approx(0.021 / 0.040)
    assert found.whole.operations == 2_040_000_000
    assert found.whole.limit == "compute"


def test_what_the_model_allows_is_the_lower_of_both_roofs():
    for layer in under_roof(WORK, NODES, PEAKS, precision="fp32").layers:
        allowed = min(PEAKS.ops_per_s[layer.precision], PEAKS.bytes_per_s * layer.intensity)
        assert layer.operations / layer.least_seconds == pytest.approx(allowed)
        assert layer.share == pytest.approx(layer.operations / layer.seconds / allowed)


def test_a_peak_that_could_not_be_measured_is_named():
    lacking = Peaks({"fp32": 1e9}, 1e9, {"int8": "unavailable: no onnxruntime"})
    with pytest.raises(EngineError, match=r"'model\.1\.conv' computes in int8, whose peak is unavailable: no onnxrun"):
        under_roof(WORK, NODES, lacking, precision="int8")


def test_a_roofline_survives_json():
    found = under_roof(WORK, NODES, PEAKS, precision="fp32")
    assert Roofline.from_dict(json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_a_convolution_is_counted_by_its_shapes():
    dense = convolution("a", (16, 8, 3, 3), (1, 8, 20, 30), (1, 16, 10, 15), quantized=False)
    assert dense.operations == 2 * 9 * 8 * 16 * 150
    assert dense.values == 16 * 8 * 9 + 8 * 600 + 16 * 150
    depthwise = convolution("b", (8, 1, 3, 3), (1, 8, 10, 10), (1, 8, 10, 10), quantized=True)
    assert depthwise.operations == 2 * 9 * 8 * 100
    both = merged([dense, dataclasses.replace(depthwise, name="a")])
    assert both == (LayerWork("a", dense.operations + depthwise.operations, dense.values + depthwise.values, False),)


def write_onnx(path):
    onnx = pytest.importorskip("onnx")
    make, kinds = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    graph = make.make_graph(
        [
            make.make_node("Conv", ["x", "w"], ["y"], name="/model.0/conv/Conv", pads=[1] * 4),
            make.make_node("Transpose", ["y"], ["z"], name="/model.1/attn/Transpose", perm=[0, 1, 3, 2]),
            make.make_node("MatMul", ["y", "z"], ["a"], name="/model.1/attn/MatMul"),
            make.make_node("Relu", ["a"], ["out"], name="/model.2/Relu"),  # the last node is named by its output
        ],
        "tiny",
        [make.make_tensor_value_info("x", kinds, [1, 3, 8, 6])],
        [make.make_tensor_value_info("out", kinds, [1, 4, 8, 8])],
        [weight],
    )
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def test_layers_of_an_onnx_file(tmp_path):
    conv, attention = layer_work(write_onnx(tmp_path / "tiny.onnx"))
    assert conv == LayerWork("model.0.conv", 2 * 27 * 4 * 48, 108 + 144 + 192, False)
    assert attention == LayerWork("model.1.attn", 2 * 4 * 8 * 8 * 6, 192 + 192 + 256, False)


def test_layers_of_the_same_model_in_openvino(tmp_path):
    ov = pytest.importorskip("openvino")
    source = write_onnx(tmp_path / "tiny.onnx")
    folder = tmp_path / "tiny_openvino_model"
    ov.save_model(ov.convert_model(str(source)), str(folder / "tiny.xml"))
    assert layer_work(folder) == layer_work(source)


def test_a_file_that_does_not_tell_its_layers_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"best\.pt' does not tell its layers; give an \.onnx file or an OpenVINO"):
        layer_work(tmp_path / "best.pt")


def test_the_fastest_of_several_runs_counts_and_the_first_does_not():
    ticks = iter([0, 0, 0.3, 0.3, 0.4, 0.4, 0.6])  # begin, then start and end of runs of 0.3, 0.1 and 0.2 s
    runs = []
    assert fastest(lambda: runs.append(1), clock=lambda: next(ticks)) == pytest.approx(0.1)
    assert len(runs) == 4  # one to warm up, and no more once half a second is over


def test_peaks_are_measured_once_per_machine(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(measuring, "measure", lambda *, threads: calls.append(threads) or PEAKS)
    assert measured_peaks(threads=2, folder=tmp_path) == measured_peaks(threads=2, folder=tmp_path) == PEAKS
    measured_peaks(threads=1, folder=tmp_path)
    measured_peaks(threads=1)
    assert calls == [2, 1, 1]


def test_peaks_are_of_this_machine(monkeypatch):
    monkeypatch.setattr(measuring, "SIDE", 64)
    monkeypatch.setattr(measuring, "COPIED_BYTES", 1 << 16)
    found = measuring.measure(threads=1)
    assert {"fp32"} <= set(found.ops_per_s) <= {"fp32", "bf16", "int8"}
    assert all(rate > 0 for rate in (*found.ops_per_s.values(), found.bytes_per_s))
    assert set(found.how) >= {"fp32", "int8", "copy"}
