# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The channel graph against couplings found by sending NaN through the real network."""

from __future__ import annotations

import time
from collections import defaultdict

import pytest
import torch
from torch import nn

from tests.unit.prune.models import FAMILIES, IMGSZ, build, difference, make_plan, raw
from yolo_compress.errors import UnsupportedModel, UsageError
from yolo_compress.host.checkpoint import count
from yolo_compress.host.ultralytics import DetectionModel
from yolo_compress.prune import apply, build_graph, mask
from yolo_compress.prune.cost import CostModel

SAME = 1e-9  # float64
SECONDS = 5.0  # far above the tenth of a second that it takes, far below what a search over pairs would need


@pytest.mark.parametrize("family", FAMILIES)
def test_couplings_equal_those_that_nan_finds(family: str) -> None:
    """A channel poisoned with NaN shows up at exactly the inputs that the graph names, up to the next convolution."""
    model = build(family)
    graph = build_graph(model, imgsz=IMGSZ)
    reached = _nan_reach(model, [conv.name for conv in graph.convolutions if not conv.depthwise])
    parent = {producer: producer for producer in reached}

    def find(node: tuple[str, int]) -> tuple[str, int]:
        while parent[node] != node:
            node = parent[node]
        return node

    by_consumer: dict[tuple[str, int], tuple[str, int]] = {}
    for producer, consumers in reached.items():
        for consumer in consumers:
            if consumer in by_consumer:
                parent[find(producer)] = find(by_consumer[consumer])
            else:
                by_consumer[consumer] = producer
    components: dict[tuple[str, int], set[tuple[str, int, int]]] = defaultdict(set)
    for producer, consumers in reached.items():
        components[find(producer)] |= {(producer[0], 0, producer[1])} | {(name, 1, i) for name, i in consumers}
    dense = {conv.name for conv in graph.convolutions if not conv.depthwise}
    slots = {c: {s for s in found if s[0] in dense} for c, found in graph.slots().items()}
    free = {frozenset(found) for channel, found in slots.items() if channel not in graph.frozen}
    kept = set().union(*(slots[channel] for channel in graph.frozen))
    assert len(free) > 300
    for component in components.values():
        # Attention spreads NaN over its head: components there are wider than channels, and must be frozen throughout.
        assert frozenset(component) in free or component <= kept


def _nan_reach(model: nn.Module, dense: list[str]) -> dict[tuple[str, int], set[tuple[str, int]]]:
    """Return, for each output channel of each dense convolution, the dense inputs that it reaches unmixed.

    Each image of a batch carries its own poison; whatever a dense convolution receives is noted and made clean.
    """
    modules = dict(model.named_modules())
    producers = [(name, index) for name in dense for index in range(modules[name].out_channels)]
    found: dict[tuple[str, int], set[tuple[str, int]]] = {producer: set() for producer in producers}
    poison: dict[str, list[tuple[int, int]]] = {}
    batch: list[tuple[str, int]] = []

    def clean(name: str):
        def hook(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            for image, channel in inputs[0].isnan().flatten(2).any(2).nonzero().tolist():
                found[batch[image]].add((name, channel))
            return (inputs[0].nan_to_num(0.0),)

        return hook

    def spread(name: str):
        def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            for image, channel in poison.get(name, ()):
                output[image, channel] = torch.nan
            return output

        return hook

    handles = [modules[name].register_forward_pre_hook(clean(name)) for name in dense]
    handles += [modules[name].register_forward_hook(spread(name)) for name in dense]
    head = model.model[-1]
    head.training = True  # raw outputs: decoding is not of interest
    with torch.no_grad():
        for start in range(0, len(producers), 128):
            batch[:] = producers[start : start + 128]
            poison.clear()
            for image, (name, channel) in enumerate(batch):
                poison.setdefault(name, []).append((image, channel))
            model(torch.rand(len(batch), 3, 32, 32))
    head.training = False
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ["yolov8n", "yolov8s", "yolo11n", "yolo26n"])
def test_counts_equal_the_counted_ones_and_building_is_quick(name: str) -> None:
    model = DetectionModel(f"{name}.yaml", verbose=False)
    start = time.perf_counter()
    graph = build_graph(model, imgsz=640)
    assert time.perf_counter() - start < SECONDS
    params, ops = CostModel(graph).whole()
    assert (params, ops / 1e9) == count(model, 640)


def test_yolov8_keeps_only_the_image_and_what_the_head_says(family_model) -> None:
    graph = build_graph(family_model("yolov8n"), imgsz=IMGSZ)
    assert set(graph.frozen.values()) == {"image channels", "box bins and class scores"}
    assert len(graph.frozen) == 3 + 3 * (64 + 3)


def test_halves_of_a_chunk_are_one_unit(family_model) -> None:
    graph = build_graph(family_model("yolov8n"), imgsz=IMGSZ)
    pairs = [unit for unit in graph.units if len(unit) == 2]
    assert len(pairs) == 8  # one per C2f
    for one, other in pairs:
        assert len(graph.groups[one]) == len(graph.groups[other])


@pytest.mark.parametrize("family", ["yolo11n", "yolo26n"])
def test_attention_with_one_head_stays_and_its_feed_forward_does_not(family: str, family_model) -> None:
    graph = build_graph(family_model(family), imgsz=IMGSZ)
    convs = {conv.layer: conv for conv in graph.convolutions}

    def whole(layer: str) -> bool:
        return all(channel in graph.frozen for channel in convs[layer].outputs.tolist())

    for layer in ("model.10.m.0.attn.qkv", "model.10.m.0.attn.proj", "model.10.m.0.attn.pe", "model.10.cv1"):
        assert whole(layer)
    for layer in ("model.10.m.0.ffn.0", "model.10.cv2"):
        assert not whole(layer)
    assert any("attention with a single head" in note for note in graph.notes)
    if family == "yolo26n":  # C3k2 with attention inside
        assert whole("model.22.cv1")
        assert not whole("model.22.m.0.0.cv1")
        assert not whole("model.22.cv2")


def test_one_neck_feature_reaches_every_tower_of_the_head(family_model) -> None:
    graph = build_graph(family_model("yolo26n"), imgsz=IMGSZ)
    feature = next(conv for conv in graph.convolutions if conv.layer == "model.22.cv2").outputs[0]
    places = {name for name, _, _ in graph.slots()[int(feature)]}
    for branch in ("cv2", "one2one_cv2"):
        assert f"model.23.{branch}.2.0.conv" in places
    for branch in ("cv3", "one2one_cv3"):  # through the depthwise convolution and the pointwise one behind it
        assert {f"model.23.{branch}.2.0.0.conv", f"model.23.{branch}.2.0.1.conv"} <= places


def test_keep_by_name_and_by_prefix(family_model) -> None:
    model = family_model("yolov8n")
    convs = {c.layer: c for c in build_graph(model, imgsz=IMGSZ, keep=("model.2", "model.0.conv")).convolutions}
    graph = build_graph(model, imgsz=IMGSZ, keep=("model.2", "model.0.conv"))
    assert all(c in graph.frozen for name in ("model.0", "model.2.cv1", "model.2.cv2") for c in convs[name].outputs)
    assert not any(c in graph.frozen for c in convs["model.21.cv2"].outputs)  # a prefix ends at a dot


@pytest.mark.parametrize("wanted", ["model.99", "model.2.cv9", "backbone"])
def test_keep_of_an_unknown_layer_names_close_ones(wanted: str, family_model) -> None:
    with pytest.raises(UsageError, match=f"keep={wanted} is not a layer of this model; (did you mean model|the model)"):
        build_graph(family_model("yolov8n"), imgsz=IMGSZ, keep=(wanted,))


def test_imgsz_must_fit_the_stride(family_model) -> None:
    with pytest.raises(UsageError, match="imgsz=100 is not a multiple of the model's stride 32; give imgsz=128"):
        build_graph(family_model("yolov8n"), imgsz=100)


def test_fused_models_are_refused(family_model) -> None:
    model = build("yolov8n")
    with pytest.raises(UnsupportedModel, match=r"'model\.0' is fused with its BatchNorm; give the checkpoint"):
        build_graph(model.fuse(verbose=False), imgsz=IMGSZ)


def test_a_layer_used_twice_is_refused() -> None:
    model = build("yolov8n")
    model.model[4].m[1].cv1 = model.model[4].m[0].cv1
    with pytest.raises(UnsupportedModel, match="is used in two places"):
        build_graph(model, imgsz=IMGSZ)


class _Foreign(nn.Module):
    """A block that the graph has no rule for."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix channels in a way of its own."""
        return torch.sigmoid(self.mix(x)) * x


@pytest.mark.parametrize("change", ["foreign", "grouped", "activation"])
def test_what_the_graph_does_not_know_is_kept_whole_and_named(change: str) -> None:
    model = build("yolov8n")
    if change == "foreign":
        block = _Foreign(model.model[4].cv2.conv.out_channels)
        block.i, block.f = 4, -1
        model.model[4] = block
        phrase = "model.4 (_Foreign is not a block that the channel graph knows)"
    elif change == "grouped":
        conv = model.model[3].conv
        model.model[3].conv = nn.Conv2d(conv.in_channels, conv.out_channels, 3, 2, 1, groups=4, bias=False)
        phrase = "model.3.conv (grouped convolution)"
    else:
        model.model[3].act = nn.Sigmoid()
        phrase = "model.3 (activation Sigmoid has parameters or does not map 0 to 0)"
    graph = build_graph(model, imgsz=IMGSZ)
    assert any(phrase in note for note in graph.notes)
    params, ops = CostModel(graph).whole()
    assert (params, ops / 1e9) == count(model, IMGSZ)
    plan = make_plan(model, 0.3)
    model = model.double()
    images = torch.rand(2, 3, IMGSZ, IMGSZ)
    assert difference(raw(apply(model, plan), images), raw(mask(model, plan), images)) < SAME


def test_a_block_that_cannot_run_alone_is_refused() -> None:
    model = build("yolov8n")
    block = nn.Bilinear(3, 3, 3)
    block.i, block.f = 4, -1
    model.model[4] = block
    with pytest.raises(UnsupportedModel, match=r"'model.4' \(Bilinear\) is not a block.*use a model of the YOLOv8"):
        build_graph(model, imgsz=IMGSZ)
