# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Steps of removal: what they measure against surgery, what they take first, and where they end."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.prune.models import FAMILIES, IMGSZ, build
from yolo_compress.bench.response import OutputWeights, distance
from yolo_compress.errors import CompressError
from yolo_compress.host.detect import responses
from yolo_compress.prune import Inputs, Target, Widths, allocate, apply, build_graph, prune
from yolo_compress.prune.allocation import full_widths, plan_at
from yolo_compress.prune.greedy import Work, removal_steps
from yolo_compress.prune.obs import statistics
from yolo_compress.recipe import PruneSection

WIDTHS = Widths(2, 0.7)
TARGET = Target("flops", 0.2)


def silent(line: str) -> None:
    """Ignore progress."""


def inputs() -> Inputs:
    """Give three batches of four random images, the same each time."""
    images = torch.rand(3, 4, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(2)).numpy()
    return Inputs(images=lambda: list(images))


def _work(model: nn.Module) -> tuple[Work, torch.Tensor]:
    twin = deepcopy(model).eval().requires_grad_(False)
    graph = build_graph(twin, imgsz=IMGSZ)
    found, images = statistics(twin, graph, inputs(), silent)
    with torch.no_grad():
        return Work(twin, graph, found, images, inputs()), images


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_step_measures_is_what_surgery_leaves(family: str) -> None:
    model = build(family).double()
    work, images = _work(model)
    with torch.no_grad():
        current = full_widths(work.graph)
        for unit in (work.units[1], work.units[-1], work.units[1]):  # the last goes on where the first left it
            step = work.judge(unit, int(current[unit]) - 2, int(current[unit]))
            work.take(step)
            current[unit] = step.width
        scores = np.ones(work.graph.channels)
        for group, gone in work.gone.items():
            scores[work.graph.groups[group][gone]] = 0
        pruned = apply(work.model, plan_at(work.graph, current, scores=scores))
        after = float(distance(responses(model, images), responses(pruned, images), OutputWeights()).mean())
    assert after == pytest.approx(step.change, rel=1e-6)
    assert after > 0


def test_judging_leaves_no_trace() -> None:
    work, _ = _work(build("yolov8n").double())
    with torch.no_grad():
        before = {key: value.clone() for key, value in work.model.state_dict().items()}
        first = work.judge(work.units[3], 4, 8)
        work.judge(work.units[5], 4, 8)
        assert all(torch.equal(value, before[key]) for key, value in work.model.state_dict().items())
        assert work.judge(work.units[3], 4, 8).change == first.change


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_cut_at_the_target_meet_it_with_allowed_widths(family: str) -> None:
    model = build(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = build_graph(model, imgsz=IMGSZ)
    steps, alone = removal_steps(model, graph, inputs(), target=TARGET, widths=WIDTHS, progress=silent)
    again, _ = removal_steps(model, graph, inputs(), target=TARGET, widths=WIDTHS, progress=silent)
    assert (steps == again).all()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert (alone >= 0).all()
    assert 1 <= steps.min() < steps.max()
    plan = allocate(graph, steps, target=TARGET, widths=WIDTHS, scope="steps")
    assert 1 - plan.ops_after / plan.ops_before == pytest.approx(TARGET.share, rel=0.03)
    for unit in graph.units:
        members = [graph.groups[group] for group in unit]
        width = {int((steps[group] == steps.max()).sum()) for group in members}
        assert len(width) == 1
        if not graph.together(unit) > 1:
            assert width <= set(WIDTHS.allowed(len(members[0])).tolist())


def test_channels_that_nobody_listens_to_go_first() -> None:
    model = build("yolov8n")
    conv = model.model[6].m[0].cv2.conv
    with torch.no_grad():
        conv.weight[:, 2:6] = 0  # of what cv1 makes
    graph = build_graph(model, imgsz=IMGSZ)
    steps, _ = removal_steps(model, graph, inputs(), target=TARGET, widths=WIDTHS, progress=silent)
    made = next(c for c in graph.convolutions if c.name == "model.6.m.0.cv1.conv").outputs
    others = np.delete(steps[made], [2, 3, 4, 5])
    assert steps[made][2:6].max() <= others.min()
    assert (steps[made][2:6] < steps.max()).all()


def test_a_model_whose_detections_are_not_finite_is_refused() -> None:
    model = build("yolov8n")
    with torch.no_grad():
        model.model[2].cv1.conv.weight[0] = torch.nan
    config = PruneSection(flops=0.2)
    with pytest.raises(CompressError, match=r"not finite.*use importance=l2"):
        prune(model, config=config, imgsz=IMGSZ, image_batches=inputs().images)
