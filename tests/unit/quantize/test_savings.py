# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What INT8 saves by layer: recorded profiles of two runtimes, and the order in which a fake one is asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from yolo_compress.artifacts import EngineFile
from yolo_compress.errors import EngineError, UsageError
from yolo_compress.quantize import savings as module
from yolo_compress.quantize.placement import Wiring, place
from yolo_compress.quantize.savings import (
    attribute,
    measure_savings,
    owners_of,
    quantizer_readers,
    runtime_for,
)
from yolo_compress.quantize.scheme import SCHEMES
from yolo_compress.recipe import QuantizeSection

GOLDEN = Path(__file__).parents[2] / "golden"
RUNTIMES = ("openvino", "onnxruntime")


@pytest.fixture(params=RUNTIMES)
def target(request):
    return request.param


@pytest.fixture
def recorded(target):
    """Return the profiles in seconds; names of nodes do not depend on how wide a model is."""
    tree = json.loads(next(GOLDEN.glob(f"{target}-*/yolov8n_profile.json")).read_text())
    return [{node: 1e-6 * micros for node, micros in tree[kind].items()} for kind in ("fp32", "int8")]


@pytest.fixture
def graph(graphs):
    return onnx.load(str(graphs / "yolov8n.onnx")).graph


def test_every_microsecond_of_a_recorded_profile_is_somewhere(target, recorded, graph):
    placement = place(graph, SCHEMES[target])
    found = attribute(*recorded, Wiring(graph), placement)
    assert found.unnamed == ()
    assert list(found.layers) == [layer.name for layer in placement.layers if not layer.why]
    for name, nodes in zip(("float_ms", "int8_ms"), recorded, strict=True):
        everything = [*found.layers.values(), found.rest]
        assert sum(getattr(part, name) for part in everything) == pytest.approx(1e3 * sum(nodes.values()))
        assert getattr(found.rest, name) < 0.15 * 1e3 * sum(nodes.values())  # decoding of boxes is most of it
    assert "57 layers take" in found.note
    assert found.ms["model.1"] == pytest.approx(found.layers["model.1"].float_ms - found.layers["model.1"].int8_ms)


BY_HAND = {  # nodes of model.1, a convolution with one reader and one tensor before it
    "openvino": (
        {"/model.1/conv/Conv/WithoutBiases": 1, "/model.1/act/Mul": 1},
        {
            "/model.0/act/Mul_output_0_DequantizeLinear": 1,
            "/model.1/conv/Conv/WithoutBiases": 1,
            "/model.1/act/Mul": 1,
        },
    ),
    "onnxruntime": (
        {"/model.1/conv/Conv_output_0_nchwc": 1, "/model.1/act/Mul/QuickGeluFusion/": 1},
        {
            "/model.0/act/Mul_output_0_QuantizeLinear": 1,
            "/model.1/conv/Conv_token_53": 1,
            "/model.1/conv/Conv_output_0_DequantizeLinear/duplicated": 1,
            "/model.1/conv/Conv_output_0_DequantizeLinear": 1,
            "/model.1/act/Sigmoid": 1,
            "/model.1/act/Mul": 1,
        },
    ),
}


def test_a_layer_takes_its_quantizer_and_leaves_its_output_s_to_the_next(target, recorded, graph):
    found = attribute(*recorded, Wiring(graph), place(graph, SCHEMES[target])).layers["model.1"]
    for told, nodes, wanted in zip((found.float_ms, found.int8_ms), recorded, BY_HAND[target], strict=True):
        assert told == pytest.approx(1e3 * sum(share * nodes[node] for node, share in wanted.items()))


def test_a_quantizer_that_two_layers_read_is_shared_between_them(graph):
    readers = quantizer_readers(Wiring(graph), place(graph, SCHEMES["openvino"]))
    assert readers["images"] == ("model.0",)
    assert readers["/model.2/cv1/act/Mul_output_0"] == ("model.2.m.0.cv1", "model.2.cv2")  # through Split and Concat
    kept = quantizer_readers(Wiring(graph), place(graph, SCHEMES["openvino"], keep=["model.2.cv2"]))
    assert kept["/model.2/cv1/act/Mul_output_0"] == ("model.2.m.0.cv1",)


@pytest.mark.parametrize(
    ("node", "owners"),
    [
        ("/model.3/conv/Conv/WithoutBiases", ("model.3",)),
        ("images_DequantizeLinear", ("model.0",)),
        ("images_DequantizeLinear_abcd_acdb_/model.0/conv/Conv/WithoutBiases", ("model.0",)),
        ("/model.2/m.0/Add_output_0_DequantizeLinear", ("model.3", "model.4")),
        ("/model.3/conv/Conv/weight_DequantizeLinear", ("model.3",)),
        ("/model.3/conv/Conv_acdb_abcd_/model.22/Reshape_2", ("model.3",)),  # nobody else is known
        ("/model.2/Concat_abcd_acdb_/model.4/conv/Conv", ("model.4",)),
        ("/model.2/Concat", ()),
        ("ReorderInput_token_28", ()),
        ("Transpose", ()),
        ("Subtract_40206", ()),
        ("", ()),
    ],
)
def test_who_a_node_works_for(node, owners):
    readers = {"images": ("model.0",), "/model.2/m.0/Add_output_0": ("model.3", "model.4")}
    assert owners_of(node, ("model.0", "model.3", "model.4"), readers) == owners


def test_a_layer_without_a_node_is_told_and_counts_as_the_rest(graph):
    placement = place(graph, SCHEMES["openvino"])
    names = [layer.name for layer in placement.layers if not layer.why]

    def profile(seconds, without):
        nodes = {f"/{name}/conv/Conv": seconds for name in names if name != without}
        return {**nodes, "fused": 4e-3}

    found = attribute(profile(2e-3, ""), profile(1e-3, "model.3"), Wiring(graph), placement)
    assert found.unnamed == ("model.3",)
    assert "model.3" not in found.layers
    assert found.rest.float_ms == pytest.approx(4 + 2)
    assert found.rest.int8_ms == pytest.approx(4)
    assert found.note.endswith("it does not name 1 layers, which stay in INT8: model.3")
    with pytest.raises(EngineError, match=r"names none of the layers.*give max_drop= alone"):
        attribute({"kernel_1": 1.0}, {"kernel_1": 1.0}, Wiring(graph), placement)


class Fake:
    """A runtime whose INT8 nodes take half the time of float ones, with a disturbance in one turn."""

    name = "onnxruntime"

    def __init__(self, graph):
        self.calls: list[str] = []
        self.layers = [layer.name for layer in place(graph, SCHEMES["onnxruntime"]).layers]

    def unavailable(self):
        return None

    def build(self, source, out_dir, *, precision, imgsz):
        return EngineFile(out_dir, self.name, precision, imgsz, 0, "")

    def profile(self, path, images, *, rounds, threads=None):
        assert images.shape == (1, 3, 64, 64)
        assert images.dtype == np.float32
        self.calls.append(path.name)
        seconds = {"fp32": 2e-3, "int8": 1e-3}[path.name] * (50 if len(self.calls) == 3 else 1)
        return {f"/{name}/conv/Conv": seconds for name in self.layers}


def test_profiles_are_taken_in_turns_and_kept(graphs, tmp_path):
    pytest.importorskip("onnxruntime")
    path = graphs / "yolov8n.onnx"
    model = onnx.load(str(path))
    placement, engine, written = place(model.graph, SCHEMES["onnxruntime"]), Fake(model.graph), []

    def measure(cache, imgsz=64):
        return measure_savings(
            engine, path, lambda: written.append(1) or path, model, placement, imgsz=imgsz, turns=4, cache=cache
        )

    first = measure(tmp_path)
    assert engine.calls == ["fp32", "int8", "int8", "fp32"] * 2
    assert all(saving.float_ms == pytest.approx(2) for saving in first.layers.values())
    assert all(saving.int8_ms == pytest.approx(1) for saving in first.layers.values())  # a median: one turn was slow
    assert first.rest.ms == pytest.approx(len(engine.layers) - len(first.layers))
    assert measure(tmp_path) == first
    assert (len(engine.calls), len(written)) == (8, 1)  # neither profiled nor quantized again
    model.graph.initializer[0].dims[0] += 8  # another width is another structure
    measure(tmp_path)
    assert (len(engine.calls), len(written)) == (16, 2)


def test_a_runtime_that_is_not_here_is_refused(monkeypatch):
    message = (
        r"latency=0\.7 is measured on target=tensorrt, which cannot run here: .+; "
        "give max_drop= alone, which measures no time, or give a target that runs here, such as target=openvino"
    )
    from yolo_compress.quantize.precision import check_runtime

    with pytest.raises(UsageError, match=message):
        check_runtime(QuantizeSection(target="tensorrt", latency=0.7))
    with pytest.raises(UsageError, match="timed=True is measured on target=tensorrt"):
        check_runtime(QuantizeSection(target="tensorrt", max_drop=0.7, timed=True))
    assert check_runtime(QuantizeSection(target="tensorrt", max_drop=0.7)) is None
    engine = Fake.__new__(Fake)
    monkeypatch.setattr(module, "get_engine", lambda name: engine)
    assert runtime_for("openvino", option="a", instead="b") is engine
    monkeypatch.setattr(engine, "unavailable", lambda: "it is not installed", raising=False)
    with pytest.raises(UsageError, match="which cannot run here: it is not installed; b, or give"):
        runtime_for("openvino", option="a", instead="b")
