# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Any network of these blocks, pruned anyhow, runs, equals its masked twin and costs what was predicted."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.unit.prune.models import IMGSZ, difference, lively, make_plan, raw, with_heads
from yolo_compress.errors import UsageError
from yolo_compress.host.checkpoint import count
from yolo_compress.host.ultralytics import DetectionModel
from yolo_compress.prune import apply, mask, unfold

EXAMPLES = 20
SAME = 1e-8  # float64; a few hundred times what rounding was seen to do
Row = list[Any]


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a detector with two levels: random blocks, widths, depths, residuals, attention and concatenations."""
    widths = st.sampled_from([8, 16, 24, 32, 40, 64])

    def block(width: int) -> Row:
        depth, yes = draw(st.integers(1, 2)), st.booleans()
        kind = draw(st.sampled_from(["C2f", "C3k2", "C3", "SPPF", "C2PSA", "Conv", "DWConv"]))
        if kind == "C2f":
            return [-1, depth, "C2f", [width, draw(yes)]]
        if kind == "C3":
            return [-1, depth, "C3", [width, draw(yes)]]
        if kind == "C3k2":
            attention = draw(yes) and width >= 64
            return [-1, depth, "C3k2", [width, draw(yes), draw(st.sampled_from([0.25, 0.5])), attention, 1, draw(yes)]]
        if kind == "SPPF":
            return [-1, 1, "SPPF", [width, 5, draw(st.integers(1, 3)), draw(yes)]]
        if kind == "C2PSA":
            return [-1, 1, "C2PSA", [width]] if width >= 16 else [-1, 1, "Conv", [width, 1, 1]]
        return [-1, 1, kind, [width, 3, 1]]

    rows: list[Row] = [[-1, 1, "Conv", [draw(widths), 3, 2]], [-1, 1, "Conv", [draw(widths), 3, 2]]]
    width = rows[-1][3][0]
    for _ in range(draw(st.integers(1, 3))):
        rows.append(block(width))
    fine = len(rows) - 1
    if draw(st.booleans()):  # a concatenation, of a map with itself at times, in front of whatever reads it
        rows.append([[-1, draw(st.integers(1, fine))], 1, "Concat", [1]])
        rows.append(draw(st.sampled_from([[-1, 1, "SPPF", [2 * width, 5, 3, True]], [-1, 1, "C2f", [width, True]]])))
        fine = len(rows) - 1
    width = draw(widths)
    rows.append([-1, 1, "Conv", [width, 3, 2]])
    rows += [block(width) for _ in range(draw(st.integers(1, 2)))]
    coarse = len(rows) - 1
    if draw(st.booleans()):
        rows.append([-1, 1, "nn.Upsample", [None, 2, "nearest"]])
        rows.append([[-1, fine], 1, "Concat", [1]])
        rows.append([-1, 1, "C3k2", [draw(widths), draw(st.booleans())]])
        fine = len(rows) - 1
    end2end = draw(st.booleans())
    return {
        "nc": 3,
        "reg_max": draw(st.sampled_from([1, 4])),
        "end2end": end2end,
        "scales": {"t": [1.0, 1.0, 1024]},
        "scale": "t",
        "backbone": rows,
        "head": [[[fine, coarse], 1, "Detect", ["nc"]]],
    }


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    tree=networks(),
    share=st.floats(0.05, 0.8),
    kind=st.sampled_from(["ratio", "flops"]),
    scope=st.sampled_from(["local", "global"]),
    round_to=st.sampled_from([1, 4, 8]),
    heads=st.sampled_from([1, 2, 4]),
)
def test_any_network_survives_any_pruning(
    tree: dict[str, Any], share: float, kind: str, scope: str, round_to: int, heads: int
) -> None:
    torch.manual_seed(0)
    model = with_heads(lively(DetectionModel(tree, verbose=False)), heads).double()
    try:
        plan = make_plan(model, share, kind=kind, scope=scope, round_to=round_to)
    except UsageError:
        assume(False)
    pruned = apply(model, plan)
    images = torch.rand(2, 3, IMGSZ, IMGSZ)
    result = raw(pruned, images)
    assert difference(result, raw(mask(model, plan), images)) < SAME
    assert difference(result, raw(unfold(model, plan), images)) < SAME
    assert count(pruned, IMGSZ) == (plan.params_after, plan.ops_after / 1e9)
    assert not plan.kept.all()
