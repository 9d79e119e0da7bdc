# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Removal costs against regressions solved from scratch, and patches against convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolo_compress.prune.obs import Reader, removal_costs
from yolo_compress.prune.patches import Moments, draw, patches


def _problem(seed: int, *, channels: int = 6, block: int = 2, outputs: int = 5, damping: float = 0.0):
    generator = torch.Generator().manual_seed(seed)
    d = channels * block
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    x = torch.randn(400, d, generator=generator, dtype=torch.float64) @ mixing + 3
    covariance = torch.cov(x.T, correction=0) + damping * torch.eye(d, dtype=torch.float64)
    weight = torch.randn(outputs, d, generator=generator, dtype=torch.float64)
    columns = torch.arange(d).reshape(channels, block)
    return x, weight, columns, covariance


def _regression_error(x: torch.Tensor, weight: torch.Tensor, kept: list[int]) -> float:
    """Return the mean squared error of the best affine fit of `x @ weight.T` from some of the columns."""
    design = torch.cat([x[:, kept], torch.ones(len(x), 1, dtype=x.dtype)], 1)
    target = x @ weight.T
    solution = torch.linalg.lstsq(design, target).solution
    return float((design @ solution - target).square().mean(0).sum())


def test_errors_are_those_of_a_regression_on_what_is_left() -> None:
    x, weight, columns, covariance = _problem(0)
    errors = Reader(torch.linalg.inv(covariance), weight.clone(), columns, covariance).errors()
    for channel in range(6):
        kept = [c for c in range(12) if c // 2 != channel]
        assert float(errors[channel]) == pytest.approx(_regression_error(x, weight, kept), rel=1e-6)


def test_costs_add_up_to_the_error_of_removing_them_all() -> None:
    x, weight, columns, covariance = _problem(1)
    reader = Reader(torch.linalg.inv(covariance), weight.clone(), columns, covariance)
    reader.remove(torch.tensor([4]))
    reader.remove(torch.tensor([0, 2]))
    kept = [c for c in range(12) if c // 2 not in (0, 2, 4)]
    assert reader.error() == pytest.approx(_regression_error(x, weight, kept), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_costs_rise_and_a_twin_is_free(seed: int) -> None:
    x, weight, _, _ = _problem(seed, channels=6, block=1)
    x[:, 3] = x[:, 1]  # what 3 holds, 1 holds as well
    covariance = torch.cov(x.T, correction=0) + 1e-6 * torch.eye(6, dtype=torch.float64)
    columns = torch.arange(6)[:, None]
    costs = removal_costs(6, [Reader(torch.linalg.inv(covariance), weight.clone(), columns, covariance)])
    order = np.argsort(costs, kind="stable")
    assert order[0] in (1, 3)
    assert costs[order[0]] < 1e-2 * costs[order[1]]
    assert (np.diff(costs[order]) >= 0).all()


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    channels=st.integers(1, 5),
    height=st.integers(5, 9),
    width=st.integers(5, 9),
)
def test_patches_times_weights_is_the_convolution(
    kernel: int, stride: int, channels: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 4, kernel, stride, kernel // 2, bias=False).double()
    x = torch.randn(3, channels, height, width, dtype=torch.float64)
    with torch.no_grad():
        y = conv(x)
        at = draw(3, *y.shape[2:], 7, torch.Generator().manual_seed(0))
        torch.testing.assert_close(patches(conv, x, at) @ conv.weight.flatten(1).T, at.rows(y))
    assert len({(int(n), int(a), int(b)) for n, a, b in zip(at.image, at.y, at.x, strict=True)}) == len(at.image)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 2
    moments = Moments(4)
    for part in rows.split(17):
        moments.add(part)
    torch.testing.assert_close(moments.covariance(), torch.cov(rows.double().T, correction=0), rtol=1e-4, atol=1e-5)
