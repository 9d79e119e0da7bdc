# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A channel that sleeps is as good as pruned, in the model that trains and in its checkpoint."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.unit.prune.models import FAMILIES, IMGSZ, difference, make_plan, raw
from yolo_compress.errors import UsageError
from yolo_compress.prune import apply
from yolo_compress.prune.growing import Growing, _sleeping
from yolo_compress.recipe import GrowSection

SAME = 1e-9  # float64; sums in another order, on outputs of up to some hundreds


def begun(model: nn.Module, **options) -> tuple[Growing, nn.Module]:
    """Return an attachment on a copy of a model, and the copy."""
    model = deepcopy(model)
    trainer = SimpleNamespace(
        model=model,
        epochs=8,
        require_epochs=str,
        saved_state=lambda attachment: None,
        add_callback=lambda event, function: None,
    )
    growing = Growing(GrowSection(**options))
    assert growing.attach(trainer) is None
    return growing, model


@pytest.mark.parametrize("start", [0.25, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_sleeps_is_as_good_as_pruned(family, start, family_model):
    dense = family_model(family)
    growing, model = begun(dense, start=start)
    images = torch.rand(2, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(3))
    kept = ~_sleeping(growing._graph, growing._scores, start)
    plan = replace(make_plan(dense, 0.1), kept=kept)
    assert 0.9 * start < kept.mean() < 1
    assert difference(raw(model, images), raw(apply(dense, plan), images)) < SAME
    assert difference(raw(model, images), raw(dense, images)) > 0.1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), dense.parameters(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_computes_the_same_without_hooks_and_the_model_goes_on_as_it_was(family, family_model):
    growing, model = begun(family_model(family), start=0.5)
    images = torch.rand(2, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(3))
    expected, before = raw(model, images), deepcopy(model.state_dict())
    with growing.aside(model):
        assert not any(module._forward_hooks for module in model.modules())
        assert difference(raw(model, images), expected) < SAME
    assert difference(raw(model, images), expected) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_with_all_awake_nothing_differs(family, family_model):
    growing, model = begun(family_model(family), start=0.5)
    growing._set(model, 1.0)
    images = torch.rand(2, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(3))
    assert difference(raw(model, images), raw(family_model(family), images)) == 0


def test_no_gradient_reaches_what_sleeps(family_model):
    growing, model = begun(family_model("yolov8n"), start=0.5)
    images = torch.rand(2, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    model.train()
    found = model(images)
    sum(value.square().sum() for value in (found["boxes"], found["scores"])).backward()
    asleep = _sleeping(growing._graph, growing._scores, 0.5)
    modules = dict(model.named_modules())
    for conv in growing._graph.convolutions:
        rows = modules[conv.name].weight.grad[torch.from_numpy(asleep[conv.outputs])]
        assert not rows.any()
        if not conv.depthwise:
            assert not modules[conv.name].weight.grad[:, torch.from_numpy(asleep[conv.inputs])].any()
    assert all(p.grad.any() for name, p in model.named_parameters() if p.requires_grad and name.endswith("bn.weight"))


@settings(deadline=None, max_examples=50)
@given(st.floats(0.05, 0.95), st.integers(1, 6), st.floats(0.1, 1), st.integers(1, 60))
def test_channels_only_join_and_all_have_in_time(start, steps, window, epochs):
    growing = Growing(GrowSection(start=start, steps=steps, window=window))
    room = round(window * epochs)
    if room < steps:
        return
    shares = [growing.share_at(epoch, epochs) for epoch in range(epochs + 1)]
    assert shares[0] == start
    assert shares == sorted(shares)
    assert all(share == 1 for share in shares[room:])
    assert all(share < 1 for share in shares[:room])
    assert len({round(share, 9) for share in shares}) == steps + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_those_awake_at_a_share_are_awake_at_a_larger_one(family, family_model):
    growing, _ = begun(family_model(family), start=0.5)
    before = None
    for share in np.linspace(0, 1, 9):
        now = _sleeping(growing._graph, growing._scores, float(share))
        assert not now[list(growing._graph.frozen)].any()
        for group in growing._graph.groups:
            assert not now[group].all()
        assert before is None or not (now & ~before).any()
        before = now
    assert not now.any()


def test_steps_that_do_not_fit_are_refused(family_model):
    with pytest.raises(UsageError) as caught:
        begun(family_model("yolov8n"), steps=5, window=0.5)
    assert str(caught.value) == (
        "grow takes grow_steps=5 steps, and 8 epochs with grow_window=0.5 leave room for 4; give epochs=10 or more, or "
        "fewer grow_steps"
    )
