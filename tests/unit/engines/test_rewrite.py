# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Rewritten graphs, computed by ONNX Runtime beside the ones that they were made from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from tests.tiny import FAMILIES, export_families, tiny_model, write_data
from yolo_compress.engines.rewrite import SIDES, rewritten
from yolo_compress.host.checkpoint import save_model
from yolo_compress.host.data import read_data
from yolo_compress.host.export import export_onnx
from yolo_compress.prune import prune
from yolo_compress.quantize import quantize_onnx
from yolo_compress.recipe import PruneSection

SIZE = 64
BINS = 16


def loud(model):
    """Make box distributions and scores anything but flat."""
    for tower in (*model.model[-1].cv2, *model.model[-1].cv3):
        tower[-1].weight.data.mul_(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with float graphs, a quantized one and a pruned one."""
    made = tmp_path_factory.mktemp("rewrite")
    export_families(made, change=loud)
    images = read_data(write_data(made / "data")).train
    for source in FAMILIES:
        quantize_onnx(made / f"{source}.onnx", made / f"{source}_int8.onnx", images=images, imgsz=SIZE)
    model = tiny_model(width=0.25)
    result = prune(model, config=PruneSection(flops=0.2, importance="l2", repair="nothing"), imgsz=SIZE)
    save_model(result.model, made / "pruned.pt")
    export_onnx(made / "pruned.pt", made / "pruned.onnx", imgsz=SIZE)
    export_onnx(made / "yolov8n.pt", made / "free.onnx", imgsz=SIZE, free_batch=True)
    return made


def computed(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # as written
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


@pytest.mark.parametrize("name", [*FAMILIES, *(f"{name}_int8" for name in FAMILIES), "pruned", "free"])
def test_the_output_is_the_same_up_to_rounding(folder, name):
    before = onnx.load(folder / f"{name}.onnx")
    after = rewritten(before)
    onnx.checker.check_model(after, full_check=True)
    images = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)
    wanted, got = computed(before, images), computed(after, images)
    assert np.ptp(wanted) > 10
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-4)
    assert list(after.metadata_props) == list(before.metadata_props)


@pytest.mark.parametrize("name", ["yolov8n", "yolov8n_int8"])
def test_what_takes_time_is_gone(folder, name):
    before = onnx.load(folder / f"{name}.onnx")
    kinds, had = (Counter(node.op_type for node in model.graph.node) for model in (rewritten(before), before))
    assert (had["Softmax"], kinds["Softmax"], kinds["Transpose"]) == (1, 0, 0)
    assert kinds["Slice"] - had["Slice"] == 8  # one for each C2f
    assert kinds["Split"] == had["Split"] - 8 + 1  # the quotient's two sums
    assert kinds["Sigmoid"] == had["Sigmoid"] + 2  # one a level in place of one for all
    assert (kinds["Exp"], kinds["ReduceMax"]) == (3, 3)


def test_attention_keeps_its_softmax_and_what_splits_for_two_readers_its_split(folder):
    before = onnx.load(folder / "yolo11n.onnx")
    after = rewritten(before)
    assert [n.name for n in after.graph.node if n.op_type == "Softmax"] == [
        n.name for n in before.graph.node if n.op_type == "Softmax" and "dfl" not in n.name
    ]
    kept = {n.name for n in after.graph.node if n.op_type == "Split"}
    assert any(name.startswith("/model.10/") for name in kept)  # C2PSA joins its first half with something else


def test_the_graph_that_is_given_stays_as_it_is(folder):
    model = onnx.load(folder / "yolov8n.onnx")
    before = model.SerializeToString()
    rewritten(model)
    assert model.SerializeToString() == before


def test_a_second_time_changes_nothing(folder):
    once = rewritten(onnx.load(folder / "yolov8n.onnx"))
    assert rewritten(once) == once


def test_a_side_far_below_the_others_still_has_a_mean(folder):
    model = onnx.load(folder / "yolov8n.onnx")
    biases = {
        node.input[2]
        for node in model.graph.node
        if node.op_type == "Conv"
        and ".2/Conv" in node.name
        and "/cv2." in node.name
        and node.name.startswith("/model.22")
    }
    for value in model.graph.initializer:
        if value.name in biases:
            shifted = onnx.numpy_helper.to_array(value) + np.repeat([500, 0, 0, 0], BINS).astype(np.float32)
            value.CopyFrom(onnx.numpy_helper.from_array(shifted, value.name))
            biases.remove(value.name)
    assert not biases
    got = computed(rewritten(model), np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32))
    assert np.isfinite(got).all()


def small(*nodes: onnx.NodeProto, outputs: list[str], **constants: np.ndarray) -> onnx.ModelProto:
    """Return a graph from `x` (1, 4, 2, 2)."""
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = make.make_graph(
        list(nodes),
        "small",
        [make.make_tensor_value_info("x", kind, [1, 4, 2, 2])],
        [make.make_tensor_value_info(name, kind, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return make.make_model(graph, ir_version=9, opset_imports=[make.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("joined", "outputs"),
    [
        (["b", "a"], ["y"]),  # the other way round
        (["a", "x", "b"], ["y"]),  # something in between
        (["a", "b"], ["y", "a"]),  # a half that is put out
    ],
)
def test_halves_that_do_not_make_the_whole_again_stay(joined, outputs):
    make = onnx.helper.make_node
    model = small(
        make("Split", ["x", "sizes"], ["a", "b"], "split", axis=1),
        make("Concat", joined, ["y"], "concat", axis=1),
        outputs=outputs,
        sizes=np.array([2, 2], np.int64),
    )
    assert rewritten(model) == model


def test_opsets_before_18_take_axes_another_way(folder):
    before = onnx.load(folder / "yolov8n.onnx")
    before.opset_import[0].version = 17  # what else is in it is written alike there
    after = rewritten(before)
    onnx.checker.check_model(after, full_check=True)
    images = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)
    np.testing.assert_allclose(computed(after, images), computed(before, images), rtol=1e-4, atol=2e-4)


def distributions(logits: np.ndarray) -> onnx.ModelProto:
    """Return a graph that puts two levels of logits (4 x bins, positions) out as constants and decodes them."""
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    channels, positions = logits.shape
    constants = {
        "same": np.eye(channels, dtype=np.float32)[:, :, None, None],
        "row": np.array([1, channels, -1], np.int64),
        "sides": np.array([1, SIDES, BINS, 2 * positions], np.int64),
        "bins": np.arange(BINS, dtype=np.float32).reshape(1, BINS, 1, 1),
        "flat": np.array([1, SIDES, 2 * positions], np.int64),
    }
    nodes = []
    for level in "ab":
        nodes.append(make.make_node("Conv", ["images", "same"], [f"logits_{level}"], f"conv_{level}"))
        nodes.append(make.make_node("Reshape", [f"logits_{level}", "row"], [f"row_{level}"], f"reshape_{level}"))
    nodes += [
        make.make_node("Concat", ["row_a", "row_b"], ["joined"], "concat", axis=2),
        make.make_node("Reshape", ["joined", "sides"], ["split"], "reshape"),
        make.make_node("Transpose", ["split"], ["turned"], "transpose", perm=[0, 2, 1, 3]),
        make.make_node("Softmax", ["turned"], ["shares"], "softmax", axis=1),
        make.make_node("Conv", ["shares", "bins"], ["means"], "mean"),
        make.make_node("Reshape", ["means", "flat"], ["out"], "flatten"),
    ]
    graph = make.make_graph(
        nodes,
        "distributions",
        [make.make_tensor_value_info("images", kind, [1, channels, positions, 1])],
        [make.make_tensor_value_info("out", kind, [1, SIDES, 2 * positions])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return make.make_model(graph, ir_version=9, opset_imports=[make.make_opsetid("", 18)])


def in_half_precision(model: onnx.ModelProto, logits: np.ndarray) -> np.ndarray:
    """Compute a graph with float16 for every number, and every result rounded to it."""
    for value in model.graph.initializer:
        if value.data_type == onnx.TensorProto.FLOAT:
            half = onnx.numpy_helper.to_array(value).astype(np.float16)
            value.CopyFrom(onnx.numpy_helper.from_array(half, value.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    given = logits.astype(np.float16)[None, :, :, None]
    return ReferenceEvaluator(model).run(None, {"images": given})[0]


@pytest.mark.parametrize("highest", [1.0, 12.0, 25.0])
def test_half_precision_holds_what_is_computed(highest):
    """Logits as large, and sides as far apart, as real ones."""
    below = np.repeat([0, 3, 6, 9], BINS)[:, None]
    logits = np.random.default_rng(0).uniform(-6, 0, (SIDES * BINS, 5)) + highest - below
    model = rewritten(distributions(logits))
    assert "Softmax" not in {node.op_type for node in model.graph.node}
    powers = np.exp(logits.astype(np.float16).astype(np.float64)).reshape(SIDES, BINS, -1)
    exact = (powers * np.arange(BINS)[:, None]).sum(1) / powers.sum(1)
    np.testing.assert_allclose(in_half_precision(model, logits)[0], np.tile(exact, 2), rtol=0.01)
