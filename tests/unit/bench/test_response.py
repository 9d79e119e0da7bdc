# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The distance between detections against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_compress.bench.response import SMALLEST_SIDE, STEP, OutputWeights, distance
from yolo_compress.host.detect import Response


def _random(seed: int, *, anchors: int = 7, classes: int = 4) -> Response:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, anchors, generator=generator, dtype=torch.float64) * 2
    return Response(scores, torch.rand(2, 4, anchors, generator=generator, dtype=torch.float64) * 5)


@pytest.mark.parametrize("term", ["confidence", "localisation", "discrimination"])
def test_distance_equals_loops(term: str) -> None:
    full, other = _random(0), _random(1)
    weights = OutputWeights(**{name: float(name == term) for name in ("confidence", "localisation", "discrimination")})
    found = distance([full], [other], weights)
    for n in range(2):
        expected = 0.0
        for a in range(7):
            p, q = (1 / (1 + np.exp(-r.scores[n, :, a].numpy())) for r in (full, other))
            best = int(p.argmax())
            kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
            d, e = full.distances[n, :, a].numpy(), other.distances[n, :, a].numpy()
            sides = np.maximum([d[0] + d[2], d[1] + d[3]] * 2, SMALLEST_SIDE)
            terms = {
                "confidence": kl[best],
                "discrimination": kl.sum() - kl[best],
                "localisation": (((d - e) / (STEP * sides)) ** 2).sum() / 2,
            }
            expected += p[best] * terms[term]
        assert float(found[n]) == pytest.approx(expected, rel=1e-9)


def test_distance_to_itself_is_zero_and_so_is_its_gradient() -> None:
    full = _random(0)
    moved = Response(full.scores.clone().requires_grad_(), full.distances.clone().requires_grad_())
    total = distance([full], [moved], OutputWeights()).sum()
    assert float(total.detach()) == pytest.approx(0, abs=1e-12)
    assert all(g.abs().max() < 1e-9 for g in torch.autograd.grad(total, [moved.scores, moved.distances]))


def test_a_small_change_is_measured_in_float32_as_in_float64() -> None:
    """Summed over the anchors of a real image, the rounding of float32 would outweigh the divergence itself."""
    full = _random(0, anchors=2000, classes=80)
    other = Response(full.scores + 1e-4 * _random(1, anchors=2000, classes=80).scores, full.distances)
    single = [Response(r.scores.float(), r.distances.float()) for r in (full, other)]
    found = distance([single[0]], [single[1]], OutputWeights())
    doubled = [Response(r.scores.double(), r.distances.double()) for r in single]
    expected = distance([doubled[0]], [doubled[1]], OutputWeights())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    assert (expected > 0).all()
