# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The PyTorch model with quantizers against the Q/DQ graph that ONNX Runtime computes."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from tests.tiny import FAMILIES
from yolo_compress.host import checkpoint
from yolo_compress.host.data import image_batches
from yolo_compress.quantize import SCHEMES, Learned, quantize_learned
from yolo_compress.quantize.attachment import QuantizationAware
from yolo_compress.quantize.emulation import CHILD, Start, aside, current, install, remove
from yolo_compress.recipe import QatSection, QuantizeSection


@pytest.fixture
def begun(graphs):
    """Return a function that gives a model, what its quantizers begin with, and the attachment's view of it."""

    def begin(family: str, **options):
        model = checkpoint.load_model(graphs / f"{family}.pt")
        args = SimpleNamespace(imgsz=64, data=str(graphs / "data/data.yaml"))
        attachment = QuantizationAware(QatSection(), QuantizeSection(**options))
        attachment.start, attachment._groups = attachment._begin(SimpleNamespace(model=model, args=args))
        return model, attachment.start, attachment

    return begin


def run(path, images) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as they are written
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": image[None]})[0] for image in images])


def answers(model, images) -> np.ndarray:
    with torch.no_grad():
        found = model(torch.from_numpy(images))
    return (found[0] if isinstance(found, tuple) else found).numpy()


def scores(found: np.ndarray, family: str) -> np.ndarray:
    """Boxes that are ranked may change places; their scores in order may not."""
    return found[..., 4] if family == "yolo26n" else found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", SCHEMES)
def test_training_sees_what_the_graph_computes(graphs, images, begun, tmp_path, family, target):
    model, start, attachment = begun(family, target=target)
    install(model, start)
    batch = next(image_batches(images, 64))
    found = scores(answers(model, batch), family)
    with attachment.aside(model):
        learned = Learned.read(model)
    quantize_learned(graphs / f"{family}.onnx", tmp_path / "int8.onnx", learned)
    graph = scores(run(tmp_path / "int8.onnx", batch), family)
    exact = scores(run(graphs / f"{family}.onnx", batch), family)
    error = np.abs(graph - exact).mean()
    assert error > 0
    # weights are folded in another order and int32 biases are rounded, so that some code falls to the other side of a
    # tie and moves what is behind it; a quantizer that is missing or in the wrong place gives about the whole error
    share = {"onnxruntime": 0.8}.get(target, 0.5)
    assert np.abs(found - graph).mean() < share * error


@pytest.mark.parametrize("family", FAMILIES)
def test_without_quantizers_folding_changes_nothing(graphs, images, begun, family):
    model, start, _ = begun(family)
    batch = next(image_batches(images, 64))
    before = answers(model, batch)
    install(model, Start({}, [], {}, start.form))
    np.testing.assert_allclose(answers(model, batch), before, rtol=1e-3, atol=1e-3)


def test_what_is_taken_out_leaves_no_trace_and_comes_back(graphs, images, begun):
    model, start, _ = begun("yolo11n")
    keys, batch = set(model.state_dict()), next(image_batches(images, 64))
    install(model, start)
    quantized = answers(model, batch)
    twin = deepcopy(model)  # as the average is
    with torch.no_grad():
        for parameter in getattr(model, CHILD).parameters():
            parameter += 1.0
    assert np.array_equal(answers(twin, batch), quantized)
    assert not np.array_equal(answers(model, batch), quantized)
    with aside(twin, start):
        assert set(twin.state_dict()) == keys
        assert not any("forward" in vars(module) for module in twin.modules())
    assert np.array_equal(answers(twin, batch), quantized)
    remove(twin)
    assert set(twin.state_dict()) == keys


def test_a_start_survives_plain_data(begun):
    model, start, _ = begun("yolov8n", weight_bits=4, weight_group=4, keep=("model.2",))
    install(model, start)
    now = Start.read(current(model, start).plain())
    assert now.sites == start.sites
    assert now.form == start.form
    for a, b in zip(now.activations, start.activations, strict=True):
        assert a.scale == pytest.approx(float(b.scale), rel=1e-5)
        assert (a.zero_point, a.signed) == (b.zero_point, b.signed)
    for name, scales in start.weights.items():
        np.testing.assert_allclose(now.weights[name], scales, rtol=1e-5)
    assert not any(name.startswith("model.2.") for name in start.weights)


def test_statistics_of_batchnorm_stay_as_they_are_in_training(begun):
    model, start, _ = begun("yolov8n")
    install(model, start)
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    model.train()
    model(torch.rand(2, 3, 64, 64))
    assert before
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
