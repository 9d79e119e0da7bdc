# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures of the pruning tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from tests.unit.prune.models import IMGSZ, build
from yolo_compress.prune import IMPORTANCES


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def family_model() -> Callable[[str], nn.Module]:
    """Give a family's model in float64, where rounding hides nothing; built once, never to be changed."""
    cache: dict[str, nn.Module] = {}

    def get(family: str) -> nn.Module:
        if family not in cache:
            cache[family] = build(family).double()
        return cache[family]

    return get


@pytest.fixture
def labelled() -> Callable[[], list[dict[str, torch.Tensor]]]:
    """Give two small labelled batches in the form that Ultralytics' losses take."""
    generator = torch.Generator().manual_seed(1)

    def batches() -> list[dict[str, torch.Tensor]]:
        generator.manual_seed(1)
        return [
            {
                "img": torch.rand(n, 3, IMGSZ, IMGSZ, generator=generator),
                "batch_idx": torch.arange(n).repeat_interleave(2).float(),
                "cls": torch.randint(0, 3, (2 * n, 1), generator=generator).float(),
                "bboxes": torch.rand(2 * n, 4, generator=generator) * 0.4 + 0.3,
            }
            for n in (2, 1)
        ]

    return batches


@pytest.fixture(params=sorted(IMPORTANCES))
def importance(request: pytest.FixtureRequest) -> str:
    """Name each registered importance."""
    return request.param
