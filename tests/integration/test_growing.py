# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole runs in which the student grows."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import assert_same_losses
from yolo_compress import train as training
from yolo_compress.errors import CompressError
from yolo_compress.host import checkpoint
from yolo_compress.host.trainer import CompressTrainer
from yolo_compress.prune.growing import _Awake

GROW = {"grow": 0.5, "grow_steps": 2, "grow_window": 0.67}


@pytest.mark.parametrize("family", ["yolov8n", "yolo11n", "yolo26n"])
def test_channels_join_and_what_is_validated_is_what_is_saved(make_checkpoint, settings, tmp_path, monkeypatch, family):
    path, seen = make_checkpoint(family), []
    images = torch.rand(2, 3, 64, 64)
    save = CompressTrainer.save_model

    def look(self):
        save(self)
        saved = checkpoint.load_model(self.last)
        averaged = self.ema.ema
        hooks = [h for module in averaged.modules() for h in module._forward_hooks.values() if isinstance(h, _Awake)]
        awake = torch.cat([hook.mask for hook in hooks]).float().mean()
        with torch.no_grad():
            difference = (saved.float().eval()(images)[0] - averaged.eval()(images)[0]).abs().max()
        assert not any(module._forward_hooks for module in saved.modules())
        seen.append((round(float(awake), 2), float(difference)))

    monkeypatch.setattr(CompressTrainer, "save_model", look)
    settings |= {"epochs": 6, "optimizer": "AdamW", "lr0": 0.001}
    training.train(path, name="run", teacher=str(path), **GROW, **settings)
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert 0.5 <= shares[0] < shares[2] < shares[4] == 1.0
    assert max(difference for _, difference in seen) < 0.5  # pixels, of weights in half precision
    made = checkpoint.load_model(tmp_path / "runs" / "run" / "weights" / "last.pt")
    assert all(module.weight.all() for module in made.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert [tuple(p.shape) for p in made.parameters()] == [
        tuple(p.shape) for p in checkpoint.load_model(path).parameters()
    ]


@pytest.mark.parametrize("saves", [2, 6])
def test_a_run_that_was_cut_equals_the_uninterrupted_one(make_checkpoint, settings, tmp_path, cut, falling, saves):
    path = make_checkpoint()
    settings |= {"epochs": 6, "mosaic": 1.0, "close_mosaic": 1, "optimizer": "AdamW", "lr0": 0.001}
    training.train(path, name="whole", **GROW, **settings)
    with cut(saves):
        training.train(path, name="cut", **GROW, **settings)
    training.train(tmp_path / "runs" / "cut" / "weights" / "last.pt", resume=True)
    assert_same_losses(tmp_path / "runs" / "whole", tmp_path / "runs" / "cut", epochs=6)
    one, other, last = (
        checkpoint.load_model(tmp_path / "runs" / name).state_dict()
        for name in ("whole/weights/best.pt", "cut/weights/best.pt", "whole/weights/last.pt")
    )
    assert all(torch.allclose(one[name].float(), value.float(), atol=1e-4) for name, value in other.items())
    assert any(not torch.equal(one[name], value) for name, value in last.items()), "the first epoch of all is the best"
    assert all(value.all() for name, value in one.items() if name.endswith("bn.weight")), "and all channels train in it"


def test_a_student_that_was_pruned_first_grows_as_well(make_checkpoint, settings, tmp_path):
    path = make_checkpoint(width=0.25)
    flags = {"prune_flops": 0.3, "prune_images": 8, "prune_round_to": 2, "prune_importance": "l2", **GROW}
    training.train(path, name="run", **flags, **{**settings, "epochs": 4})
    made, dense = checkpoint.load_model(tmp_path / "runs" / "run" / "weights" / "last.pt"), checkpoint.load_model(path)
    assert 1 - checkpoint.count(made, 64)[1] / checkpoint.count(dense, 64)[1] == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"qat": "int8"}, "grow lets channels sleep while the model trains, and qat would choose by what is awake"),
        ({"prune_flops": 0.2, "prune_schedule": "iterative"}, "and a pruning schedule would choose by what is awake"),
        ({"time": 0.1}, "grow is planned by epochs, and time=0.1 ends the run by the clock; leave time out and give"),
        ({"grow": 1.0}, "grow=1.0: input should be less than 1"),
        ({"grow_steps": 9}, "grow takes grow_steps=9 steps, and 2 epochs with grow_window=0.67 leave room for 1"),
    ],
)
def test_what_does_not_go_together_is_refused(make_checkpoint, settings, flags, message):
    with pytest.raises(CompressError) as caught:
        training.train(make_checkpoint(), name="no", **{**GROW, **flags}, **settings)
    assert message in str(caught.value)
