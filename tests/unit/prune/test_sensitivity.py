# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The ranking of layers against models that were narrowed by hand."""

from __future__ import annotations

import csv
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model, write_data
from tests.unit.prune.models import IMGSZ, build, make_plan
from tests.unit.prune.test_latency import Runtime
from yolo_compress import api
from yolo_compress.bench.response import OutputWeights, distance
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.checkpoint import count
from yolo_compress.host.detect import responses
from yolo_compress.prune import Widths, apply, build_graph, layer_times, reestimate_
from yolo_compress.prune.sensitivity import prune_sensitivity


def _images() -> list[np.ndarray]:
    return [np.random.default_rng(0).random((3, 3, IMGSZ, IMGSZ), dtype=np.float32)]


def test_a_row_is_what_narrowing_that_layer_alone_does() -> None:
    model = build("yolov8n")
    graph = build_graph(model, imgsz=IMGSZ)
    scores = np.random.default_rng(0).uniform(0.1, 1, graph.channels)
    before = deepcopy(model.state_dict())
    times = layer_times(model, graph, Runtime(graph))
    settings = {"share": 0.5, "widths": Widths(4, 0.9), "images": _images, "weights": OutputWeights(), "times": times}
    rows = prune_sensitivity(model, graph, scores, accuracy=lambda m: count(m, IMGSZ)[0] / 1e7, **settings)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert len(rows) == len({row.layer for row in rows}) == len(graph.units)
    assert [row.change_per_saving for row in rows] == sorted(row.change_per_saving for row in rows)
    row = next(r for r in rows if r.layer == "model.3")
    conv = next(c for c in graph.convolutions if c.layer == "model.3")
    kept = np.ones(graph.channels, dtype=bool)
    order = conv.outputs[np.argsort(scores[conv.outputs], kind="stable")]
    kept[order[: row.width_before - row.width_after]] = False
    narrow = apply(model, replace(make_plan(model, 0.3), kept=kept)).eval()
    reestimate_(narrow, _images())
    (params, gflops), (params_before, gflops_before) = count(narrow, IMGSZ), count(model, IMGSZ)
    assert row.params_saved == params_before - params
    assert row.gflops_saved == pytest.approx(gflops_before - gflops, rel=1e-9)
    assert row.map_drop_points == pytest.approx(100 * row.params_saved / 1e7)
    assert row.ms_saved > 0
    assert row.change_per_saving == pytest.approx(row.map_drop_points / row.ms_saved)
    x = torch.from_numpy(_images()[0])
    with torch.no_grad():
        change = distance(responses(model, x), responses(narrow, x), OutputWeights()).mean()
    assert row.output_change == pytest.approx(float(change), rel=1e-4)


def test_without_times_or_accuracy_it_ranks_by_detections_per_gflop() -> None:
    model = build("yolo26n")
    graph = build_graph(model, imgsz=IMGSZ)
    settings = {"share": 0.5, "widths": Widths(4, 0.9), "images": _images, "weights": OutputWeights()}
    rows = prune_sensitivity(model, graph, np.ones(graph.channels), **settings)
    assert all(row.ms_saved is None and row.map_drop_points is None for row in rows)
    assert all(row.change_per_saving == pytest.approx(row.output_change / row.gflops_saved) for row in rows)
    with pytest.raises(DataError, match="sensitivity got no image"):
        prune_sensitivity(model, graph, np.ones(graph.channels), **{**settings, "images": list})


def test_files(tmp_path) -> None:
    checkpoint.save_model(tiny_model(), tmp_path / "model.pt")
    data = write_data(tmp_path / "data")
    made = api.sensitivity(
        tmp_path / "model.pt", data=data, imgsz=64, images=8, val_images=4, project=tmp_path / "out", progress=len
    )
    with made.csv.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["layer"] for row in rows] == [row.layer for row in made.rows]
    assert [float(row["map_drop_points"]) for row in rows] == [row.map_drop_points for row in made.rows]
    assert made.picture.read_bytes().startswith(b"\x89PNG")
    assert f"wrote {made.csv}" in str(made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "distill"}, "kind=distill is not known; choose from prune, quantize"),
        ({"range": "minmax"}, "range= has no meaning for kind=prune; leave it out"),
        ({"share": 1.5}, r"share=1.5 is not a share in \(0, 1\); write, for example, share=0.25"),
        ({"share": "half"}, "share=half is not a share"),
        ({"importance": "l3"}, "importance='l3': input should be"),
        ({"target": "openvino:int4"}, "'openvino:int4' is not an engine and precision"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        api.sensitivity("missing.pt", data="missing.yaml", **options)
