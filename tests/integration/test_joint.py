# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""One run that prunes by a schedule and trains quantized: after each step the quantizers are those of what is left."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from tests.integration.quantized import QAT, assert_same_scales, methods, training_start
from tests.tiny import assert_same_losses
from yolo_compress import api
from yolo_compress import train as training
from yolo_compress.host import checkpoint, trainer
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.host.ultralytics import unwrap_model
from yolo_compress.prune import attachment
from yolo_compress.quantize import Learned
from yolo_compress.quantize.attachment import QuantizationAware
from yolo_compress.quantize.emulation import CHILD, current, remove

JOINT = {
    **QAT,
    "prune_flops": 0.4,
    "prune_round_to": 2,
    "prune_images": 8,
    "prune_steps": 2,
    "prune_window": 0.8,
    "prune_importance": "l2",
}


@pytest.mark.parametrize(
    ("family", "optimizer"), [("yolov8n", "AdamW"), ("yolov8n", "MuSGD"), ("yolo11n", "AdamW"), ("yolo26n", "AdamW")]
)
def test_a_schedule_prunes_a_model_that_trains_quantized(make_checkpoint, settings, tmp_path, family, optimizer):
    path = make_checkpoint(family)
    settings |= {"epochs": 5, "optimizer": optimizer, "lr0": 0.001}
    training.train(path, name="run", prune_schedule="iterative", **JOINT, **settings)
    best = tmp_path / "runs" / "run" / "weights" / "best.pt"
    made, dense = checkpoint.load_model(best), checkpoint.load_model(path)
    assert 1 - checkpoint.count(made, 64)[1] / checkpoint.count(dense, 64)[1] == pytest.approx(0.4, rel=0.03)
    assert not hasattr(made, CHILD)
    learned = Learned.read(made)
    assert learned.fits(made)
    widths = {name: len(scales) for name, scales in learned.weights.items()}
    assert widths == {name: made.get_submodule(name).conv.out_channels for name in widths}
    start = training_start(best, settings)  # what would be chosen for the weights of the checkpoint, without training
    assert any(a.scale != b.scale for a, b in zip(learned.activations.values(), start, strict=True))
    quantized = api.quantize(best, data=settings["data"], imgsz=64, project=tmp_path, name="int8")
    assert methods(quantized) == {"learned"}


@pytest.mark.parametrize("mask", [{}, {"prune_mask": "unstructured", "prune_mask_share": 0.5}], ids=["dense", "masked"])
def test_after_a_step_scales_are_those_of_what_is_left(make_checkpoint, settings, tmp_path, monkeypatch, mask):
    """Ranges and scales are what quantization without training chooses for the average, which has just been pruned."""
    restructure, seen, woken = CompressTrainer.restructure, [], []

    def look(self, change):
        before = len(woken)
        restructure(self, change)
        assert len(woken) == before + 1, "the export of a search leaves torch fewer cores"
        qat = next(one for one in self._attachments if isinstance(one, QuantizationAware))
        averaged = deepcopy(self.ema.ema)
        now = current(averaged, qat.start)
        remove(averaged)
        file = tmp_path / f"{len(seen)}.pt"
        checkpoint.write_model(averaged, file)
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        alive = {id(p) for p in unwrap_model(self.model).parameters()}
        seen.append((now, training_start(file, settings), alive == held))

    monkeypatch.setattr(CompressTrainer, "restructure", look)
    monkeypatch.setattr(trainer, "use_all_cores", lambda: woken.append(True))
    settings |= {"epochs": 5, "optimizer": "AdamW", "lr0": 0.001, "fast_cpu": True, "workers": 0}
    training.train(make_checkpoint(), name="run", prune_schedule="iterative", **JOINT, **mask, **settings)
    assert len(seen) == 2
    for now, start, same in seen:
        assert same, "the optimizer trains the parameters of the model, no others"
        for a, b in zip(now.activations, start, strict=True):
            assert (a.scale, a.zero_point) == (pytest.approx(float(b.scale), rel=1e-5), b.zero_point)


@pytest.mark.parametrize(("kind", "saves"), [("iterative", 3), ("iterative", 4), ("gradual", 4)])  # around a step
def test_a_joint_run_that_was_cut_equals_the_uninterrupted_one(make_checkpoint, settings, tmp_path, cut, kind, saves):
    path = make_checkpoint()
    settings |= {"epochs": 6, "mosaic": 1.0, "close_mosaic": 1, "optimizer": "AdamW", "lr0": 0.001}
    flags = {**JOINT, "prune_schedule": kind}
    training.train(path, name="whole", **flags, **settings)
    with cut(saves):
        training.train(path, name="cut", **flags, **settings)
    training.train(tmp_path / "runs" / "cut" / "weights" / "last.pt", resume=True)
    assert_same_losses(tmp_path / "runs" / "whole", tmp_path / "runs" / "cut", epochs=6)
    assert_same_scales(*(tmp_path / "runs" / name / "weights" / "last.pt" for name in ("whole", "cut")))


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_step_that_is_taken_back_brings_its_quantizers_back(
    make_checkpoint, settings, tmp_path, monkeypatch, cut, interrupted
):
    note, load, undone = attachment.Pruning._note, CompressTrainer.load_exact_state, []

    def made_up(self, trainer):
        if trainer.epoch > self.progress.noted:
            trainer.metrics[attachment.MAP_KEY] = 0.4 if self.progress.done < 0.5 else 0.1
        note(self, trainer)

    def look(self, state):
        load(self, state)
        if hasattr(self, "epoch"):  # a run that is resumed has none yet
            now = self.exact_state()
            undone.append(
                all(
                    torch.equal(value, now[kind][name])
                    for kind in ("model", "ema")
                    for name, value in state[kind].items()
                )
            )

    monkeypatch.setattr(attachment.Pruning, "_note", made_up)
    monkeypatch.setattr(CompressTrainer, "load_exact_state", look)
    flags = {**JOINT, "prune_schedule": "gradual", "prune_window": 0.9, "prune_steps": 4}
    settings |= {"epochs": 14}
    path = make_checkpoint()
    if interrupted:
        with cut(4):  # after a step that will be taken back
            training.train(path, name="run", **flags, **settings)
        training.train(tmp_path / "runs" / "run" / "weights" / "last.pt", resume=True)
    else:
        training.train(path, name="run", **flags, **settings)
    assert undone
    assert all(undone)
    made = checkpoint.load_model(tmp_path / "runs" / "run" / "weights" / "last.pt")
    assert 1 - checkpoint.count(made, 64)[1] / checkpoint.count(checkpoint.load_model(path), 64)[1] == pytest.approx(
        0.4, rel=0.03
    )
    assert Learned.read(made).fits(made)
