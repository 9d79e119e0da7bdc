# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantization-aware training in whole runs: what is saved, what is quantized from it, how runs go on."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.integration.quantized import QAT, assert_same_scales, methods, training_start
from tests.tiny import assert_same_losses, losses
from yolo_compress import api
from yolo_compress import train as training
from yolo_compress.errors import CompressError, UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.data import image_batches, read_data
from yolo_compress.host.trainer import STATE_FILE
from yolo_compress.quantize import Learned
from yolo_compress.quantize.emulation import CHILD


@pytest.mark.parametrize("family", ["yolov8n", "yolo11n", "yolo26n"])
def test_checkpoints_are_stock_and_say_what_was_learned(make_checkpoint, settings, tmp_path, family):
    student = make_checkpoint(family)
    seen = []
    training.train(student, name="run", **QAT, **{**settings, "optimizer": "AdamW", "lr0": 0.01})
    folder = tmp_path / "runs" / "run"
    for name in ("last.pt", "best.pt"):
        model = checkpoint.load_model(folder / "weights" / name)
        assert set(model.state_dict()) == set(checkpoint.load_model(student).state_dict())
        assert not any("forward" in vars(module) for module in model.modules())
        learned = Learned.read(model)
        assert learned.fits(model)
        seen.append(learned)
        taught = checkpoint.facts(model)["recipe"]["distill"]
        assert [teacher["path"] for teacher in taught["teacher"]] == [str(student)]
        assert taught["labels"] is False
    # scales began as calibration chose them and have moved since
    begun = training_start(student, settings)
    moved = [a.scale / b.scale for a, b in zip(seen[0].activations.values(), begun, strict=True)]
    assert max(abs(share - 1) for share in moved) > 1e-3
    blocked = "import sys; sys.modules['yolo_compress'] = None; import torch; from ultralytics import YOLO; "
    code = f"YOLO({str(folder / 'weights' / 'best.pt')!r}).predict(torch.zeros(1, 3, 64, 64), verbose=False)"
    env = {**os.environ, "ULTRALYTICS_SAFE_LOAD": "1"}
    subprocess.run([sys.executable, "-c", blocked + code], check=True, env=env, capture_output=True)


def test_quantizing_follows_what_was_learned(make_checkpoint, settings, tmp_path):
    training.train(make_checkpoint(), name="run", **QAT, **settings)
    best = tmp_path / "runs" / "run" / "weights" / "best.pt"
    made = api.quantize(best, data=settings["data"], imgsz=64, project=tmp_path, name="learned")
    learned = Learned.read(checkpoint.load_model(best))
    graph = onnx.load(str(made.path)).graph
    constants = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    for names, affine in learned.activations.items():
        for name in names:
            if f"{name}_scale" in constants:
                assert constants[f"{name}_scale"] == affine.scale
    with pytest.raises(UsageError, match=r"trained for target=tensorrt and target=openvino was given.*learned=False"):
        api.quantize(best, data=settings["data"], imgsz=64, target="openvino", project=tmp_path, name="other")
    anew = api.quantize(
        best, data=settings["data"], imgsz=64, target="openvino", images=8, learned=False, project=tmp_path, name="n"
    )
    assert methods(anew) <= {"mse", "fixed"}


def test_scales_of_other_weights_are_not_followed(make_checkpoint, settings, tmp_path):
    training.train(make_checkpoint(), name="run", **QAT, **settings)
    model = checkpoint.load_model(tmp_path / "runs" / "run" / "weights" / "best.pt")
    with torch.no_grad():
        model.model[0].conv.weight *= 1.1
    checkpoint.save_model(model, tmp_path / "changed.pt")
    made = api.quantize(
        tmp_path / "changed.pt", data=settings["data"], imgsz=64, images=8, project=tmp_path, name="int8"
    )
    assert any("weights have changed since quantization-aware training" in note for note in made.notes)
    assert "learned" not in methods(made)


def test_validation_of_the_run_sees_the_quantized_average(make_checkpoint, settings, tmp_path, monkeypatch):
    """What an epoch validates answers as the graph that its checkpoint gives."""
    from yolo_compress.host.trainer import CompressTrainer

    seen = {}
    images = next(image_batches(read_data(settings["data"]).val, 64))

    def validate(self):
        model = self.ema.ema.eval()
        with torch.no_grad():
            seen["found"] = model(torch.from_numpy(images))[0].numpy()
        return whole(self)

    whole = CompressTrainer.validate
    monkeypatch.setattr(CompressTrainer, "validate", validate)
    # steps so small, and statistics held, that all stays what half precision can hold
    training.train(
        make_checkpoint(), name="run", qat_batchnorm="frozen", **QAT, **{**settings, "epochs": 1, "lr0": 1e-12}
    )
    last = tmp_path / "runs" / "run" / "weights" / "last.pt"
    made = api.quantize(last, data=settings["data"], imgsz=64, project=tmp_path, name="int8")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(made.path), options, providers=["CPUExecutionProvider"])
    graph = np.concatenate([session.run(None, {"images": image[None]})[0] for image in images])
    with torch.no_grad():
        exact = checkpoint.load_model(last)(torch.from_numpy(images))[0].numpy()
    assert np.abs(graph - seen["found"]).mean() < 0.5 * np.abs(graph - exact).mean()


def codes_and_biases(path) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of all quantized weights of a graph in a row, and its biases."""
    values = {value.name: onnx.numpy_helper.to_array(value) for value in onnx.load(str(path)).graph.initializer}
    codes = [value for _, value in sorted(values.items()) if value.dtype == np.int8 and value.ndim == 4]
    biases = [value for name, value in sorted(values.items()) if "bias" in name and value.dtype == np.float32]
    return np.concatenate([c.ravel() for c in codes]), np.concatenate([b.ravel() for b in biases])


def test_training_begins_with_the_codes_of_the_rounding_that_is_asked_for(make_checkpoint, settings, tmp_path):
    student, form = make_checkpoint(), {"target": "tensorrt", "images": 8, "weight_bits": 4}
    repair = {"rounding": "adaround", "bias_correction": True}
    flags = {f"quantize_{name}": value for name, value in {**form, **repair}.items()}
    training.train(student, name="run", qat="int8", **flags, **{**settings, "epochs": 1, "lr0": 1e-12})
    last = tmp_path / "runs" / "run" / "weights" / "last.pt"
    place = {"data": settings["data"], "imgsz": 64, "project": tmp_path}
    codes, biases = codes_and_biases(api.quantize(last, name="learned", **place).path)
    wanted, shifted = codes_and_biases(api.quantize(student, name="repaired", **form, **repair, **place).path)
    nearest, exact = codes_and_biases(api.quantize(student, name="nearest", **form, **place).path)
    assert (nearest != wanted).mean() > 0.01
    assert (codes != wanted).mean() < 0.001
    moved = np.abs(shifted - exact).max()
    assert moved > 0
    assert np.abs(biases - shifted).max() < 0.05 * moved + 1e-3 * np.abs(exact).max()


def test_scales_stay_once_they_are_frozen(make_checkpoint, settings, tmp_path):
    student = make_checkpoint()
    training.train(student, name="frozen", qat_freeze=0.0, **QAT, **settings)
    learned = Learned.read(checkpoint.load_model(tmp_path / "runs" / "frozen" / "weights" / "last.pt"))
    for a, b in zip(learned.activations.values(), training_start(student, settings), strict=True):
        assert a.scale == pytest.approx(float(b.scale), rel=1e-5)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(make_checkpoint, settings, tmp_path, killed):
    student, teacher = make_checkpoint(), make_checkpoint(name="t.pt", seed=1)
    settings |= {"epochs": 3, "optimizer": "AdamW", "lr0": 0.001, "close_mosaic": 0}
    flags = {**QAT, "teacher": str(teacher), "distill": "cwd"}
    training.train(student, name="whole", **flags, **settings)
    weights = killed(student, epoch=1, **flags, **settings)
    state = torch.load(weights / STATE_FILE, weights_only=True)["saved"][0]
    held = checkpoint.load_model(weights / "last.pt")
    assert not hasattr(held, CHILD)
    assert any(name.startswith(CHILD) for name in state["ema"])
    training.train(weights / "last.pt", resume=True)
    assert_same_losses(tmp_path / "runs" / "whole", tmp_path / "runs" / "cut", epochs=3)
    assert_same_scales(*(tmp_path / "runs" / name / "weights" / "last.pt" for name in ("whole", "cut")))


def test_a_run_whose_scales_are_damaged_goes_back_to_what_was_saved(make_checkpoint, settings, tmp_path, monkeypatch):
    """Ultralytics goes back to last.pt when a loss is not finite; that holds weights alone."""
    from yolo_compress.host.trainer import CompressTrainer
    from yolo_compress.host.ultralytics import unwrap_model

    step, damaged, saved = CompressTrainer.optimizer_step, [], []

    def optimizer_step(self):
        step(self)
        if self.epoch == 1 and not damaged:
            damaged.append(self.epoch)
            saved.append({name: value.clone() for name, value in self._saved_states()[0]["model"].items()})
            for quantizer in getattr(unwrap_model(self.model), CHILD)["activations"]:
                quantizer.log_scale.data.fill_(float("nan"))

    loaded = []
    load = CompressTrainer.load_exact_state

    def load_exact_state(self, state):
        load(self, state)
        loaded.append({name: value.clone() for name, value in unwrap_model(self.model).state_dict().items()})

    monkeypatch.setattr(CompressTrainer, "optimizer_step", optimizer_step)
    monkeypatch.setattr(CompressTrainer, "load_exact_state", load_exact_state)
    training.train(make_checkpoint(), name="run", **QAT, **{**settings, "epochs": 3})
    assert damaged == [1]
    assert len(loaded) == 1
    assert all(torch.equal(value, saved[0][name]) for name, value in loaded[0].items())
    assert len(losses(tmp_path / "runs" / "run")) == 3
    learned = Learned.read(checkpoint.load_model(tmp_path / "runs" / "run" / "weights" / "last.pt"))
    assert all(np.isfinite(affine.scale) for affine in learned.activations.values())


def test_it_trains_together_with_pruning_and_a_teacher(make_checkpoint, settings, tmp_path):
    student = make_checkpoint(width=0.25)
    flags = {"prune_flops": 0.3, "prune_images": 8, "prune_round_to": 2, "prune_importance": "l2", "teacher": "self"}
    training.train(student, name="run", **flags, **QAT, **settings)
    best = tmp_path / "runs" / "run" / "weights" / "best.pt"
    model = checkpoint.load_model(best)
    assert sum(p.numel() for p in model.parameters()) < sum(
        p.numel() for p in checkpoint.load_model(student).parameters()
    )
    assert Learned.read(model).fits(model)
    made = api.quantize(best, data=settings["data"], imgsz=64, project=tmp_path, name="int8")
    assert methods(made) == {"learned"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"quantize_keep": "model.99"}, "keep=model.99 names no convolution"),
        ({"quantize_max_drop": 0.5}, "max_drop belongs to quantization without training"),
        ({"quantize_latency": 0.7}, "latency belongs to quantization without training"),
        (
            {"prune_flops": 0.2, "prune_schedule": "iterative", "quantize_rounding": "adaround"},
            "rounding=adaround fits weights to images before training, which every step of schedule=iterative",
        ),
        (
            {"prune_flops": 0.2, "prune_schedule": "iterative", "qat_freeze": 0.3},
            "freeze=0.3 holds scales from there on, and steps of the pruning schedule, up to window=0.6, choose them",
        ),
        ({"quantize_learned": False}, "qat learns scales and learned=False throws them away"),
        ({"qat": "int4"}, "qat='int4'"),
        ({"qat_freeze": 2}, "qat_freeze=2"),
    ],
)
def test_what_cannot_be_trained_is_refused(make_checkpoint, settings, flags, message):
    with pytest.raises(CompressError) as caught:
        training.train(make_checkpoint(), name="no", **{**QAT, **flags}, **settings)
    assert message in str(caught.value)
