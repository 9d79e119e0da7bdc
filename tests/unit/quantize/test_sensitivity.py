# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What quantizing one layer costs, against the torch model with that layer's input and weights rounded by hand."""

from __future__ import annotations

import csv

import numpy as np
import onnx
import pytest
import torch

from tests.tiny import FAMILIES
from yolo_compress import api
from yolo_compress.bench.response import OutputWeights, distance
from yolo_compress.errors import UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.data import image_batches
from yolo_compress.host.detect import responses
from yolo_compress.quantize import onnx_sensitivity
from yolo_compress.quantize.choice import choose_ranges
from yolo_compress.quantize.graph import nearest_parameters, source_tensor
from yolo_compress.quantize.placement import Wiring, head_outputs, place
from yolo_compress.quantize.ranges import RANGES
from yolo_compress.quantize.scheme import SCHEMES
from yolo_compress.quantize.weights import WeightForm


@pytest.mark.parametrize("family", ["yolov8n", "yolo11n"])
def test_a_change_is_that_of_the_torch_model_with_one_layer_rounded(awake, images, family):
    """The convolution's input goes through the quantizer and its folded weights are those that the codes stand for."""
    path, scheme = awake / f"{family}.onnx", SCHEMES["openvino"]
    rows = {row.layer: row for row in onnx_sensitivity(path, images=images, imgsz=64)}
    graph = onnx.load(str(path))
    wiring, placement = Wiring(graph.graph), place(graph.graph, scheme)
    quantizers = choose_ranges(graph, placement, scheme, RANGES["mse"], images, imgsz=64).quantizers
    parameters = nearest_parameters(graph, placement, quantizers, WeightForm(avoid_overflow=True), int32_bias=False)
    by_tensor = {name: q for group, q in quantizers.items() for name in group.tensors}
    model = checkpoint.load_model(awake / f"{family}.pt").eval().fuse(verbose=False)
    batches = [torch.from_numpy(batch) for batch in image_batches(images, 64)]
    with torch.no_grad():
        full = [responses(model, batch) for batch in batches]
    layers = [layer for layer in placement.layers if not layer.why]
    assert rows.keys() == {layer.name for layer in layers}
    for layer in (layer for layer in layers if layer.name in list(rows)[:8]):  # what fresh weights pass on
        module = model.get_submodule(layer.name)
        conv = getattr(module, "conv", module)
        quantizer = by_tensor[source_tensor(wiring, wiring.nodes[layer.node].input[0], by_tensor)]
        kept = conv.weight.data.clone()
        conv.weight.data.copy_(torch.from_numpy(parameters[layer.node].weight.values))
        hook = conv.register_forward_pre_hook(
            lambda _, given, q=quantizer: (torch.from_numpy(q.round_trip(given[0].numpy())),)
        )
        with torch.no_grad():
            found = [distance(a, responses(model, b), OutputWeights()) for a, b in zip(full, batches, strict=True)]
        hook.remove()
        conv.weight.data.copy_(kept)
        expected = float(torch.cat(found).mean())
        assert rows[layer.name].output_change == pytest.approx(expected, rel=0.05, abs=1e-7)  # float32 at code edges
        assert expected > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_of_the_head_are_told_apart(awake, family):
    wiring = Wiring(onnx.load(str(awake / f"{family}.onnx")).graph)
    found = head_outputs(wiring)
    kinds = list(found.values())
    assert kinds.count((kinds[0][0], "boxes")) == kinds.count((kinds[0][0], "scores")) == len(kinds) / 2 == 3
    for index, (branch, kind) in found.items():
        name = wiring.module(index)
        assert ("one2one" in name) == (branch == "one2one")
        assert (".cv2." in name or "_cv2." in name) == (kind == "boxes")


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_sorted_and_what_saves_nothing_comes_first(awake, images, family):
    def ms_saved(model, placement):
        layers = [layer.name for layer in placement.layers if not layer.why]
        assert len(model.graph.node) > len(layers)
        return dict.fromkeys(layers[1:], 0.5) | {layers[3]: 0.0}  # the runtime does not name the first

    rows = onnx_sensitivity(
        awake / f"{family}.onnx", images=images, imgsz=64, target="tensorrt", compared=2, ms_saved=ms_saved
    )
    assert np.isinf(rows[0].change_per_saving)
    unnamed = next(row for row in rows if row.layer == "model.0")
    assert (unnamed.ms_saved, unnamed.change_per_saving) == (None, 0.0)
    timed = [row for row in rows[1:] if row is not unnamed]
    assert all(row.change_per_saving == pytest.approx(row.output_change / 0.5) for row in timed)
    ranks = [row.change_per_saving for row in rows]
    assert ranks == sorted(ranks, reverse=True)
    assert all(row.output_change > -1e-12 for row in rows)
    assert max(row.output_change for row in rows) > 1e-4


def test_files(awake, graphs, tmp_path):
    made = api.sensitivity(
        awake / "yolov8n.pt",
        data=graphs / "data/data.yaml",
        kind="quantize",
        imgsz=64,
        images=8,
        val_images=4,
        target="onnxruntime:int8",
        project=tmp_path,
        progress=len,
    )
    with made.csv.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["layer"] for row in rows] == [row.layer for row in made.rows]
    assert [float(row["ms_saved"]) for row in rows] == [row.ms_saved for row in made.rows]
    whole = {round(100 * float(row["map50_95"]) + float(row["map_drop_points"]), 6) for row in rows}
    assert len(whole) == 1  # what the float model reaches
    assert made.picture.read_bytes().startswith(b"\x89PNG")
    assert "ms saved" in str(made)
    assert f"wrote {made.csv}" in str(made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.5}, "share= has no meaning for kind=quantize; leave it out"),
        ({"importance": "taylor"}, "importance= has no meaning for kind=quantize"),
        (
            {"target": "openvino:fp16"},
            "is not what layers are quantized to; write target=openvino:int8",
        ),
        (
            {"target": "tensorrt:int8"},
            "saved time is measured on target=tensorrt, which cannot run here: .+; "
            "write target=tensorrt to rank layers by what they cost in its form, or give a target that runs here",
        ),
        ({"target": "opnvino"}, "target='opnvino': input should be"),
        ({"range": "msee"}, "range='msee': input should be"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(options, message):
    with pytest.raises(UsageError, match=message):
        api.sensitivity("missing.pt", data="missing.yaml", kind="quantize", **options)
