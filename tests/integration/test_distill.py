# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Distillation in whole training runs: off is bit-identical, what is saved is the student alone, runs go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny import assert_same_losses, losses
from yolo_compress import train as training
from yolo_compress.distill.registry import LOSSES
from yolo_compress.errors import UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.trainer import STATE_FILE, CompressTrainer

STILL = dict.fromkeys(("translate", "scale", "fliplr", "hsv_h", "hsv_s", "hsv_v", "mosaic"), 0.0)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_model(folder / "weights" / "last.pt").state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


@pytest.mark.parametrize("family", ["yolov8n", "yolo26n"])
def test_a_weight_of_zero_is_bit_identical_to_no_distillation(make_checkpoint, settings, tmp_path, family):
    from ultralytics import YOLO

    student, teacher = make_checkpoint(family), make_checkpoint(family, name="t.pt", seed=1)
    YOLO(str(student)).train(name="stock", **settings)
    training.train(student, name="zero", teacher=str(teacher), distill="cwd=0,response=0,ld=0", **settings)
    assert losses(tmp_path / "runs" / "stock") == losses(tmp_path / "runs" / "zero")
    assert same(weights_of(tmp_path / "runs" / "stock"), weights_of(tmp_path / "runs" / "zero"))


@pytest.mark.parametrize("family", ["yolov8n", "yolo11n", "yolo26n"])
def test_all_losses_at_once_leave_a_stock_student(make_checkpoint, settings, tmp_path, family):
    student, teacher = make_checkpoint(family), make_checkpoint(family, name="t.pt", seed=1)
    wanted = [n for n in LOSSES if not (n == "ld" and family == "yolo26n") and not (n == "psa" and family == "yolov8n")]
    training.train(student, name="run", teacher=str(teacher), distill=",".join(wanted), **settings)
    folder = tmp_path / "runs" / "run"
    for row in losses(folder):
        assert all(float(row[f"train/{name}_loss"]) > 0 for name in wanted)
        assert all(float(row[f"val/{name}_loss"]) == 0 for name in wanted)
    best = folder / "weights" / "best.pt"
    model = checkpoint.load_model(best)
    assert set(model.state_dict()) == set(checkpoint.load_model(student).state_dict())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    blocked = "import sys; sys.modules['yolo_compress'] = None; import torch; from ultralytics import YOLO; "
    code = f"YOLO({str(best)!r}).predict(torch.zeros(1, 3, 64, 64), verbose=False)"
    env = {**os.environ, "ULTRALYTICS_SAFE_LOAD": "1"}
    subprocess.run([sys.executable, "-c", blocked + code], check=True, env=env, capture_output=True)


def test_without_labels_images_alone_teach(make_checkpoint, settings, tmp_path):
    student, teacher = make_checkpoint(), make_checkpoint(name="t.pt", seed=1)
    flags = {"teacher": str(teacher), "distill": "response,ld,fgd,relation", "labels": False}
    training.train(student, name="with", **flags, **settings)
    labels = Path(settings["data"]).parent / "labels" / "train"
    for file in labels.iterdir():
        file.write_text("")
    for cache in labels.parent.glob("*.cache"):
        cache.unlink()
    training.train(student, name="without", **flags, **settings)
    for name in ("with", "without"):
        for row in losses(tmp_path / "runs" / name):
            assert float(row["train/box_loss"]) == float(row["train/cls_loss"]) == float(row["train/dfl_loss"]) == 0
            assert float(row["train/ld_loss"]) > 0
    assert float(losses(tmp_path / "runs" / "with")[0]["val/cls_loss"]) > 0
    assert same(weights_of(tmp_path / "runs" / "with"), weights_of(tmp_path / "runs" / "without"))
    assert not same(weights_of(tmp_path / "runs" / "with"), checkpoint.load_model(student).state_dict())


def test_closing_epochs_and_schedules(make_checkpoint, settings, tmp_path):
    student, teacher = make_checkpoint(), make_checkpoint(name="t.pt", seed=1)
    # one batch of all images, and steps so small that a loss changes by its weight alone
    settings |= {**STILL, "epochs": 4, "batch": 8, "lr0": 1e-9, "close_mosaic": 1}
    wanted = {"response": {"schedule": "linear"}, "cwd": {"weight": 2.0}}
    flags = {"teacher": str(teacher), "distill_close_epochs": "mosaic"}
    training.train(student, name="run", distill=wanted, **flags, **settings)
    found = {name: [float(r[f"train/{name}_loss"]) for r in losses(tmp_path / "runs" / "run")] for name in wanted}
    assert found["cwd"][:3] == pytest.approx([found["cwd"][0]] * 3, rel=0.05)
    assert [v / found["response"][0] for v in found["response"][:3]] == pytest.approx([1, 3 / 4, 2 / 4], rel=0.05)
    assert found["cwd"][3] == found["response"][3] == 0


def test_warm_up_rises_from_zero(make_checkpoint, settings, tmp_path):
    student, teacher = make_checkpoint(), make_checkpoint(name="t.pt", seed=1)
    settings |= {**STILL, "epochs": 4, "batch": 8, "lr0": 1e-9}
    training.train(student, name="run", teacher=str(teacher), distill="cwd", distill_warmup=0.5, **settings)
    found = [float(row["train/cwd_loss"]) for row in losses(tmp_path / "runs" / "run")]
    assert [value / found[3] for value in found] == pytest.approx([0, 1 / 2, 1, 1], rel=0.05)


def test_two_equal_teachers_are_one_and_a_chain_takes_turns(make_checkpoint, settings, tmp_path, monkeypatch):
    from yolo_compress.distill.teacher import Teacher

    settings |= STILL
    student, one, other = make_checkpoint(), make_checkpoint(name="a.pt", seed=1), make_checkpoint(name="b.pt", seed=2)
    flags = {"distill": "response,at,iou", **settings}
    training.train(student, name="one", teacher=str(one), **flags)
    training.train(student, name="twice", teacher=f"{one},{one}", **flags)
    for a, b in zip(*(losses(tmp_path / "runs" / name) for name in ("one", "twice")), strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-3)
    asked = []
    answer = Teacher.__call__
    monkeypatch.setattr(Teacher, "__call__", lambda self, images: asked.append(self.path.name) or answer(self, images))
    training.train(student, name="chain", teacher=[str(one), str(other)], distill_order="chain", **flags)
    assert asked == ["a.pt"] * 2 + ["b.pt"] * 2
    asked.clear()
    teachers = [{"path": str(one), "levels": [3]}, {"path": str(other), "levels": [4, 5]}]
    training.train(student, name="levels", teacher=teachers, distill_trust="fit", **flags)
    assert asked == ["a.pt", "b.pt"] * 4
    assert all(float(row["train/response_loss"]) > 0 for row in losses(tmp_path / "runs" / "levels"))


def test_a_cache_gives_the_same_run_and_refuses_augmentation(make_checkpoint, settings, tmp_path, monkeypatch):
    from yolo_compress.distill.teacher import Teacher

    student, teacher = make_checkpoint(), make_checkpoint(name="t.pt", seed=1)
    # without labels, whose assignment to the anchors of an untrained model turns on the last digit
    flags = {"teacher": str(teacher), "distill": "response,cwd,crosskd", "labels": False}
    with pytest.raises(UsageError, match=r"hsv_h, .* make every image look different .* hsv_h=0"):
        training.train(student, name="no", distill_cache=True, **flags, **settings)
    settings |= {**STILL, "epochs": 3}
    passes = []
    answer = Teacher._answer
    monkeypatch.setattr(Teacher, "_answer", lambda self, images: passes.append(1) or answer(self, images))
    for name, cached in (("asked", False), ("kept", True)):
        passes.clear()
        training.train(student, name=name, distill_cache=cached, **flags, **settings)
        assert len(passes) == (2 if cached else 6)
    for a, b in zip(*(losses(tmp_path / "runs" / name) for name in ("asked", "kept")), strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, rel=2e-2, abs=3e-4
        )


def test_a_run_that_is_killed_goes_on_with_the_same_losses(make_checkpoint, settings, tmp_path, killed):
    """SIGKILL after the first of three epochs, then resume: equal to the run that nothing interrupted."""
    student, teacher = make_checkpoint(), make_checkpoint(name="t.pt", seed=1, width=0.25)
    # a schedule seeds every epoch by its number, so that both runs see the same batches
    settings |= {"epochs": 4, "optimizer": "AdamW", "lr0": 0.001}
    flags = {"teacher": str(teacher), "distill": "cwd,crosskd,ld", "prune_flops": 0.3, "prune_images": 8}
    flags |= {"prune_schedule": "iterative", "prune_steps": 1, "prune_round_to": 2, "prune_importance": "l2"}
    training.train(student, name="whole", **flags, **settings)
    weights = killed(student, epoch=2, **flags, **settings)
    assert (weights / STATE_FILE).is_file()
    training.train(weights / "last.pt", resume=True)
    assert_same_losses(tmp_path / "runs" / "whole", tmp_path / "runs" / "cut", epochs=4)


def test_a_ddp_worker_builds_the_same_attachments(make_checkpoint, settings, tmp_path):
    """The file that Ultralytics writes for each GPU, run as a process of its own; it finds one device here."""
    pytest.importorskip("cloudpickle", reason="Ultralytics needs it for more than one GPU")
    from ultralytics.utils.dist import generate_ddp_file

    student, teacher = make_checkpoint(), make_checkpoint(name="t.pt", seed=1)
    flags = {"teacher": str(teacher), "distill": "cwd,ld"}
    training.train(student, name="here", **flags, **settings)
    plan, native = training.plan_for({**flags, **settings, "model": str(student)})
    trainer = CompressTrainer.bound(plan)(overrides={**native, "name": "there"})
    shutil.rmtree(trainer.save_dir)
    file = Path(generate_ddp_file(trainer))
    try:
        ran = subprocess.run([sys.executable, str(file)], check=False, capture_output=True, text=True)
    finally:
        file.unlink()
        file.with_suffix(".pt").unlink()
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert losses(tmp_path / "runs" / "there") == losses(tmp_path / "runs" / "here")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"teacher": "gone.pt"}, "weights 'gone.pt' do not exist"),
        (
            {"teacher": "{teacher}", "distill": "psa"},
            "psa compares attention blocks one by one; the student has blocks with",
        ),
        ({"teacher": "{teacher}", "distill": {"cwd": {"layers": ["model.99"]}}}, "the student has no layer 'model.99'"),
        ({"teacher": "{end_to_end}", "distill": "ld"}, "ld compares distributions of box sides"),
        ({"teacher": [{"path": "{teacher}", "levels": [2]}]}, "has no level P2; its levels are P3, P4, P5"),
    ],
)
def test_what_cannot_teach_is_refused(make_checkpoint, settings, flags, message):
    from yolo_compress.errors import CompressError

    student = make_checkpoint()
    files = {"teacher": make_checkpoint(name="t.pt"), "end_to_end": make_checkpoint("yolo26n")}

    def filled(value):
        if isinstance(value, str):
            return value.format(**files)
        return [{**entry, "path": filled(entry["path"])} for entry in value]

    with pytest.raises(CompressError) as caught:
        training.train(student, name="no", **{**flags, "teacher": filled(flags["teacher"])}, **settings)
    assert message in str(caught.value)
