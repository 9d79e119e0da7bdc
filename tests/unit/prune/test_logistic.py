# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Class outputs fitted to probabilities, against a general optimizer and on models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from tests.unit.prune.models import FAMILIES, IMGSZ, build
from yolo_compress.host.detect import class_outputs, responses
from yolo_compress.prune import Target, Widths, allocate, apply, build_graph
from yolo_compress.prune.logistic import fit_classes_, logistic_regression


def _batches() -> list[np.ndarray]:
    return list(torch.rand(3, 4, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(3)).numpy())


@pytest.mark.parametrize("pull", [0.5, 20.0])
def test_regression_equals_a_general_optimizer(pull: float) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(3, 2, (300, 4))
    wanted = 1 / (1 + np.exp(-(x @ generator.normal(0, 1, (4, 3)) - 4)))
    weight, start = generator.uniform(0.2, 3, 300), generator.normal(0, 0.3, (3, 5))
    given = (torch.from_numpy(a).float() for a in (x, wanted, weight))
    found = logistic_regression(*given, torch.from_numpy(start), pull=pull).numpy()
    mean, ridge = x.mean(0), pull * x.var(0, ddof=1).mean()

    for c in range(3):
        # the offset is held where it stands at the mean of what is read
        def loss(w: np.ndarray, c: int = c) -> float:
            logits = x @ w[:4] + w[4]
            cross = np.logaddexp(0, logits) - wanted[:, c] * logits
            held = (w[4] + w[:4] @ mean) - (start[c, 4] + start[c, :4] @ mean)
            return weight @ cross + ridge / 2 * ((w[:4] - start[c, :4]) ** 2).sum() + pull / 200 * held**2

        best = minimize(loss, start[c], method="BFGS", options={"gtol": 1e-8})
        assert loss(found[c]) == pytest.approx(best.fun, rel=1e-4)
        np.testing.assert_allclose(found[c], best.x, atol=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_is_whole_stays_as_it_is(family: str) -> None:
    model = build(family)
    before = {name: module.weight.clone() for name, module in class_outputs(model).items()}
    assert fit_classes_(model, build(family), _batches(), positions=16) == 12
    for name, module in class_outputs(model).items():
        torch.testing.assert_close(module.weight, before[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_come_nearer_and_nothing_else_changes(family: str) -> None:
    full = build(family)
    graph = build_graph(full, imgsz=IMGSZ)
    scores = np.random.default_rng(0).uniform(0.5, 1, graph.channels)
    plan = allocate(graph, scores, target=Target("flops", 0.3), widths=Widths(2, 0.7), scope="local")
    pruned = apply(full, plan).eval()
    before = {key: value.clone() for key, value in pruned.state_dict().items()}

    def cross_entropy() -> float:
        total = 0.0
        with torch.no_grad():
            for batch in _batches():
                images = torch.as_tensor(batch)
                for ours, theirs in zip(responses(full, images), responses(pruned, images), strict=True):
                    wanted = ours.scores.sigmoid()
                    total += float(torch.nn.functional.binary_cross_entropy_with_logits(theirs.scores, wanted))
        return total

    first = cross_entropy()
    fit_classes_(pruned, full, _batches())  # levels this small are seen at every position
    assert cross_entropy() < 0.999 * first
    changed = {
        key.rpartition(".")[0] for key, value in pruned.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == set(class_outputs(pruned))
