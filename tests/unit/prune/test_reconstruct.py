# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Closed-form reconstruction: exact where it can be, better than doing nothing where it cannot."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.prune.models import FAMILIES, IMGSZ, build, difference, make_plan, raw
from yolo_compress.errors import DataError
from yolo_compress.prune import Inputs, apply, mask_weights_, reconstruct_
from yolo_compress.prune.reconstruct import Regression, conjugate_gradients
from yolo_compress.recipe import PruneSection


def _images(seed: int = 0, count: int = 12) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.random((4, 3, IMGSZ, IMGSZ), dtype=np.float32) for _ in range(count // 4)]


def test_fit_equals_a_library_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 300, 6, generator=generator) + 2
    y = x @ torch.randn(6, 3, generator=generator) + torch.randn(1, 300, 3, generator=generator) - 5
    regression = Regression(torch.zeros(1, 3, 6))
    for part in (slice(None, 100), slice(100, None)):
        regression.add(x[:, part], y[:, part])
    weight, offset = regression.solve(0.0)
    design = np.column_stack([x[0].numpy(), np.ones(300)])
    expected = np.linalg.lstsq(design, y[0].numpy(), rcond=None)[0]
    np.testing.assert_allclose(weight[0].numpy(), expected[:6].T, atol=1e-4)
    np.testing.assert_allclose(offset[0].numpy(), expected[6], atol=1e-4)


def test_a_strong_ridge_keeps_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, start = (torch.randn(*shape, generator=generator) for shape in ((2, 50, 4), (2, 50, 3), (2, 3, 4)))
    regression = Regression(start)
    regression.add(x, y)
    weight, offset = regression.solve(1e8)
    torch.testing.assert_close(weight, start, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(offset, (y - x @ start.transpose(1, 2)).mean(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_removed_changes_nothing(family: str) -> None:
    model = build(family)
    plan = make_plan(model, 0.3)
    whole = replace(plan, kept=np.ones_like(plan.kept))
    same = apply(model, whole)
    assert reconstruct_(same, model, whole, _images()) == 12
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_channel_that_others_hold_is_made_up_for(family: str) -> None:
    """Remove one of two identical channels: everything that reads it can be repaired without loss."""
    model = build(family)
    plan = make_plan(model, 0.3)
    conv = next(c for c in plan.graph.convolutions if c.layer == "model.3")
    module = model.get_submodule(conv.name)
    norm = model.get_submodule(conv.norm)
    with torch.no_grad():
        module.weight[5] = module.weight[2]
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name)[5] = getattr(norm, name)[2]
    kept = np.ones_like(plan.kept)
    kept[conv.outputs[5]] = False
    removed = replace(plan, kept=kept)
    x = torch.from_numpy(_images(seed=9)[0])
    broken = apply(model, removed).eval()
    before = difference(raw(broken, x), raw(model, x))
    reconstruct_(broken, model, removed, _images(count=32), positions=200, ridge=1e-7)
    assert difference(raw(broken, x), raw(model, x)) < 0.1 * before


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_comes_nearer_and_the_result_repeats(family: str) -> None:
    model = build(family).train()
    plan = make_plan(model, 0.2)
    x = torch.from_numpy(
        _images(count=64)[0]
    )  # noise has no more in common than its moments: only what was seen counts
    pruned = [apply(model, plan) for _ in range(2)]
    model.eval()
    before = _mean_error(pruned[0].eval(), model, x)
    for one in pruned:
        reconstruct_(one, model, plan, _images(count=64))
    assert _mean_error(pruned[0], model, x) < 0.8 * before
    one, other = (m.state_dict() for m in pruned)
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert not any(m._forward_hooks for r in [model, *pruned] for m in r.modules())
    assert {p.dtype for p in pruned[0].parameters()} == {torch.float32}


def _mean_error(one, other, x: torch.Tensor) -> float:
    a, b = raw(one, x), raw(other, x)
    return float(np.mean([float((a[key] - b[key]).square().mean()) for key in a]))


def test_no_images() -> None:
    model = build("yolov8n")
    plan = make_plan(model, 0.2)
    with pytest.raises(
        DataError, match="reconstruction got no image; give a data YAML with train images, or repair=nothing"
    ):
        reconstruct_(apply(model, plan), model, plan, [])


def test_conjugate_gradients_equal_a_solve_on_each_support() -> None:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(2, 40, 12, generator=generator, dtype=torch.float64)
    left = factor.transpose(1, 2) @ factor / 40 + 0.1 * torch.eye(12, dtype=torch.float64)
    right = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 5, 12, generator=generator) > 0.4
    found = conjugate_gradients(left, right, mask)
    for r in range(2):
        for o in range(5):
            kept = mask[r, o].nonzero().flatten()
            expected = torch.zeros(12, dtype=torch.float64)
            expected[kept] = torch.linalg.solve(left[r][kept][:, kept], right[r, o, kept])
            torch.testing.assert_close(found[r, o], expected, rtol=1e-5, atol=1e-7)


def test_masked_filters_are_repaired_on_their_support() -> None:
    model = build("yolo11n")
    generator = np.random.default_rng(0)
    images = [generator.random((8, 3, 64, 64), dtype=np.float32) for _ in range(2)]
    batch = torch.from_numpy(np.concatenate(images))
    wanted, errors = raw(model, batch), {}
    for repair in ("nothing", "reconstruct"):
        masked = deepcopy(model)
        config = PruneSection(mask="unstructured", mask_share=0.4, repair=repair)
        masks, notes = mask_weights_(masked, config, Inputs(images=lambda: images), imgsz=64)
        assert len(notes) == 1
        assert all(not masked.get_parameter(name)[~kept].any() for name, kept in masks.items())
        found = raw(masked, batch)
        errors[repair] = sum(float((found[key] - wanted[key]).square().mean()) for key in wanted)
    assert errors["reconstruct"] < 0.5 * errors["nothing"]
