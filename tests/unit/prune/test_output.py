# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The score that follows from the distance between detections, against autograd and against removal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.prune.models import FAMILIES, IMGSZ, build
from yolo_compress.bench.response import OutputWeights, distance
from yolo_compress.host.detect import Response, responses
from yolo_compress.prune import Inputs, build_graph
from yolo_compress.prune.gradient import Masked, hessian_diagonal
from yolo_compress.prune.output import output, probe


def silent(line: str) -> None:
    """Ignore progress."""


@pytest.mark.parametrize("family", FAMILIES)
def test_the_probe_squares_to_the_hessian_of_the_distance(family: str) -> None:
    """Averaged over many signs, the squared derivatives by a mask are the exact second derivatives of the distance."""
    model = build(family).double()
    graph = build_graph(model, imgsz=IMGSZ)
    images = torch.rand(1, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    masked = Masked(model, graph)
    with torch.no_grad():
        masked.fresh(1)
        full = [Response(r.scores.clone(), r.distances.clone()) for r in responses(masked.model, images)]
    free = np.array([c for c in range(graph.channels) if c not in graph.frozen])
    some = np.random.default_rng(0).choice(free, 6, replace=False)
    units = [torch.eye(graph.channels, dtype=torch.float64)[[c]] for c in some]
    mask = masked.fresh(1)
    exact = hessian_diagonal(distance(full, responses(masked.model, images), OutputWeights()).sum(), mask, units)
    generator = torch.Generator().manual_seed(0)
    squares = torch.zeros(graph.channels, dtype=torch.float64)
    mask = masked.fresh(1)
    found, draws = responses(masked.model, images), 400
    for _ in range(draws):
        (gradient,) = torch.autograd.grad(probe(found, OutputWeights(), generator), mask, retain_graph=True)
        squares += gradient[0].square() / draws
    np.testing.assert_allclose(squares[some], exact[0, some], rtol=0.35)  # 400 draws leave about 7 % of deviation


def test_scores_of_a_group_add_up_to_what_masking_it_costs() -> None:
    model = build("yolov8n")
    graph = build_graph(model, imgsz=IMGSZ)
    images = [np.random.default_rng(0).random((2, 3, IMGSZ, IMGSZ), dtype=np.float32)]
    scores = output(model, graph, Inputs(images=lambda: images), silent)
    masked = Masked(model, graph)
    mask = masked.fresh(2)
    objective = probe(
        responses(masked.model, torch.from_numpy(images[0])), OutputWeights(), torch.Generator().manual_seed(0)
    )
    (gradient,) = torch.autograd.grad(objective, mask)
    for group in graph.groups:
        if int(group[0]) not in graph.frozen and (whole := float(gradient[:, group].sum(1).square().sum()) / 2) > 0:
            assert scores[group].sum() >= whole * (1 - 1e-4)  # above it where undoing others was clipped to nothing


def test_weights_choose_what_counts() -> None:
    model = build("yolo11n")
    graph = build_graph(model, imgsz=IMGSZ)
    images = [np.random.default_rng(0).random((1, 3, IMGSZ, IMGSZ), dtype=np.float32)]
    names = {conv.layer: conv.outputs for conv in graph.convolutions}
    boxes, classes = names["model.23.cv2.0.0"], names["model.23.cv3.0.0.1"]
    only_boxes = output(model, graph, Inputs(images=lambda: images, weights=OutputWeights(0, 1, 0)), silent)
    only_classes = output(model, graph, Inputs(images=lambda: images, weights=OutputWeights(1, 0, 1)), silent)
    assert only_boxes[boxes].max() > 0
    assert only_boxes[classes].max() == 0
    assert only_classes[boxes].max() == 0
    assert only_classes[classes].max() > 0
