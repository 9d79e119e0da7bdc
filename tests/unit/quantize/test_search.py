# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Ranges chosen by detections, against graphs in which each candidate is a constant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from tests.tiny import FAMILIES
from yolo_compress.host.data import image_batches
from yolo_compress.quantize import SCHEMES, choice, search
from yolo_compress.quantize.answers import Asker, moved
from yolo_compress.quantize.choice import choose_ranges
from yolo_compress.quantize.graph import insert
from yolo_compress.quantize.placement import Placement, Wiring, place
from yolo_compress.quantize.ranges import RANGES


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", SCHEMES)
def test_a_candidate_moves_detections_as_the_graph_that_holds_it(awake, images, family, target):
    model = onnx.load(str(awake / f"{family}.onnx"))
    scheme, wiring = SCHEMES[target], Wiring(model.graph)
    placement = place(model.graph, scheme)
    first = choose_ranges(model, placement, scheme, RANGES["mse"], images, imgsz=64)
    batches = list(image_batches(images, 64, batch=1))
    wanted = Asker(model, wiring, 64)(batches)
    seen = []
    for group in (*placement.groups[1:3], placement.groups[-1]):  # fresh weights in between pass on next to nothing
        reads = frozenset(r for r in placement.reads if wiring.nodes[r[0]].input[r[1]] in group.tensors)
        alone = search._Free(model, wiring, placement, {group: first.quantizers[group]}, 64)
        for share in (1.0, 0.05):
            quantizer = replace(first.quantizers[group], scale=np.float32(share * first.quantizers[group].scale))
            graph = insert(model, Placement((), (group,), reads), {group: quantizer}, {}, int32_bias=False)
            exact = moved(wanted, Asker(graph, wiring, 64)(batches))
            assert alone.change({group: quantizer}, batches, wanted) == pytest.approx(exact, rel=1e-4, abs=1e-9)
            if exact > 1e-6:
                assert alone.change({group: quantizer}, batches, wanted, limit=0.5 * exact) == np.inf
            seen.append(exact)
    assert max(seen) > 1e-5


@pytest.mark.parametrize("target", SCHEMES)
def test_all_candidates_together_move_detections_as_their_graph(awake, images, target):
    model = onnx.load(str(awake / "yolo11n.onnx"))
    scheme, wiring = SCHEMES[target], Wiring(model.graph)
    placement = place(model.graph, scheme)
    first = choose_ranges(model, placement, scheme, RANGES["mse"], images, imgsz=64)
    batches = list(image_batches(images, 64, batch=1))
    wanted = Asker(model, wiring, 64)(batches)
    free = search._Free(model, wiring, placement, first.quantizers, 64)
    narrow = {g: replace(q, scale=np.float32(0.5 * q.scale)) for g, q in first.quantizers.items()}
    for quantizers in (first.quantizers, narrow):
        graph = insert(model, placement, quantizers, {}, int32_bias=False)
        exact = moved(wanted, Asker(graph, wiring, 64)(batches))
        assert free.change(quantizers, batches, wanted) == pytest.approx(exact, rel=1e-4)


def test_each_range_is_the_one_that_moves_detections_least(awake, images, monkeypatch):
    model, scheme = onnx.load(str(awake / "yolov8n.onnx")), SCHEMES["tensorrt"]
    placement = place(model.graph, scheme)
    first = choose_ranges(model, placement, scheme, RANGES["mse"], images, imgsz=64)
    wished = {group: 0.6 * float(quantizer.scale) for group, quantizer in first.quantizers.items()}

    def change(self, quantizers, batches, wanted, *, limit=np.inf):
        return sum(abs(float(q.scale) / wished[group] - 1) for group, q in quantizers.items())

    monkeypatch.setattr(search._Free, "change", change)  # the nearer to the wish the better
    monkeypatch.setattr(search, "COVERED", 1.1)
    found = choose_ranges(model, placement, scheme, RANGES["auto"], images, imgsz=64)
    for group, quantizer in found.quantizers.items():
        if group.fixed is None:  # what methods chose within 3 % of a share stands for it
            assert float(quantizer.scale) == pytest.approx(wished[group], rel=0.04)
            assert found.methods[group] != "mse"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_better_together_is_not_taken(awake, images, monkeypatch, family):
    """Ranges that lose nearly everything are tried, and those of the other methods."""
    model, scheme = onnx.load(str(awake / f"{family}.onnx")), SCHEMES["tensorrt"]
    placement = place(model.graph, scheme)
    first = choose_ranges(model, placement, scheme, RANGES["mse"], images, imgsz=64)
    monkeypatch.setattr(search, "SHARES", (1e-4, 0.7))
    found = choose_ranges(model, placement, scheme, RANGES["auto"], images, imgsz=64)
    wiring, batches = Wiring(model.graph), list(image_batches(images, 64, batch=1))
    wanted = Asker(model, wiring, 64)(batches)
    before, after = (
        moved(wanted, Asker(insert(model, placement, q, {}, int32_bias=False), wiring, 64)(batches))
        for q in (first.quantizers, found.quantizers)
    )
    assert after <= before * (1 + 1e-4)


@pytest.mark.parametrize(
    ("changes", "covered"), [((5, 1, 3, 1), (5, 3, 1)), ((1, 0, 0), (1,)), ((0, 0), ()), ((2, 2), (2, 2))]
)
def test_the_groups_that_make_up_most_are_looked_at(changes, covered):
    named = {f"group {index}": float(change) for index, change in enumerate(changes)}
    assert [named[group] for group in search._costly(named)] == list(covered)


def test_only_the_first_images_are_compared(awake, images, monkeypatch):
    seen = []
    monkeypatch.setattr(choice, "TRIAL_IMAGES", 2)
    whole = search.image_batches
    monkeypatch.setattr(
        search, "image_batches", lambda paths, *rest, **more: seen.append(len(paths)) or whole(paths, *rest, **more)
    )
    model, scheme = onnx.load(str(awake / "yolov8n.onnx")), SCHEMES["tensorrt"]
    choose_ranges(model, place(model.graph, scheme), scheme, RANGES["auto"], images, imgsz=64)
    assert seen == [2]
