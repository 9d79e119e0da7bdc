# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Every Ultralytics name and signature that the project relies on, checked against the installed release."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from yolo_compress.host import ultralytics as names


@pytest.mark.parametrize("name", names.__all__)
def test_name_exists(name):
    assert getattr(names, name) is not None


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("get_model", ["self", "cfg", "weights", "verbose"]),
        ("set_model_attributes", ["self"]),
        ("preprocess_batch", ["self", "batch"]),
        ("build_optimizer", ["self", "model", "name", "lr", "momentum", "decay", "iterations"]),
        ("_build_train_pipeline", ["self"]),
        ("optimizer_step", ["self"]),
        ("resume_training", ["self", "ckpt"]),
        ("save_model", ["self"]),
        ("final_eval", ["self"]),
        ("_handle_nan_recovery", ["self", "epoch"]),
    ],
)
def test_overridden_methods_keep_their_parameters(method, parameters):
    assert list(inspect.signature(getattr(names.DetectionTrainer, method)).parameters) == parameters


def test_set_up_calls_our_seams_in_the_order_we_rely_on():
    source = inspect.getsource(names.DetectionTrainer.__mro__[1]._setup_train)
    order = ["setup_model()", "set_model_attributes()", "_build_train_pipeline()", "ModelEMA(", "resume_training("]
    places = [source.index(call) for call in order]
    assert places == sorted(places)
    assert source.index("check_amp(") < source.index("_build_train_pipeline()")


def test_the_model_takes_its_criterion_from_an_attribute():
    source = inspect.getsource(names.DetectionModel.loss)
    assert 'getattr(self, "criterion", None) is None' in source


def test_task_map_is_a_property_with_a_detect_trainer():
    assert isinstance(names.YOLO.task_map, property)
    assert "trainer" in names.YOLO("yolov8n.yaml").task_map["detect"]


def test_boxes_are_suppressed_by_the_kernel_that_yolo_val_uses(monkeypatch):
    """Ultralytics takes torchvision's where that is loaded, which its validator and predictor see to."""
    from yolo_compress.host import detect

    called = []
    kernel = detect.torchvision.ops.nms
    monkeypatch.setattr(detect.torchvision.ops, "nms", lambda *given: called.append(given) or kernel(*given))
    raw = np.zeros((1, 84, 3), np.float32)
    raw[0, :4] = [[50, 52, 200], [50, 50, 200], [20, 20, 20], [20, 20, 20]]
    raw[0, 4] = [0.9, 0.8, 0.7]
    np.testing.assert_array_equal(detect.postprocess(raw)[0][:, 4], np.float32([0.9, 0.7]))
    assert called


def test_command_line_reads_the_list_that_we_edit():
    from ultralytics import cfg

    assert cfg.ARGV is names.ARGV


@pytest.mark.parametrize("family", ["yolov8n", "yolo11n", "yolo26n"])
def test_supported_families_end_in_detect(family):
    model = names.DetectionModel(f"{family}.yaml", nc=3, verbose=False)
    assert type(model.model[-1]) is names.Detect
    assert list(model.model[-1].f)
    assert model.model[-1].i == len(model.model) - 1
