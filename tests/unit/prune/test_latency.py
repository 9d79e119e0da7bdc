# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Latency targets on a runtime whose times are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch import nn

from tests.unit.prune.models import FAMILIES, IMGSZ
from yolo_compress.bench.layers import LayerSpec
from yolo_compress.errors import UsageError
from yolo_compress.prune import build_graph, prune
from yolo_compress.prune.latency import LayerTimes, coarsest, rewarded_step, spec_at, widths_measured
from yolo_compress.recipe import PruneSection


class Stairs:
    """Layer times in stairs of `step` output channels."""

    def __init__(self, step: int = 1) -> None:
        self.step, self.measured = step, set()

    def measure(self, specs, *, progress=None) -> None:
        self.measured |= set(specs)

    def __getitem__(self, spec: LayerSpec) -> float:
        assert spec in self.measured
        return self.at(spec)

    def at(self, spec: LayerSpec) -> float:
        outputs = math.ceil(spec.outputs / self.step) * self.step
        return spec.kernel**2 * spec.size[0] * spec.size[1] * (1 if spec.depthwise else spec.inputs) * outputs * 1e-9


class Runtime:
    """A model takes its layers' times and a fixed part that no pruning touches."""

    def __init__(self, graph, *, fixed: float, step: int = 1) -> None:
        self.table, self.graph = Stairs(step), graph
        self.fixed = fixed * sum(self.table.at(spec_at(c, len(c.inputs), len(c.outputs))) for c in graph.convolutions)
        self.asked: list[float] = []

    def ratio(self, model: nn.Module) -> float:
        narrow = build_graph(model, imgsz=IMGSZ)
        times = [
            sum(self.table.at(spec_at(c, len(c.inputs), len(c.outputs))) for c in g.convolutions) + self.fixed
            for g in (narrow, self.graph)
        ]
        self.asked.append(times[0] / times[1])
        return self.asked[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fixed", [0.0, 0.3])
def test_the_finished_model_meets_the_latency(family: str, fixed: float, family_model) -> None:
    model = family_model(family)
    runtime = Runtime(build_graph(model, imgsz=IMGSZ), fixed=fixed)
    config = PruneSection(latency=0.8, target="openvino:fp32", importance="l2", repair="nothing", round_to=2)
    result = prune(model, config=config, imgsz=IMGSZ, timing=runtime)
    assert runtime.ratio(result.model) == pytest.approx(0.8, rel=0.03)
    assert any(note.startswith("measured on openvino:fp32: 0.") for note in result.notes)


def test_a_latency_that_cannot_be_met_says_what_can(family_model) -> None:
    model = family_model("yolov8n")
    runtime = Runtime(build_graph(model, imgsz=IMGSZ), fixed=5.0)
    config = PruneSection(latency=0.5, target="openvino:fp32", importance="l2", repair="nothing", round_to=4)
    with pytest.raises(
        UsageError, match=r"latency=0\.5 cannot be met on openvino:fp32: the narrowest plan tried takes 0\."
    ):
        prune(model, config=config, imgsz=IMGSZ, timing=runtime)
    with pytest.raises(UsageError, match="needs a runtime to time on; give target="):
        prune(model, config=config, imgsz=IMGSZ)


def test_times_are_the_measured_ones_and_never_fall_with_width(family_model) -> None:
    graph = build_graph(family_model("yolo11n"), imgsz=IMGSZ)
    table = Stairs()
    times = LayerTimes(graph, table)
    inputs = np.array([len(c.inputs) for c in graph.convolutions])
    outputs = np.array([len(c.outputs) for c in graph.convolutions])
    whole = sum(table[spec_at(c, len(c.inputs), len(c.outputs))] for c in graph.convolutions)
    assert times(inputs, outputs) == pytest.approx(whole, rel=1e-5)
    generator = np.random.default_rng(0)
    for _ in range(50):
        narrower = [generator.integers(1, full + 1) for full in (inputs, outputs)]
        wider = [generator.integers(low, full + 1) for low, full in zip(narrower, (inputs, outputs), strict=True)]
        assert times(*narrower) <= times(*wider) * (1 + 1e-6)


@pytest.mark.parametrize("step", [8, 16, 32, 64])
def test_the_step_of_the_stairs_is_found(step: int) -> None:
    sweep = {width: math.ceil(width / step) * step * 1e-6 for width in range(128, 257, 8)}
    assert coarsest([sweep]) == step
    noisy = {width: t * (1 + 0.01 * ((width // 8) % 3 - 1)) for width, t in sweep.items()}
    assert coarsest([noisy, sweep]) == step


def test_the_step_is_found_on_a_model(family_model) -> None:
    graph = build_graph(family_model("yolov8n"), imgsz=IMGSZ)
    assert rewarded_step(graph, Stairs(1)) == 8


@pytest.mark.parametrize(("full", "movable"), [(256, True), (16, True), (3, True), (80, False)])
def test_measured_widths(full: int, movable: bool) -> None:
    widths = widths_measured(full, movable=movable)
    assert widths == sorted(set(widths))
    assert widths[-1] == full
    assert widths[0] >= 1
    assert (len(widths) > 1) == movable
