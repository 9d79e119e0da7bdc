# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Widths: what is allowed, what is chosen, and what cannot be reached."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.prune.models import FAMILIES, IMGSZ, make_plan
from yolo_compress.errors import UsageError
from yolo_compress.host.ultralytics import DetectionModel
from yolo_compress.prune import Target, Widths, allocate, build_graph, check_reachable, normalised
from yolo_compress.prune.allocation import change_curve

NEAR = 0.03  # share of the target


@pytest.mark.parametrize(
    ("width", "round_to", "max_share", "expected"),
    [
        (16, 8, 0.7, [16, 12, 8]),
        (8, 8, 0.7, [8, 4]),
        (32, 8, 0.7, [32, 24, 16]),
        (64, 8, 0.5, [64, 56, 48, 40, 32]),
        (20, 8, 0.9, [20, 16, 8]),
        (24, 8, 0.9, [24, 16, 8]),
        (6, 8, 0.7, [6, 4]),
        (3, 8, 0.7, [3]),
        (64, 32, 0.9, [64, 48, 32, 16]),
        (5, 1, 0.5, [5, 4, 3]),
    ],
)
def test_allowed_widths(width: int, round_to: int, max_share: float, expected: list[int]) -> None:
    assert Widths(round_to, max_share).allowed(width).tolist() == expected


@given(st.integers(1, 600), st.sampled_from([1, 4, 8, 16, 32]), st.floats(0.05, 0.95), st.floats(0, 1))
def test_rounding_is_to_the_nearest_and_never_halves_by_itself(
    width: int, round_to: int, max_share: float, removed: float
) -> None:
    rule = Widths(round_to, max_share)
    allowed = rule.allowed(width)
    assert allowed[0] == width
    assert (np.diff(allowed) < 0).all()
    assert allowed[-1] >= min(width, (1 - max_share) * width) - 1e-6
    wanted = width * (1 - removed)
    chosen = rule.nearest(width, wanted)
    assert abs(chosen - wanted) == np.abs(allowed - wanted).min()
    if removed < 0.25 and width > 1:
        assert chosen > width / 2


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo26n"])
@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("kind", ["ratio", "flops"])
def test_targets_are_met(name: str, scope: str, kind: str, graphs) -> None:
    graph, scores = graphs(name)
    for share in (0.05, 0.1, 0.3, 0.5, 0.7):
        target, widths = Target(kind, share), Widths(8, 0.7)
        plan = allocate(graph, scores, target=target, widths=widths, scope=scope)
        gone = {
            "ratio": 1 - plan.params_after / plan.params_before,
            "flops": 1 - plan.ops_after / plan.ops_before,
        }[kind]
        assert gone == pytest.approx(share, rel=NEAR)
        assert plan.notes == ()
        for unit in graph.units:
            sizes = {int(plan.kept[graph.groups[g]].sum()) for g in unit}
            assert len(sizes) == 1  # halves stay equal
            assert sizes.pop() in widths.allowed(len(graph.groups[unit[0]])).tolist()
        assert all(plan.kept[channel] for channel in graph.frozen)


@pytest.fixture(scope="session")
def graphs():
    """Give the graph of a full-size architecture and random scores, some groups more even than others."""
    cache = {}

    def get(name: str):
        if name not in cache:
            graph = build_graph(DetectionModel(f"{name}.yaml", verbose=False), imgsz=320)
            generator = np.random.default_rng(0)
            scores = np.ones(graph.channels)
            for group in graph.groups:
                scores[group] = generator.lognormal(0, generator.uniform(0.1, 1.5), len(group))
            cache[name] = graph, normalised(scores, graph)
        return cache[name]

    return get


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo26n"])
def test_a_stem_of_sixteen_stays_at_ten_percent(name: str, graphs) -> None:
    graph, scores = graphs(name)
    plan = allocate(graph, scores, target=Target("ratio", 0.1), widths=Widths(8, 0.7), scope="local")
    stem = graph.convolutions[0]
    assert len(stem.outputs) == 16
    assert plan.kept[stem.outputs].all()


def test_local_takes_the_same_share_everywhere_and_global_does_not(graphs) -> None:
    graph, scores = graphs("yolov8n")
    shares = {}
    for scope in ("local", "global"):
        plan = allocate(graph, scores, target=Target("ratio", 0.5), widths=Widths(8, 0.7), scope=scope)
        shares[scope] = [plan.kept[graph.groups[u[0]]].mean() for u in graph.units if len(graph.groups[u[0]]) >= 64]
    assert np.ptp(shares["local"]) < 2 * 8 / 64  # one step of rounding each way
    assert np.ptp(shares["global"]) > 0.3


@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_least_important_channels_go(scope: str, graphs) -> None:
    graph, scores = graphs("yolo11n")
    plan = allocate(graph, scores, target=Target("flops", 0.3), widths=Widths(8, 0.7), scope=scope)
    for group in graph.groups:
        gone = ~plan.kept[group]
        if gone.any():
            assert scores[group][gone].max() <= scores[group][~gone].min()


def test_halves_choose_for_themselves(graphs) -> None:
    graph, scores = graphs("yolov8n")
    plan = allocate(graph, scores, target=Target("ratio", 0.4), widths=Widths(8, 0.7), scope="local")
    pairs = [
        (plan.kept[graph.groups[a]], plan.kept[graph.groups[b]]) for a, b in (u for u in graph.units if len(u) == 2)
    ]
    assert any((a != b).any() for a, b in pairs)


def test_more_than_can_go_is_refused_with_what_can(graphs) -> None:
    graph, _ = graphs("yolov8n")
    widths = Widths(8, 0.3)
    with pytest.raises(
        UsageError,
        match=r"ratio=0.9 cannot be reached: with round_to=8, max_share=0.3 and the layers kept whole, "
        r"at most (0\.\d+) can go; ask for ratio=\1 or less, or raise max_share",
    ) as caught:
        check_reachable(graph, target=Target("ratio", 0.9), widths=widths)
    advised = float(str(caught.value).rpartition("ratio=")[2].split(" ")[0])
    check_reachable(graph, target=Target("ratio", advised), widths=widths)


def test_less_than_a_step_is_refused_with_the_step(graphs) -> None:
    graph, scores = graphs("yolov8n")
    widths = Widths(32, 0.7)
    with pytest.raises(
        UsageError, match=r"flops=1e-05 removes nothing: .*the smallest step is 0\.0\d+; ask for flops="
    ) as e:
        check_reachable(graph, target=Target("flops", 1e-5), widths=widths)
    advised = float(str(e.value).rpartition("flops=")[2].split(" ")[0])
    plan = allocate(graph, scores, target=Target("flops", advised), widths=widths, scope="local")
    assert not plan.kept.all()


def test_nothing_left_to_prune_is_refused(family_model) -> None:
    with pytest.raises(UsageError, match=r"at most 0.000 can go; lower round_to, or keep fewer layers"):
        make_plan(family_model("yolov8n"), 0.3, keep=("model",))


def test_a_target_between_two_steps_is_approached_and_noted(family_model) -> None:
    graph = build_graph(family_model("yolov8n"), imgsz=IMGSZ, keep=tuple(f"model.{i}" for i in range(22)))
    target, widths = Target("ratio", 0.015), Widths(64, 0.9)
    plan = allocate(graph, np.ones(graph.channels), target=target, widths=widths, scope="local")
    got = 1 - plan.params_after / plan.params_before
    assert abs(got - 0.015) > NEAR * 0.015
    assert plan.notes == (f"ratio=0.015 became {got:.3f}: round_to=64 allows nothing closer",)


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_and_ratio_are_different_targets(family: str, family_model) -> None:
    by_params, by_ops = (make_plan(family_model(family), 0.4, kind=kind) for kind in ("ratio", "flops"))
    assert by_params.params_after != by_ops.params_after


def test_savings_ignores_what_scores_say_across_layers_and_follows_them_within(family_model) -> None:
    graph = build_graph(family_model("yolov8n"), imgsz=IMGSZ)
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.1, 1, graph.channels)
    scaled = scores.copy()
    for group in graph.groups:
        scaled[group] *= generator.uniform(0.01, 100)
    plans = [
        allocate(graph, s, target=Target("flops", 0.3), widths=Widths(4, 0.7), scope="savings")
        for s in (scores, scaled)
    ]
    assert (plans[0].kept == plans[1].kept).all()
    for group in graph.groups:
        kept = plans[0].kept[group]
        if not kept.all():
            assert scores[group][kept].min() >= scores[group][~kept].max()


def test_savings_removes_fewer_channels_than_any_other_scope(family_model) -> None:
    graph = build_graph(family_model("yolov8n"), imgsz=IMGSZ)
    scores = normalised(np.random.default_rng(0).uniform(0.1, 1, graph.channels), graph)
    removed = {
        scope: int(
            (~allocate(graph, scores, target=Target("flops", 0.3), widths=Widths(2, 0.7), scope=scope).kept).sum()
        )
        for scope in ("savings", "budget", "local", "global")
    }
    assert removed["savings"] == min(removed.values())


def test_budget_spares_the_layer_that_matters(family_model) -> None:
    graph = build_graph(family_model("yolov8n"), imgsz=IMGSZ)
    scores = np.ones(graph.channels)
    dear = graph.groups[graph.units[3][0]]
    scores[dear] = 1e6
    plan = allocate(graph, scores, target=Target("flops", 0.3), widths=Widths(4, 0.7), scope="budget")
    assert plan.kept[dear].all()
    assert 1 - plan.ops_after / plan.ops_before == pytest.approx(0.3, rel=0.03)


def _units(graph) -> list[np.ndarray]:
    return [np.concatenate([graph.groups[group] for group in unit]) for unit in graph.units]


def test_budget_counts_changes_and_not_their_squares(family_model) -> None:
    graph = build_graph(family_model("yolov8n"), imgsz=IMGSZ)
    scores = np.random.default_rng(0).uniform(0.1, 1, graph.channels)
    common = {"target": Target("flops", 0.3), "widths": Widths(4, 0.7), "scope": "budget"}
    plan = allocate(graph, scores, **common)
    assert (allocate(graph, 7 * scores, **common).kept == plan.kept).all()

    def lost(kept: np.ndarray) -> float:
        return sum(float(scores[unit][~kept[unit]].sum()) ** 0.5 for unit in _units(graph))

    fewest = allocate(graph, scores, **{**common, "scope": "savings"})
    assert lost(plan.kept) < lost(fewest.kept)
    dropped = [bool((~plan.kept[unit]).any()) for unit in _units(graph)]
    assert 0 < sum(dropped) < len(dropped)


def test_change_is_convex_below_the_root_and_meets_it_at_the_end() -> None:
    for seed in range(20):
        squares = np.concatenate([[0.0], np.cumsum(np.sort(np.random.default_rng(seed).exponential(1, 30)))])
        change = change_curve(squares)
        assert (np.diff(change, n=2) >= -1e-12).all()
        assert (change <= np.sqrt(squares) + 1e-12).all()
        assert change[-1] == pytest.approx(np.sqrt(squares[-1]))
