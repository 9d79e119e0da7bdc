# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Masks over single weights."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import prune as reference

from tests.unit.prune.models import FAMILIES, IMGSZ, build
from yolo_compress.bench.response import OutputWeights, distance
from yolo_compress.errors import UsageError
from yolo_compress.host.checkpoint import count, load_model, save_model
from yolo_compress.host.detect import responses
from yolo_compress.prune import Inputs, apply, build_graph, compressed_bytes, prune
from yolo_compress.prune.weights import find_masks, lamp, maskable, two_of_four, zero_share
from yolo_compress.recipe import PruneSection


def _images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.random((n, 3, IMGSZ, IMGSZ), dtype=np.float32) for n in (3, 2)]


def _config(**given) -> PruneSection:
    return PruneSection(**{"importance": "l2", "repair": "nothing", **given})


def _masks(model, **given):
    defaults = {"pattern": "unstructured", "share": 0.5, "importance": "magnitude", "inputs": Inputs(images=_images)}
    return find_masks(model, build_graph(model, imgsz=IMGSZ), **{**defaults, **given})


@given(
    out=st.integers(1, 4),
    rows=st.integers(1, 5),
    kernel=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
    coarse=st.booleans(),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_two_of_every_four_are_the_best_two(out: int, rows: int, kernel: int, seed: int, coarse: bool) -> None:
    scores = torch.rand(out, 4 * rows, kernel, kernel, generator=torch.Generator().manual_seed(seed))
    if coarse:
        scores = (3 * scores).round()  # with ties
    mask = two_of_four(scores)
    for o in range(out):
        for row in range(rows):
            for y in range(kernel):
                for x in range(kernel):
                    kept = mask[o, 4 * row : 4 * row + 4, y, x]
                    four = scores[o, 4 * row : 4 * row + 4, y, x]
                    assert int(kept.sum()) == 2
                    assert four[kept].min() >= four[~kept].max()


def test_lamp_equals_loops() -> None:
    squares = torch.rand(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = squares.flatten().tolist()
    expected = [value / sum(other for other in flat if other >= value) for value in flat]
    torch.testing.assert_close(lamp(squares).flatten(), torch.tensor(expected, dtype=torch.float64))
    assert lamp(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


def test_within_a_layer_magnitude_keeps_what_torch_keeps() -> None:
    model = build("yolov8n")
    masks = _masks(model, share=0.6)
    name = max(masks, key=lambda n: masks[n].numel())
    layer = deepcopy(model.get_submodule(name.removesuffix(".weight")))
    reference.l1_unstructured(layer, "weight", amount=int((~masks[name]).sum()))
    assert torch.equal(layer.weight_mask.bool(), masks[name])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_what_is_masked_is_zero_and_nothing_else_changes(family: str, pattern: str, tmp_path) -> None:
    model = build(family)
    before = deepcopy(model.state_dict())
    result = prune(model, config=_config(mask=pattern), imgsz=IMGSZ)
    assert zero_share(result.masks) == pytest.approx(0.5, abs=1e-4)
    assert result.facts()["zero_share"] == zero_share(result.masks)
    for name, value in result.model.state_dict().items():
        kept = result.masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value, torch.where(kept, before[name], torch.zeros_like(value)))
    assert not {f"{c.name}.weight" for c in build_graph(model, imgsz=IMGSZ).convolutions if c.depthwise} & set(
        result.masks
    )
    assert "model.0.conv.weight" not in result.masks
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    save_model(result.model, tmp_path / "masked.pt")
    again = load_model(tmp_path / "masked.pt")
    assert count(again, IMGSZ) == count(model, IMGSZ)
    assert all(not again.get_parameter(name)[~kept].any() for name, kept in result.masks.items())
    assert compressed_bytes(again) < 0.8 * compressed_bytes(model)


def test_gradient_scores_equal_the_change_that_a_weight_makes() -> None:
    """Averaged over signs, a score is the second-order change of the distance when the weight alone is zeroed."""
    model = build("yolov8n", width=0.0625).double()
    images = torch.from_numpy(_images()[0][:1]).double()
    name = "model.15.cv2.conv"
    from yolo_compress.prune.weights import _curvature

    rounds = 300
    found = _curvature(model, [name], Inputs(images=lambda: [images.numpy()] * rounds), lambda line: None)[name]
    weight = model.get_submodule(name).weight
    step = 1e-3
    places = [tuple(int(i) for i in place) for place in (weight.detach().abs() > 0).nonzero()[:: weight.numel() // 6]]
    with torch.no_grad():
        full = responses(model, images)
        for place in places:
            value = weight[place].item()
            weight[place] = value + step
            changed = float(distance(full, responses(model, images), OutputWeights()).sum())
            weight[place] = value
            assert float(found[place]) / rounds == pytest.approx(2 * changed / step**2, rel=0.35)


def test_gradient_masks_harm_less_than_random_ones() -> None:
    model = build("yolov8n")
    masks = _masks(model, importance="gradient", share=0.3)
    images = torch.from_numpy(_images()[0])
    generator = torch.Generator().manual_seed(0)

    def change(chosen) -> float:
        other = deepcopy(model)
        with torch.no_grad():
            for name, kept in chosen.items():
                other.get_parameter(name).mul_(kept)
            return float(
                distance(responses(model.eval(), images), responses(other.eval(), images), OutputWeights()).mean()
            )

    chance = {name: torch.rand(kept.shape, generator=generator) > 0.3 for name, kept in masks.items()}
    assert change(masks) < 0.5 * change(chance)


def test_channels_first_and_then_weights() -> None:
    model = build("yolo11n")
    result = prune(model, config=_config(flops=0.3, round_to=2, mask="unstructured", mask_share=0.6), imgsz=IMGSZ)
    assert count(result.model, IMGSZ)[1] / count(model, IMGSZ)[1] == pytest.approx(0.7, rel=0.03)
    assert zero_share(result.masks) == pytest.approx(0.6, abs=1e-3)
    assert {name: kept.shape for name, kept in result.masks.items()} == {
        name: result.model.get_parameter(name).shape for name in result.masks
    }
    assert any(note.startswith("60.0 % of") for note in result.notes)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(UsageError, match="mask_importance=gradient needs images; give data="):
        prune(build("yolov8n"), config=_config(mask="2:4", mask_importance="gradient"), imgsz=IMGSZ)
    with pytest.raises(UsageError, match="mask=2:4 finds no layer to mask in this model"):
        graph = build_graph(build("yolov8n"), imgsz=IMGSZ)
        empty = type(graph)(**{**vars(graph), "convolutions": graph.convolutions[:1]})
        find_masks(
            build("yolov8n"), empty, pattern="2:4", share=0.5, importance="magnitude", inputs=Inputs(images=_images)
        )
    assert "model.2.cv1.conv" in maskable(build_graph(build("yolov8n"), imgsz=IMGSZ), "2:4")


def test_without_a_mask_nothing_is_touched() -> None:
    model = build("yolov8n")
    result = prune(model, config=_config(flops=0.2, round_to=2), imgsz=IMGSZ)
    assert result.masks == {}
    assert result.facts()["zero_share"] == 0
    cut = apply(model, result.plan).state_dict()
    assert all(torch.equal(cut[name], value) for name, value in result.model.state_dict().items())
