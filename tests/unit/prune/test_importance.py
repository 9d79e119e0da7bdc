# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Importance scores against derivatives taken another way."""

from __future__ import annotations

import typing
from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from tests.unit.prune.models import IMGSZ, build
from yolo_compress.errors import CompressError
from yolo_compress.host.detect import detection_loss
from yolo_compress.prune import IMPORTANCES, ChannelGraph, Inputs, build_graph, normalised
from yolo_compress.prune import gradient as module
from yolo_compress.recipe import PruneSection

EPS = 1e-5  # in float64: truncation about 1e-10, rounding about 1e-11


def silent(line: str) -> None:
    """Ignore progress."""


def _smooth_losses(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return a loss per image that is smooth: the targets of the detection loss move with the prediction."""
    found = model(images)[1]
    found = found.get("one2many", found)
    return found["scores"].tanh().square().sum((1, 2)) + (found["boxes"] * 0.1).sin().sum((1, 2))


@pytest.mark.parametrize("family", ["yolov8n", "yolo26n"])
def test_fisher_equals_numeric_derivatives_by_a_mask(family: str, labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(family).double().requires_grad_(False)
    batches = [{k: v.double() for k, v in batch.items()} for batch in labelled()]
    monkeypatch.setattr(module, "detection_loss", lambda m, batch: _smooth_losses(m, batch["img"]).sum())
    graph = build_graph(model, imgsz=IMGSZ)
    scores = IMPORTANCES["fisher"].function(model, graph, Inputs(labelled=lambda: batches), silent)
    images = torch.cat([batch["img"] for batch in batches])
    free = [c for c in range(graph.channels) if c not in graph.frozen]
    for channel in np.random.default_rng(0).choice(free, 10, replace=False).tolist():
        up, down = (_smooth_losses(_scaled(model, graph, channel, 1 + e), images) for e in (EPS, -EPS))
        expected = float(((up - down) / (2 * EPS)).square().sum()) / 2
        assert scores[channel] == pytest.approx(expected, rel=1e-4, abs=1e-12)


def _scaled(model: nn.Module, graph: ChannelGraph, channel: int, factor: float) -> nn.Module:
    """Scale the BatchNorm output of one channel wherever it lives."""
    scaled = deepcopy(model)
    modules = dict(scaled.named_modules())
    for norm in graph.norms:
        rows = torch.from_numpy(np.flatnonzero(norm.channels == channel))
        modules[norm.name].weight[rows] *= factor
        modules[norm.name].bias[rows] *= factor
    return scaled


@pytest.mark.parametrize("family", ["yolov8n", "yolo11n", "yolo26n"])
def test_fisher_on_the_detection_loss_equals_batchnorm_gradients(family: str, labelled, family_model) -> None:
    """For one image, the mask's derivative is g dL/dg + b dL/db, summed over the BatchNorms that carry a channel."""
    model = deepcopy(family_model(family)).float()
    graph = build_graph(model, imgsz=IMGSZ)
    batch = labelled()[1]
    assert len(batch["img"]) == 1
    scores = IMPORTANCES["fisher"].function(model, graph, Inputs(labelled=lambda: [batch]), silent)
    detection_loss(model, batch).backward()
    modules = dict(model.named_modules())
    sums = np.zeros(graph.channels)
    for norm in graph.norms:
        bn = modules[norm.name]
        np.add.at(sums, norm.channels, (bn.weight * bn.weight.grad + bn.bias * bn.bias.grad).detach().numpy())
    free = [c for c in range(graph.channels) if c not in graph.frozen]
    np.testing.assert_allclose(np.sqrt(2 * scores[free]), np.abs(sums[free]), rtol=1e-3, atol=1e-4 * np.abs(sums).max())
    assert scores[free].max() > 0


def test_l2_equals_loops(family_model) -> None:
    model = family_model("yolo11n")
    graph = build_graph(model, imgsz=IMGSZ)
    scores = IMPORTANCES["l2"].function(model, graph, Inputs(), silent)
    modules = dict(model.named_modules())
    for channel in (5, 40, 333, 701):
        total = 0.0
        for name, dimension, index in graph.slots()[channel]:
            conv = modules[name]
            if dimension == 0 and isinstance(conv, nn.Conv2d):
                total += conv.weight[index].detach().square().sum().item()
        assert scores[channel] == pytest.approx(total**0.5, rel=1e-5)


def test_an_importance_does_not_touch_the_model(importance: str, labelled) -> None:
    def images() -> list[np.ndarray]:
        return [batch["img"].numpy() for batch in labelled()]

    model = build("yolo26n")
    before, keys = deepcopy(model.state_dict()), set(vars(model))
    graph = build_graph(model, imgsz=IMGSZ)
    scores = IMPORTANCES[importance].function(model, graph, Inputs(labelled=labelled, images=images), silent)
    assert scores.shape == (graph.channels,)
    assert (scores >= 0).all()
    assert set(vars(model)) == keys
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_normalised_means_are_one(family_model) -> None:
    graph = build_graph(family_model("yolo11n"), imgsz=IMGSZ)
    scores = np.random.default_rng(0).uniform(0, 5, graph.channels)
    scores[graph.groups[0]] = 0
    result = normalised(scores, graph)
    assert all(result[group].mean() == pytest.approx(1) for group in graph.groups)
    assert (result[graph.groups[0]] == 1).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value: float, family_model) -> None:
    graph = build_graph(family_model("yolov8n"), imgsz=IMGSZ)
    scores = np.ones(graph.channels)
    scores[7] = value
    with pytest.raises(CompressError, match=r"importance scores are not finite.*use importance=l2"):
        normalised(scores, graph)


def test_the_registry_is_what_the_recipe_offers() -> None:
    offered = typing.get_args(PruneSection.model_fields["importance"].annotation)
    assert set(offered) == set(IMPORTANCES)
    for name, entry in IMPORTANCES.items():
        assert entry.name == name
        assert entry.description
        assert entry.function.__doc__


def test_hessian_diagonal_equals_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w, v = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((9, 5), (5, 4), (4, 1)))

    def loss(mask: torch.Tensor) -> torch.Tensor:
        return (torch.tanh((x * mask) @ w) @ v).square().sum()

    mask = torch.ones(5, dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.functional.hessian(loss, mask)
    found = module.hessian_diagonal(loss(mask), mask, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(found, exact.diagonal())
    signs = torch.randint(0, 2, (4000, 5), generator=generator).double() * 2 - 1
    estimate = module.hessian_diagonal(loss(mask), mask, signs) / len(signs)
    torch.testing.assert_close(estimate, exact.diagonal(), rtol=0, atol=0.1 * float(exact.abs().max()))


def test_taylor_is_the_absolute_sum_over_places_of_each_image(labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("yolov8n").double().requires_grad_(False)
    batches = [{k: v.double() for k, v in batch.items()} for batch in labelled()]
    monkeypatch.setattr(module, "detection_loss", lambda m, batch: _smooth_losses(m, batch["img"]).sum())
    graph = build_graph(model, imgsz=IMGSZ)
    scores = IMPORTANCES["taylor"].function(model, graph, Inputs(labelled=lambda: batches), silent)
    images = torch.cat([batch["img"] for batch in batches])
    free = [c for c in range(graph.channels) if c not in graph.frozen]
    for channel in np.random.default_rng(1).choice(free, 5, replace=False).tolist():
        up, down = (_smooth_losses(_scaled(model, graph, channel, 1 + e), images) for e in (EPS, -EPS))
        assert scores[channel] == pytest.approx(float(((up - down) / (2 * EPS)).abs().sum()), rel=1e-4, abs=1e-12)


def test_hessian_scores_equal_numeric_second_derivatives(labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a unit vector for signs, a score is half the second derivative by that one mask."""
    model = build("yolo11n").double().requires_grad_(False)
    batch = {k: v.double() for k, v in labelled()[1].items()}
    graph = build_graph(model, imgsz=IMGSZ)
    masked = module.Masked(model, graph)
    free = [c for c in range(graph.channels) if c not in graph.frozen]
    some = np.random.default_rng(0).choice(free, 4, replace=False).tolist()
    mask = masked.fresh(1)
    probes = torch.eye(graph.channels, dtype=torch.float64)[some][:, None]
    found = module.hessian_diagonal(_smooth_losses(masked.model, batch["img"]).sum(), mask, probes)[0]
    step = 1e-3
    for channel in some:
        low, middle, high = (
            _smooth_losses(_scaled(model, graph, channel, 1 + e), batch["img"]).sum() for e in (-step, 0, step)
        )
        assert float(found[channel]) == pytest.approx(float((low - 2 * middle + high) / step**2), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["l1", "bn_scale", "fpgm", "lamp"])
def test_weight_scores_equal_loops(name: str, family_model) -> None:
    model = family_model("yolo11n")
    graph = build_graph(model, imgsz=IMGSZ)
    scores = IMPORTANCES[name].function(model, graph, Inputs(), silent)
    modules = dict(model.named_modules())
    owner = {int(c): group for group in graph.groups for c in group}

    def measure(channel: int, kind: str) -> float:
        total = 0.0
        for place, dimension, index in graph.slots()[channel]:
            layer = modules[place]
            if dimension == 0 and isinstance(layer, nn.BatchNorm2d) and kind == "bn_scale":
                total += abs(layer.weight[index].item())
            if dimension == 0 and isinstance(layer, nn.Conv2d) and kind != "bn_scale":
                filters = layer.weight.detach().flatten(1)
                total += {
                    "l1": lambda f=filters, i=index: f[i].abs().sum().item(),
                    "fpgm": lambda f=filters, i=index: sum((f[i] - other).norm().item() for other in f),
                    "square": lambda f=filters, i=index: f[i].square().sum().item(),
                }[kind]()
        return total

    for channel in (5, 40, 333, 701):
        if name == "lamp":
            squares = {int(c): measure(int(c), "square") for c in owner[channel]}
            larger = sum(value for value in squares.values() if value >= squares[channel])
            assert scores[channel] == pytest.approx(squares[channel] / larger, rel=1e-6)
        else:
            assert scores[channel] == pytest.approx(measure(channel, name), rel=1e-6)


def test_random_repeats_by_seed(family_model) -> None:
    graph = build_graph(family_model("yolov8n"), imgsz=IMGSZ)
    one, same, other = (
        IMPORTANCES["random"].function(family_model("yolov8n"), graph, Inputs(seed=s), silent) for s in (0, 0, 1)
    )
    assert (one == same).all()
    assert (one != other).any()
    assert (one > 0).all()


def test_additive_scores_keep_their_proportions_across_groups(family_model) -> None:
    graph = build_graph(family_model("yolo11n"), imgsz=IMGSZ)
    scores = np.random.default_rng(0).uniform(0.1, 5, graph.channels)
    result = normalised(scores, graph, additive=True)
    free = np.array([c for c in range(graph.channels) if c not in graph.frozen])
    assert result[free].mean() == pytest.approx(1)
    np.testing.assert_allclose(result[free] / result[free[0]], scores[free] / scores[free[0]])


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_scores_rank_channels_as_their_removal_does(name: str, labelled) -> None:
    """Each channel is zeroed in turn and the loss of each image measured: what a first-order score stands for."""
    model = build("yolov8n").requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:  # channels that matter by orders of magnitude more than others, as in a trained model
        scale = 10 ** (2 * torch.rand(len(norm.weight), generator=generator) - 2)
        norm.weight.mul_(scale)
        norm.bias.mul_(scale)
        norm.momentum = 1.0
    model.train()
    model(torch.cat([batch["img"] for batch in labelled()]))
    for norm in norms:
        norm.momentum = 0.03
    model.eval()
    graph = build_graph(model, imgsz=IMGSZ)
    batches = [batch for batch in labelled() if len(batch["img"]) == 1]
    assert batches
    scores = IMPORTANCES[name].function(model, graph, Inputs(labelled=lambda: batches), silent)
    free = [c for c in range(graph.channels) if c not in graph.frozen]
    some = np.random.default_rng(0).choice(free, 80, replace=False).tolist()
    full = [float(detection_loss(model, batch)) for batch in batches]
    measured = []
    for channel in some:
        without = _scaled(model, graph, channel, 0.0)
        changes = [float(detection_loss(without, b)) - before for b, before in zip(batches, full, strict=True)]
        measured.append(sum(abs(c) if name == "taylor" else c**2 / 2 for c in changes))
    assert spearmanr(scores[some], measured).statistic > 0.9
