# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Blocks that go whole: against the model whose branches are silenced, and as a part of pruning."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.prune.models import FAMILIES, IMGSZ, build, difference, raw
from yolo_compress.errors import UsageError
from yolo_compress.host.checkpoint import count, load_model, save_model
from yolo_compress.host.ultralytics import YOLO, Bottleneck, PSABlock
from yolo_compress.prune import build_graph, prune, residual_blocks, without
from yolo_compress.recipe import PruneSection

SAME = 1e-9  # float64; filters are added up in another order


def _silenced(model: nn.Module, names: list[str]) -> nn.Module:
    """Set the last BatchNorm of every branch to zero: the oracle, which changes no structure."""
    for name in names:
        block = model.get_submodule(name)
        ends = [block.cv2] if isinstance(block, Bottleneck) else [block.attn.proj, block.ffn[1]]
        assert isinstance(block, Bottleneck | PSABlock)
        for end in ends:
            end.bn.weight.data.zero_()
            end.bn.bias.data.zero_()
    return model


def _images(sizes: tuple[int, ...] = (3, 2)) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.random((n, 3, IMGSZ, IMGSZ), dtype=np.float32) for n in sizes]


def _deep(family: str) -> nn.Module:
    """Build a family with two or three repeats per stage, so that several blocks of one list can go."""
    from tests.tiny import tiny_yaml
    from tests.unit.prune.models import lively
    from yolo_compress.host.ultralytics import DetectionModel

    tree = tiny_yaml(family)
    tree["scales"] = {"n": [1.0, *tree["scales"]["n"][1:]]}
    torch.manual_seed(0)
    return lively(DetectionModel(tree, verbose=False)).double()


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_block_equals_a_silent_block(family: str) -> None:
    model = _deep(family)
    names = residual_blocks(model)
    assert len(names) >= 6
    images = torch.rand(2, 3, IMGSZ, IMGSZ)
    dense = raw(model, images)
    for chosen in (names[:1], names[-1:], names[::2], names[1::3], names):
        shorter = without(model, chosen).model
        found = raw(shorter, images)
        assert difference(found, raw(_silenced(_deep(family), chosen), images)) < SAME
        assert difference(found, dense) > 1e-3
        graph = build_graph(shorter, imgsz=IMGSZ)  # what is left is still a model that the graph knows
        assert sum(p.numel() for p in shorter.parameters()) < sum(p.numel() for p in model.parameters())
        assert len(graph.convolutions) < len(build_graph(model, imgsz=IMGSZ).convolutions)
    assert difference(raw(without(model, []).model, images), dense) == 0


def test_names_of_what_is_left_lead_back() -> None:
    model = _deep("yolov8n")
    first = next(name for name in residual_blocks(model) if name.endswith(".0"))
    shorter = without(model, [first])
    assert shorter.origin[f"{first}.cv1.conv"] == f"{first.removesuffix('0')}1.cv1.conv"
    for name, module in shorter.model.named_modules():
        before = model.get_submodule(shorter.origin[name])
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.running_mean, before.running_mean)


def test_only_identities_can_go() -> None:
    names = residual_blocks(build("yolov8n"))
    assert names == [f"model.{i}" for i in ("2.m.0", "4.m.0", "4.m.1", "6.m.0", "6.m.1", "8.m.0")]
    assert residual_blocks(build("yolov8n"), keep=("model.4", "model.2.m.0.cv1")) == [
        name for name in names if not name.startswith("model.4.")
    ]
    inner = residual_blocks(build("yolo26n"))
    assert {"model.10.m.0", "model.22.m.0.0", "model.22.m.0.1"} <= set(inner)


def _config(**settings) -> PruneSection:
    return PruneSection(**{"importance": "l2", "repair": "batchnorm", **settings})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_block_that_goes_is_the_one_that_matters_least(family: str) -> None:
    model = build(family).float()
    names = residual_blocks(model)
    model = _silenced(model, names[2:3])  # it does nothing, so that nothing is lost without it
    result = prune(model, config=_config(blocks=1), imgsz=IMGSZ, image_batches=_images)
    assert [row.name for row in result.blocks] == names[2:3]
    assert result.blocks[0].output_change == pytest.approx(0, abs=1e-6)
    assert result.params_before - result.params_after == result.blocks[0].params
    assert (result.params_after, result.gflops_after) == count(result.model, IMGSZ)
    assert (result.params_before, result.gflops_before) == count(model, IMGSZ)
    assert result.facts()["blocks"][0]["name"] == names[2]


@pytest.mark.parametrize("repair", ["reconstruct", "batchnorm", "nothing"])
@pytest.mark.parametrize("kind", ["ratio", "flops"])
def test_channels_make_up_the_rest_of_the_target(kind: str, repair: str, tmp_path) -> None:
    model = build("yolov8n").float()
    config = _config(blocks=2, repair=repair, round_to=2, keep=("model.4.m.1", "model.0"), **{kind: 0.4})
    result = prune(model, config=config, imgsz=IMGSZ, image_batches=_images)
    before, after = (count(m, IMGSZ)[0 if kind == "ratio" else 1] for m in (model, result.model))
    assert 1 - after / before == pytest.approx(0.4, rel=0.03)
    assert len(result.blocks) == 2
    rows = {row.name: row for row in result.layers}
    for kept in ("model.4.m.1.cv2", "model.0"):  # by the name that it had, wherever it stands now
        assert rows[kept].width_after == rows[kept].width_before
    assert not {row.name.rpartition(".")[0] for row in result.layers} & {row.name for row in result.blocks}
    save_model(result.model, tmp_path / "short.pt")
    again = load_model(tmp_path / "short.pt")
    assert count(again, IMGSZ) == count(result.model, IMGSZ)
    found = YOLO(str(tmp_path / "short.pt")).predict(np.zeros((IMGSZ, IMGSZ, 3), np.uint8), verbose=False, imgsz=IMGSZ)
    assert len(found) == 1


def test_reconstruction_repairs_what_a_block_left() -> None:
    model = build("yolov8n", width=0.25).float()
    images = torch.cat([torch.from_numpy(b) for b in _images((8, 8))])
    wanted = raw(model, images)
    errors = {}
    for repair in ("nothing", "reconstruct"):
        result = prune(
            model, config=_config(blocks=1, repair=repair), imgsz=IMGSZ, image_batches=lambda: _images((8, 8))
        )
        found = raw(result.model, images)
        errors[repair] = sum(float((found[key] - wanted[key]).square().mean()) for key in wanted)
    assert errors["reconstruct"] < 0.5 * errors["nothing"]


def test_what_cannot_be_is_said() -> None:
    model = build("yolov8n").float()
    with pytest.raises(UsageError, match=r"blocks=7: this model has 6 residual blocks to take \(model.2.m.0.*or less"):
        prune(model, config=_config(blocks=7), imgsz=IMGSZ, image_batches=_images)
    with pytest.raises(UsageError, match=r"blocks=1 needs images to tell which ones; give data="):
        prune(model, config=_config(blocks=1, repair="nothing"), imgsz=IMGSZ)
    with pytest.raises(UsageError, match=r"blocks=4 alone leads to 0\.\d+ of the cost, past flops=0.01; give blocks=0"):
        prune(model, config=_config(blocks=4, flops=0.01), imgsz=IMGSZ, image_batches=_images)


def test_a_latency_target_counts_what_blocks_saved() -> None:
    class Clock:
        """Time in proportion to parameters, of each layer and of the model."""

        def __init__(self, model: nn.Module) -> None:
            self.whole = sum(p.numel() for p in model.parameters())

        def profile(self, model: nn.Module, layers) -> dict[str, float]:
            return {name: 1e-6 * sum(p.numel() for p in model.get_submodule(name).parameters()) for name in layers}

        def ratio(self, model: nn.Module) -> float:
            return sum(p.numel() for p in model.parameters()) / self.whole

    model = build("yolov8n").float()
    clock = Clock(model)
    config = _config(blocks=2, latency=0.7, target="openvino:fp32", repair="nothing", round_to=2)
    result = prune(model, config=config, imgsz=IMGSZ, image_batches=_images, timing=clock)
    assert clock.ratio(result.model) == pytest.approx(0.7, rel=0.03)
    assert result.latency == pytest.approx(clock.ratio(result.model))
    saved = list(itertools.accumulate(row.params for row in result.blocks))
    assert [row.saving for row in result.blocks] == pytest.approx([s / clock.whole for s in saved])
