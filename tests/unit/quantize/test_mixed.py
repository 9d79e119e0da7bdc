# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Layers given back to float: the fewest that hold, in few measurements, and said in words."""

from __future__ import annotations

import math

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import tiny_model, write_data
from yolo_compress import api, quantizing
from yolo_compress.errors import GateNotMet
from yolo_compress.host import checkpoint
from yolo_compress.quantize.mixed import fewest_in_float


@given(costs=st.lists(st.floats(0.01, 1), min_size=1, max_size=60), share=st.floats(0.01, 1.2))
def test_the_fewest_layers_that_hold_are_found_in_few_measurements(costs, share):
    """What layers cost adds up, and giving one back takes its cost away."""
    costs = sorted(costs, reverse=True)
    layers = [f"model.{index}" for index in range(len(costs))]
    calls = []

    def drop(kept):
        calls.append(list(kept))
        return math.fsum(cost for layer, cost in zip(layers, costs, strict=True) if layer not in kept)

    limit = share * math.fsum(costs)
    found = fewest_in_float(drop, lambda: layers, max_drop=limit)
    fewest = next(count for count in range(len(layers) + 1) if drop(layers[:count]) <= limit)
    measured = len(calls) - fewest - 1
    assert list(found.keep) == layers[:fewest]
    assert measured == len(found.drops) <= 2 * math.log2(len(layers)) + 4
    assert found.drops[fewest] <= limit


def test_nobody_ranks_where_the_drop_holds_at_once():
    found = fewest_in_float(lambda kept: 0.1, lambda: pytest.fail("ranked"), max_drop=0.2)
    assert found.keep == ()
    assert found.note == "quantization costs 0.10 mAP50-95 points, and no layer had to go back to float"


def test_a_drop_that_no_choice_meets_is_refused():
    with pytest.raises(
        GateNotMet, match=r"costs 0\.50 mAP50-95 points with all 3 layers in float, more than max_drop=0.2"
    ):
        fewest_in_float(lambda kept: 0.5, lambda: ["a", "b", "c"], max_drop=0.2)


def test_a_whole_quantization_gives_layers_back(tmp_path, monkeypatch):
    """The accuracy is made up, from how many layers of the file that is measured are quantized."""
    checkpoint.save_model(tiny_model(), tmp_path / "model.pt")
    data = write_data(tmp_path / "data")

    def made_up(context, path):
        graph = onnx.load(str(path)).graph
        return 0.5 - 0.001 * sum(
            value.data_type == onnx.TensorProto.INT8 and len(value.dims) == 4 for value in graph.initializer
        )

    monkeypatch.setattr(quantizing, "accuracy_of", made_up)
    given = {"data": data, "imgsz": 64, "images": 8, "project": tmp_path / "out", "progress": len}
    whole = api.quantize(tmp_path / "model.pt", name="whole", **given)
    layers = [row for row in whole.tables["quantize"] if row["precision"] == "int8"]
    mixed = api.quantize(tmp_path / "model.pt", name="mixed", max_drop=0.1 * (len(layers) - 3), **given)
    kept = [row["name"] for row in mixed.tables["quantize"] if row["why"].startswith("keep=")]
    assert len(kept) == 3
    note = next(note for note in mixed.notes if "went back to float" in note)
    assert note.startswith("3 layers went back to float")
    assert all(name in note for name in kept)
