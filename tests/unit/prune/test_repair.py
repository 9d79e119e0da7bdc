# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""BatchNorm re-estimation against averages taken by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.prune.models import IMGSZ, build
from yolo_compress.errors import DataError, UsageError
from yolo_compress.prune import reestimate_


def _batches(seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.random((n, 3, IMGSZ, IMGSZ), dtype=np.float32) for n in (4, 4, 1)]


def test_statistics_are_averages_weighted_by_images() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.03), nn.Dropout(0.9))
    assert reestimate_(model.eval(), _batches()) == 9
    with torch.no_grad():
        maps = [model[0](torch.from_numpy(batch)) for batch in _batches()]
    weights = torch.tensor([4.0, 4.0, 1.0]) / 9
    mean = sum(w * m.mean((0, 2, 3)) for w, m in zip(weights, maps, strict=True))
    var = sum(w * m.var((0, 2, 3), unbiased=True) for w, m in zip(weights, maps, strict=True))
    torch.testing.assert_close(model[1].running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[1].running_var, var, rtol=1e-5, atol=1e-6)
    assert model[1].momentum == 0.03
    assert not any(m.training for m in model.modules())


def test_a_detector_keeps_modes_and_weights_and_the_result_repeats() -> None:
    models = [build("yolo26n") for _ in range(2)]
    for model in models:
        model.train()
        model.model[3].bn.eval()
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        modes = [m.training for m in model.modules()]
        momenta = [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        before = model.model[9].cv2.bn.running_mean.clone()
        reestimate_(model, _batches())
        assert modes == [m.training for m in model.modules()]
        assert momenta == [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
        assert not torch.equal(before, model.model[9].cv2.bn.running_mean)
        model.eval()
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_statistics_from_before_do_not_count() -> None:
    models = [build("yolov8n") for _ in range(2)]
    for norm in (m for m in models[1].modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.fill_(1e6)
    for model in models:
        reestimate_(model, _batches())
    for key, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[key])


def test_no_images() -> None:
    with pytest.raises(DataError, match="got no image; give a data YAML with train images, or repair=nothing"):
        reestimate_(build("yolov8n"), [])


def test_one_pixel_of_one_image_is_too_little_and_modes_come_back() -> None:
    model = build("yolov8n")
    with pytest.raises(UsageError, match="deepest feature map is one pixel; give a larger imgsz or more images"):
        reestimate_(model, [np.zeros((1, 3, 32, 32), np.float32)])
    assert not any(m.training for m in model.modules())
    assert all(m.momentum == 0.03 for m in model.modules() if isinstance(m, nn.BatchNorm2d))
