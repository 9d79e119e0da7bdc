# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A graph run in steps gives what it gives when run at once, computes each node once, and keeps little."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.tiny import FAMILIES
from yolo_compress.errors import DataError, UsageError
from yolo_compress.quantize import SCHEMES, quantize_onnx
from yolo_compress.quantize.calibration import Runner
from yolo_compress.quantize.placement import Wiring, place
from yolo_compress.quantize.repair import waves_of
from yolo_compress.quantize.stepwise import Stepwise


def steps_of(graphs, images, tmp_path, family):
    """Return a quantized graph, and what the layers of each wave read in it."""
    source, out = graphs / f"{family}.onnx", tmp_path / "int8.onnx"
    quantize_onnx(source, out, images=images, imgsz=64, target="openvino")
    floating, quantized = onnx.load(str(source)), onnx.load(str(out))
    wiring, layers = Wiring(floating.graph), place(floating.graph, SCHEMES["openvino"]).layers
    by_output = {node.output[0]: node for node in quantized.graph.node}
    reads = [[by_output[wiring.nodes[layer.node].output[0]].input[0] for layer in w] for w in waves_of(wiring, layers)]
    return quantized, reads


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_give_what_the_whole_graph_gives(graphs, images, tmp_path, family):
    quantized, reads = steps_of(graphs, images, tmp_path, family)
    whole = [
        dict(values) for values in Runner(quantized, [n for step in reads for n in step], 64).run(images, "", None)
    ]
    run = Stepwise(images, 64)
    for step in reads:
        found = list(run.advance(quantized, step))
        assert len(found) == len(whole)
        for values, expected in zip(found, whole, strict=True):
            assert set(values) == set(step)
            for name in step:
                np.testing.assert_allclose(values[name], expected[name], atol=2e-2 * np.abs(expected[name]).max())
                assert (values[name] == expected[name]).mean() > 0.99  # a sum at a tie may fall to the other side


def test_each_node_is_computed_once_and_what_nothing_reads_is_not_kept(graphs, images, tmp_path, monkeypatch):
    from yolo_compress.quantize import stepwise

    quantized, reads = steps_of(graphs, images, tmp_path, "yolov8n")
    session, computed = stepwise._session, []

    def look(model, nodes, known, outputs):
        computed.extend(node.name for node in nodes if node.op_type != stepwise.CHEAP)
        return session(model, nodes, known, outputs)

    monkeypatch.setattr(stepwise, "_session", look)
    run = Stepwise(images, 64)
    for step in reads:
        list(run.advance(quantized, step))
        done = {name for kept in run._kept for name in kept}
        readers = Wiring(quantized.graph).readers
        for name in done:  # a reader of each has not been computed yet
            waiting = [quantized.graph.node[i] for i, _ in readers[name]]
            assert any(not run._done.issuperset(node.output) for node in waiting)
    assert len(computed) == len(set(computed))
    assert "images" not in done
    assert {values.dtype for kept in run._kept for values in kept.values()} >= {np.dtype(np.uint8)}


def test_what_a_later_step_changes_is_seen(graphs, images):
    """Weights that no step has used yet may be others in the next one."""
    model = onnx.load(str(graphs / "yolov8n.onnx"))
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    run = Stepwise(images, 64)
    list(run.advance(model, [convs[1].input[0]]))
    weight = next(value for value in model.graph.initializer if value.name == convs[1].input[1])
    weight.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(weight), weight.name))
    found = list(run.advance(model, [convs[1].output[0]]))
    for values, expected in zip(found, Runner(model, [convs[1].output[0]], 64).run(images, "", None), strict=True):
        np.testing.assert_allclose(values[convs[1].output[0]], expected[convs[1].output[0]], rtol=1e-4, atol=1e-4)


def test_no_images_are_refused(graphs):
    with pytest.raises(DataError, match=r"there are no images to repair layers by; give data=FILE\.yaml"):
        list(Stepwise([], 64).advance(onnx.load(str(graphs / "yolov8n.onnx")), []))


def test_another_image_size_is_refused(graphs, images):
    with pytest.raises(UsageError, match="the ONNX takes 64x64 images and imgsz=96 was asked for; give imgsz=64"):
        list(Stepwise(images, 96).advance(onnx.load(str(graphs / "yolov8n.onnx")), []))
