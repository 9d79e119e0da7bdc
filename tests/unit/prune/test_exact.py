# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The pruned model against the masked dense one, against an unfolded one, and against itself when nothing is pruned."""

from __future__ import annotations

import io
import pickletools
import zipfile
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.prune.models import FAMILIES, IMGSZ, build, difference, make_plan, raw, with_heads
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host.checkpoint import count, load_model, save_model
from yolo_compress.host.ultralytics import C2PSA, Attention, C2f, C3k2
from yolo_compress.prune import IMPORTANCES, apply, mask, prune, unfold
from yolo_compress.recipe import PruneSection

SAME = 1e-9  # float64; sums in another order, on outputs of up to some hundreds
SHARES = (0.1, 0.3, 0.5)


@pytest.fixture
def images() -> torch.Tensor:
    """Give two random images."""
    return torch.rand(2, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_equals_masked(family: str, share: float, family_model, images: torch.Tensor) -> None:
    model = family_model(family)
    plan = make_plan(model, share, scope="global" if share == 0.3 else "local")
    pruned, dense = raw(apply(model, plan), images), raw(model, images)
    assert set(pruned) == {f"{b}.{k}" for b in _branches(family) for k in ("boxes", "scores")}
    assert difference(pruned, raw(mask(model, plan), images)) < SAME
    assert difference(pruned, dense) > 0.1  # pruning did something


def _branches(family: str) -> tuple[str, ...]:
    return ("one2many", "one2one") if family == "yolo26n" else ("one2many",)


@pytest.mark.parametrize("family", ["yolo11n", "yolo26n"])
def test_attention_heads_go_whole(family: str, images: torch.Tensor) -> None:
    model = with_heads(build(family), 4).double()
    heads = [m.num_heads for m in model.modules() if isinstance(m, Attention)]
    assert set(heads) == {4}
    plan = make_plan(model, 0.4)
    pruned = apply(model, plan)
    assert difference(raw(pruned, images), raw(mask(model, plan), images)) < SAME
    assert difference(raw(pruned, images), raw(unfold(model, plan), images)) < SAME
    assert count(pruned, IMGSZ) == (plan.params_after, plan.ops_after / 1e9)
    for attention in (m for m in pruned.modules() if isinstance(m, Attention)):
        assert attention.num_heads < 4
        per_head = 2 * attention.key_dim + attention.head_dim
        assert attention.qkv.conv.out_channels == attention.num_heads * per_head
        assert attention.proj.conv.in_channels == attention.num_heads * attention.head_dim
    names = {name for name, m in model.named_modules() if isinstance(m, Attention)}
    for name in names:  # whole heads: a query, its key and its value stay or go together
        qkv = next(c for c in plan.graph.convolutions if c.name == f"{name}.qkv.conv")
        by_head = plan.kept[qkv.outputs].reshape(4, -1)
        assert (by_head.all(1) == by_head.any(1)).all()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("family", FAMILIES)
def test_folded_equals_unfolded(family: str, share: float, family_model, images: torch.Tensor) -> None:
    model = family_model(family)
    plan = make_plan(model, share)
    unfolded = unfold(model, plan)
    assert not any(isinstance(m, C2f | C3k2 | C2PSA) for m in unfolded.modules())
    assert difference(raw(apply(model, plan), images), raw(unfolded, images)) < SAME


def test_the_masked_oracle_sees_one_wrong_channel(family_model, images: torch.Tensor) -> None:
    """Surgery that keeps another channel than planned must show."""
    model = family_model("yolo11n")
    plan = make_plan(model, 0.3)
    unit = next(u for u in plan.graph.units if not plan.kept[plan.graph.groups[u[0]]].all())
    members = plan.graph.groups[unit[0]]
    wrong = plan.kept.copy()
    wrong[members[plan.kept[members]][0]], wrong[members[~plan.kept[members]][0]] = False, True
    assert difference(raw(apply(model, replace(plan, kept=wrong)), images), raw(mask(model, plan), images)) > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stated_half_width_follows(family: str, family_model, images: torch.Tensor) -> None:
    pruned = apply(family_model(family), make_plan(family_model(family), 0.3))
    for block in pruned.modules():
        if isinstance(block, C2f | C2PSA):
            assert block.cv1.conv.out_channels == 2 * block.c
        if isinstance(block, C2f):
            x = torch.rand(1, block.cv1.conv.in_channels, 4, 4, dtype=torch.float64)
            assert torch.equal(block.forward_split(x), block(x))
    for layer in pruned.model:
        assert layer.np == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_pruned_is_bit_identical(family: str, family_model, images: torch.Tensor) -> None:
    model = family_model(family)
    plan = make_plan(model, 0.3)
    same = apply(model, replace(plan, kept=np.ones_like(plan.kept)))
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), model.state_dict().values(), strict=True))
    assert difference(raw(same, images), raw(model, images)) == 0


def _config(importance: str = "l2", **settings) -> PruneSection:
    return PruneSection(**({"ratio": 0.3, "scope": "local"} | settings), importance=importance)


def _images():
    generator = np.random.default_rng(0)
    return [generator.random((n, 3, IMGSZ, IMGSZ), dtype=np.float32) for n in (3, 2)]


def test_the_model_given_is_left_alone_and_the_result_repeats(importance: str, labelled) -> None:
    model = build(FAMILIES[sorted(IMPORTANCES).index(importance) % len(FAMILIES)]).train()
    before = deepcopy(model.state_dict())
    keys = set(vars(model))
    results = [
        prune(model, config=_config(importance), imgsz=IMGSZ, loss_batches=labelled, image_batches=_images)
        for _ in range(2)
    ]
    assert model.training
    assert set(vars(model)) == keys
    assert all(p.grad is None and p.requires_grad == (".dfl." not in n) for n, p in model.named_parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks for r in [model, results[0].model] for m in r.modules())
    one, other = (r.model.state_dict() for r in results)
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert not results[0].model.training


@pytest.mark.parametrize("family", FAMILIES)
def test_predicted_costs_are_the_counted_ones(family: str, family_model) -> None:
    result = prune(family_model(family), config=_config(repair="nothing"), imgsz=IMGSZ)
    assert (result.params_after, result.gflops_after) == count(result.model, IMGSZ)
    assert (result.params_before, result.gflops_before) == count(family_model(family), IMGSZ)
    assert sum(row.params_before for row in result.layers) <= result.params_before
    before, after = (sum(getattr(row, k) for row in result.layers) for k in ("params_before", "params_after"))
    assert before - after == result.params_before - result.params_after
    assert result.params_after / result.params_before == pytest.approx(0.7, abs=0.009)


def test_facts_are_builtin_and_rows_say_why(family_model) -> None:
    result = prune(family_model("yolo11n"), config=_config(repair="nothing", keep=("model.0",)), imgsz=IMGSZ)
    _assert_builtin(result.facts())
    assert result.facts()["settings"]["ratio"] == 0.3
    again = prune(family_model("yolo11n"), config=_config(repair="nothing", keep=("model.0",)), imgsz=IMGSZ)
    assert again.facts() == result.facts()
    rows = {row.name: row for row in result.layers}
    assert rows["model.0"].why == "named in keep=model.0"
    assert rows["model.0"].width_before == rows["model.0"].width_after
    assert rows["model.10.m.0.attn.qkv"].why == "attention with a single head"
    assert rows["model.10.cv1"].why == "as wide as the other half of its block: attention with a single head"
    pruned = [row for row in result.layers if row.why == "pruned"]
    assert len(pruned) > 30
    assert all(row.width_after < row.width_before and 0 < row.score_kept_share < 1 for row in pruned)
    assert all(row.width_after == row.width_before for row in result.layers if row.why != "pruned")


def _assert_builtin(value) -> None:
    assert type(value) in {dict, list, str, int, float, bool, type(None)}, type(value)
    for item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        for part in item:
            _assert_builtin(part)


def test_types_and_flags_of_parameters_stay() -> None:
    model = build("yolov8n").double()
    model.model[0].conv.weight.requires_grad = False
    pruned = apply(model, make_plan(model, 0.3))
    flags = {name: p.requires_grad for name, p in pruned.named_parameters()}
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}
    assert {p.dtype for p in pruned.parameters()} == {torch.float64}


def test_pruning_twice(family_model, images: torch.Tensor) -> None:
    model = family_model("yolo26n")
    once = apply(model, make_plan(model, 0.3))
    plan = make_plan(once, 0.3)
    twice = apply(once, plan)
    assert difference(raw(twice, images), raw(mask(once, plan), images)) < SAME
    assert count(twice, IMGSZ)[0] == plan.params_after


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pickle_names_stock_classes_only(family: str, family_model, tmp_path) -> None:
    model = family_model(family)
    result = prune(model, config=_config(repair="nothing"), imgsz=IMGSZ)
    buffer = io.BytesIO()
    torch.save(result.model, buffer)
    modules = _pickled_modules(buffer.getvalue())
    assert "ultralytics" in modules
    assert modules <= {"ultralytics", "torch", "collections", "__builtin__", "builtins"}
    path = tmp_path / "pruned.pt"
    save_model(result.model, path, facts={"prune": result.facts()})
    loaded = load_model(path)
    assert {k: v.shape for k, v in loaded.state_dict().items()} == {
        k: v.shape for k, v in result.model.state_dict().items()
    }
    x = torch.rand(1, 3, IMGSZ, IMGSZ)
    halved = deepcopy(result.model).float().half().float()
    assert difference(raw(loaded, x), raw(halved, x)) == 0


def _pickled_modules(content: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        stream = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    found = [argument for opcode, argument, _ in pickletools.genops(stream) if opcode.name == "GLOBAL"]
    assert not any(opcode.name == "STACK_GLOBAL" for opcode, _, _ in pickletools.genops(stream))
    return {str(argument).split(".")[0].split(" ")[0] for argument in found}


def test_what_is_missing_is_said_before_any_work(family_model) -> None:
    model = family_model("yolov8n")
    with pytest.raises(UsageError, match="importance=taylor needs labelled images; give data=, or importance=l2"):
        prune(model, config=_config("taylor"), imgsz=IMGSZ, image_batches=_images)
    with pytest.raises(UsageError, match="importance=output needs images; give data=, or importance=l2"):
        prune(model, config=_config("output"), imgsz=IMGSZ)
    with pytest.raises(UsageError, match="repair=reconstruct needs images; give data=, or repair=nothing"):
        prune(model, config=_config(), imgsz=IMGSZ)
    with pytest.raises(UsageError, match=r"ratio=0.97 cannot be reached"):  # before the first batch is asked for
        prune(model, config=_config("taylor", ratio=0.97), imgsz=IMGSZ, loss_batches=_never, image_batches=_never)
    with pytest.raises(DataError, match="importance=taylor got no labelled image"):
        prune(model, config=_config("taylor"), imgsz=IMGSZ, loss_batches=list, image_batches=_images)


def _never():
    raise AssertionError("asked for images")
