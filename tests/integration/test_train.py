# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Training with attachments: off is bit-identical, resumed equals uninterrupted, nothing stays in the checkpoint."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from tests.tiny import assert_same_losses, losses, tiny_model
from yolo_compress import train as training
from yolo_compress.errors import UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.trainer import STATE_FILE, CompressTrainer


@pytest.mark.parametrize("family", ["yolov8n", "yolo26n"])
def test_without_our_keys_losses_are_bit_identical(make_checkpoint, settings, tmp_path, family):
    from ultralytics import YOLO

    path = make_checkpoint(family)
    YOLO(str(path)).train(name="stock", **settings)
    training.train(path, name="ours", **settings)
    stock, ours = (losses(tmp_path / "runs" / name) for name in ("stock", "ours"))
    assert len(stock) == 2
    assert stock == ours
    a, b = (checkpoint.load_model(tmp_path / "runs" / name / "weights" / "last.pt") for name in ("stock", "ours"))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("family", ["yolov8n", "yolo26n"])
def test_distillation_adds_columns_and_leaves_nothing(make_checkpoint, settings, tmp_path, family):
    student, teacher = make_checkpoint(family), make_checkpoint("yolo11n", name="t.pt", seed=1, width=0.25)
    keys = set(tiny_model(family).state_dict())
    training.train(student, teacher=str(teacher), name="kd", **settings)
    rows = losses(tmp_path / "runs" / "kd")
    assert all(float(row["train/cwd_loss"]) > 0 and float(row["train/response_loss"]) > 0 for row in rows)
    assert all(float(row["val/cwd_loss"]) == 0 for row in rows)
    weights = tmp_path / "runs" / "kd" / "weights"
    model = checkpoint.load_model(weights / "best.pt")
    assert set(model.state_dict()) == keys
    assert model.criterion is None
    assert not (weights / STATE_FILE).exists()
    assert checkpoint.facts(model)["recipe"]["distill"]["teacher"][0]["path"] == str(teacher)


@pytest.mark.parametrize("family", ["yolov8n", "yolo26n"])
def test_resumed_run_equals_the_uninterrupted_one(make_checkpoint, settings, tmp_path, monkeypatch, cut, family):
    student, teacher = make_checkpoint(family), make_checkpoint(family, name="t.pt", seed=1, width=0.25)
    projectors = []

    def load_and_keep(self, state):
        projectors.append(state)
        original(self, state)

    original = training.Distillation.load_state
    with cut(2):
        training.train(student, teacher=str(teacher), name="cut", **settings)
    weights = tmp_path / "runs" / "cut" / "weights"
    saved = torch.load(weights / STATE_FILE, weights_only=True)["saved"][0]["attachments"][0]["projectors"]
    assert saved, "the projectors were not saved"
    monkeypatch.setattr(training.Distillation, "load_state", load_and_keep)
    training.train(weights / "last.pt", resume=True)
    assert all(torch.equal(saved[key], value) for key, value in projectors[0]["projectors"].items())
    rows = losses(tmp_path / "runs" / "cut")
    assert len(rows) == 2
    assert float(rows[1]["train/cwd_loss"]) > 0
    assert not (weights / STATE_FILE).exists()


def test_flags_cannot_change_in_the_middle_of_a_run(make_checkpoint):
    with pytest.raises(UsageError, match=r"a resumed run keeps its recipe, and prune was given as well"):
        training.train(make_checkpoint(), resume=True, prune=0.5)


def test_unknown_key_is_answered_with_close_matches(make_checkpoint, settings):
    with pytest.raises(UsageError, match=r"'prune_ration' is not a valid argument"):
        training.train(make_checkpoint(), prune_ration=0.4, **settings)
    assert not Path(settings["project"]).exists()


def test_enable_makes_flags_legal_and_disable_takes_them_back(make_checkpoint, settings, tmp_path):
    from ultralytics import YOLO

    student, teacher = make_checkpoint(), make_checkpoint(name="t.pt", seed=1)
    settings["epochs"] = 1
    training.enable()
    try:
        YOLO(str(student)).train(name="ours", teacher=str(teacher), distill="response", **settings)
        YOLO(str(student)).train(name="none", **settings)
    finally:
        training.disable()
    assert "train/response_loss" in losses(tmp_path / "runs" / "ours")[0]
    assert "train/response_loss" not in losses(tmp_path / "runs" / "none")[0]
    with pytest.raises(SyntaxError, match="teacher"):
        YOLO(str(student)).train(name="off", teacher=str(teacher), **settings)


def test_pruned_model_is_kept_where_stock_training_rebuilds_it(make_checkpoint, settings, tmp_path):
    path = make_checkpoint()
    settings["epochs"] = 1
    training.train(path, name="pruned", prune=0.4, prune_images=8, prune_importance="l2", **settings)
    best = tmp_path / "runs" / "pruned" / "weights" / "best.pt"
    dense, pruned = checkpoint.count(checkpoint.load_model(path), 64), checkpoint.count(checkpoint.load_model(best), 64)
    assert pruned[0] < 0.7 * dense[0]
    training.train(best, name="again", **settings)
    again = checkpoint.load_model(tmp_path / "runs" / "again" / "weights" / "best.pt")
    assert checkpoint.count(again, 64) == pruned


def test_bf16_without_units_is_refused(make_checkpoint, settings, monkeypatch):
    from yolo_compress.host import cpu

    monkeypatch.setattr(cpu, "bf16_units", tuple)
    with pytest.raises(UsageError, match=r"amp=bf16 needs a CPU with bfloat16 units"):
        training.train(make_checkpoint(), fast_cpu=True, amp="bf16", **settings)


def test_fast_cpu_trains_in_bf16_with_loader_processes(make_checkpoint, settings, tmp_path, monkeypatch, cut):
    from yolo_compress.host import trainer

    seen = {}
    monkeypatch.setattr(trainer, "require_bf16", lambda: None)  # emulated where there are no units: slow, same code
    monkeypatch.setattr(trainer, "use_all_cores", lambda: torch.set_num_threads(3))
    original, model = CompressTrainer.preprocess_batch, CompressTrainer.set_model_attributes

    def one_core_left(self):  # as Ultralytics does whenever it chooses a device, for an export say
        torch.set_num_threads(1)
        model(self)

    def look(self, batch):
        batch = original(self, batch)
        seen["threads"] = torch.get_num_threads()
        seen["autocast"] = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        seen["layout"] = batch["img"].is_contiguous(memory_format=torch.channels_last)
        seen["workers"] = self.train_loader.num_workers
        return batch

    monkeypatch.setattr(CompressTrainer, "preprocess_batch", look)
    monkeypatch.setattr(CompressTrainer, "set_model_attributes", one_core_left)
    threads = torch.get_num_threads()
    try:
        with cut(2):
            training.train(make_checkpoint(), name="fast", fast_cpu=True, amp="bf16", workers=1, **settings)
        assert seen == {"autocast": True, "layout": True, "workers": 1, "threads": 3}
        seen.clear()
        training.train(tmp_path / "runs" / "fast" / "weights" / "last.pt", resume=True)  # as it began
    finally:
        torch.set_num_threads(threads)
    assert seen == {"autocast": True, "layout": True, "workers": 1, "threads": 3}
    assert torch.isfinite(torch.tensor([float(v) for v in losses(tmp_path / "runs" / "fast")[0].values()])).all()


SCHEDULED = {"prune_flops": 0.4, "prune_images": 8, "prune_round_to": 2, "prune_steps": 2}


def _shapes(path: Path) -> list[tuple[int, ...]]:
    return [tuple(value.shape) for value in checkpoint.load_model(path).state_dict().values()]


@pytest.mark.parametrize("family", ["yolov8n", "yolo11n", "yolo26n"])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "MuSGD"])
def test_a_schedule_prunes_in_the_middle_of_training(make_checkpoint, settings, tmp_path, family, optimizer):
    path = make_checkpoint(family)
    settings |= {"epochs": 5, "optimizer": optimizer, "lr0": 0.001}
    training.train(path, name="run", prune_schedule="iterative", prune_importance="l2", **SCHEDULED, **settings)
    weights = tmp_path / "runs" / "run" / "weights"
    made, dense = checkpoint.load_model(weights / "best.pt"), checkpoint.load_model(path)
    assert 1 - checkpoint.count(made, 64)[1] / checkpoint.count(dense, 64)[1] == pytest.approx(0.4, rel=0.03)
    told = checkpoint.facts(made)["prune"]
    assert [(step["epoch"], step["done"]) for step in told["steps"]] == [(0, 0.5), (2, 1.0)]
    assert told["params_before"] == checkpoint.count(dense, 64)[0]
    assert told["params_after"] == checkpoint.count(made, 64)[0]
    assert {row["width_before"] for row in told["layers"] if row["name"] == "model.0"} == {
        dense.model[0].conv.out_channels
    }
    assert sorted(file.name for file in weights.iterdir()) == ["best.pt", "last.pt"]


@pytest.mark.parametrize("patience", [100, 2])
def test_the_best_checkpoint_is_one_that_meets_the_target(make_checkpoint, settings, tmp_path, falling, patience):
    """Wider models were more accurate, and none since the last step has come near them."""
    path = make_checkpoint()
    settings |= {"epochs": 10, "patience": patience}
    training.train(path, name="run", prune_schedule="iterative", prune_importance="l2", **SCHEDULED, **settings)
    best, dense = checkpoint.load_model(tmp_path / "runs" / "run" / "weights" / "best.pt"), checkpoint.load_model(path)
    assert 1 - checkpoint.count(best, 64)[1] / checkpoint.count(dense, 64)[1] == pytest.approx(0.4, rel=0.03)
    assert len(falling) == (10 if patience == 100 else 6)  # the last step is taken before epoch 3 of 0 to 9


@pytest.mark.parametrize("kind", ["iterative", "gradual"])
def test_a_scheduled_run_that_was_cut_equals_the_uninterrupted_one(make_checkpoint, settings, tmp_path, cut, kind):
    path = make_checkpoint()
    settings |= {"epochs": 6, "mosaic": 1.0, "close_mosaic": 1, "optimizer": "AdamW", "lr0": 0.001}
    flags = {**SCHEDULED, "prune_schedule": kind, "prune_importance": "obs", "teacher": str(path)}
    training.train(path, name="whole", **flags, **settings)
    weights = tmp_path / "runs" / "cut" / "weights"
    with cut(3):  # once in between, once after a step, once at the end of an epoch
        training.train(path, name="cut", **flags, **settings)
    training.train(weights / "last.pt", resume=True)
    assert _shapes(weights / "last.pt") == _shapes(tmp_path / "runs" / "whole" / "weights" / "last.pt")
    assert_same_losses(tmp_path / "runs" / "whole", tmp_path / "runs" / "cut", epochs=6)


def test_a_step_that_costs_too_much_is_taken_back(make_checkpoint, settings, tmp_path, monkeypatch):
    from yolo_compress.prune import attachment

    path = make_checkpoint()
    settings |= {"epochs": 14}
    seen = []
    note = attachment.Pruning._note

    def made_up(self, trainer):
        if trainer.epoch > self.progress.noted:
            seen.append((trainer.epoch, self.progress.done, sum(p.numel() for p in trainer.model.parameters())))
            trainer.metrics[attachment.MAP_KEY] = 0.4 if self.progress.done < 0.5 else 0.1
        note(self, trainer)

    kept, restructure, back = [], CompressTrainer.restructure, attachment.Pruning._step_back

    def frozen(self, change):
        before = {name for name, value in self.model.named_parameters() if not value.requires_grad}
        restructure(self, change)
        kept.append(before == {name for name, value in self.model.named_parameters() if not value.requires_grad})

    def step_back(self, trainer):
        momenta = [group["momentum"] for group in trainer.optimizer.param_groups]
        back(self, trainer)
        assert [group["momentum"] for group in trainer.optimizer.param_groups] == momenta
        assert trainer.exact_state()["attachments"][0]["origin"] is not self.origin, (
            "later steps must not reach into it"
        )

    monkeypatch.setattr(attachment.Pruning, "_note", made_up)
    monkeypatch.setattr(attachment.Pruning, "_step_back", step_back)
    monkeypatch.setattr(CompressTrainer, "restructure", frozen)
    flags = {**SCHEDULED, "prune_schedule": "gradual", "prune_importance": "l2", "prune_window": 0.9, "prune_steps": 4}
    settings |= {"freeze": 2, "warmup_epochs": 3}
    training.train(path, name="run", **flags, **settings)
    assert all(kept)
    levels = [level for _, level, _ in seen]
    undone = next(i for i in range(1, len(levels)) if levels[i] < levels[i - 1])
    assert seen[undone][2] == seen[0][2], "the full width is back"
    assert levels[-1] == 1.0
    made, dense = (checkpoint.load_model(p) for p in (tmp_path / "runs" / "run" / "weights" / "last.pt", path))
    assert 1 - checkpoint.count(made, 64)[1] / checkpoint.count(dense, 64)[1] == pytest.approx(0.4, rel=0.03)


@pytest.mark.parametrize("sparsity", ["bn_l1", "group_lasso"])
def test_sparse_training_then_pruning_then_rewinding(make_checkpoint, settings, tmp_path, sparsity):
    path = make_checkpoint()
    settings |= {"epochs": 4, "lr0": 1e-6}  # so small that the end shows which weights it began with
    flags = {**SCHEDULED, "prune_steps": 1, "prune_start": 0.25, "prune_window": 0.5, "prune_importance": "l2"}
    flags |= {
        "prune_schedule": "iterative",
        "prune_sparsity": sparsity,
        "prune_rewind": True,
        "prune_repair": "nothing",
    }
    training.train(path, name="run", **flags, **settings)
    rows = losses(tmp_path / "runs" / "run")
    assert [float(row["train/sparsity_loss"]) > 0 for row in rows] == [True, False, False, False]
    dense = checkpoint.load_model(path).state_dict()
    made = checkpoint.load_model(tmp_path / "runs" / "run" / "weights" / "last.pt").state_dict()
    rows_of = {tuple(row.flatten()[:9].tolist()) for row in dense["model.0.conv.weight"].half().float()}
    assert made["model.0.conv.weight"].shape[0] <= len(rows_of)
    for row in made["model.0.conv.weight"]:
        assert (
            min(max(abs(a - b) for a, b in zip(row.flatten()[:9].tolist(), other, strict=True)) for other in rows_of)
            < 1e-3
        )


def test_a_schedule_counts_from_the_model_that_it_was_given(make_checkpoint, settings, tmp_path):
    """What an earlier pruning did to the same model stays out of it."""
    path = make_checkpoint()
    settings |= {"epochs": 5, "optimizer": "AdamW", "lr0": 0.001}
    flags = {**SCHEDULED, "prune_flops": 0.2, "prune_importance": "l2"}
    training.train(path, name="first", **{**flags, "prune_schedule": "one_shot"}, **{**settings, "epochs": 1})
    first = tmp_path / "runs" / "first" / "weights" / "last.pt"
    training.train(first, name="second", prune_schedule="iterative", **flags, **settings)
    told = checkpoint.facts(checkpoint.load_model(tmp_path / "runs" / "second" / "weights" / "last.pt"))["prune"]
    assert told["params_before"] == checkpoint.count(checkpoint.load_model(first), 64)[0]
    assert len(told["steps"]) == 2


def test_a_schedule_is_refused_in_a_run_that_ends_by_the_clock(make_checkpoint, settings):
    with pytest.raises(UsageError) as caught:
        training.train(make_checkpoint(), name="no", prune_schedule="gradual", **SCHEDULED, **settings, time=0.5)
    assert str(caught.value) == (
        "prune_schedule=gradual is planned by epochs, and time=0.5 ends the run by the clock; leave time out and give "
        "epochs"
    )


def test_a_schedule_that_does_not_fit_is_refused(make_checkpoint, settings):
    with pytest.raises(UsageError, match=r"prune_steps=4 steps, and 2 epochs .* leave room for 1; give epochs="):
        training.train(make_checkpoint(), prune=0.3, prune_schedule="gradual", **settings)
    with pytest.raises(UsageError, match=r"rewind acts while a schedule prunes"):
        training.train(make_checkpoint(), prune=0.3, prune_rewind=True, **settings)


def _zeros(model, masks_share: float) -> None:
    from yolo_compress.prune import build_graph
    from yolo_compress.prune.weights import maskable

    names = maskable(build_graph(model, imgsz=64), "unstructured")
    zero = sum(int((model.get_submodule(n).weight == 0).sum()) for n in names)
    total = sum(model.get_submodule(n).weight.numel() for n in names)
    assert zero / total == pytest.approx(masks_share, abs=2e-3)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "MuSGD"])
def test_masks_hold_through_fifty_steps_and_the_average(make_checkpoint, settings, tmp_path, optimizer):
    path = make_checkpoint()
    settings |= {"epochs": 25, "optimizer": optimizer, "lr0": 0.01, "val": False}
    steps, seen = [], []
    step = CompressTrainer.optimizer_step

    def look(self):
        step(self)
        steps.append(1)
        if len(steps) == 50:
            seen.extend([deepcopy(self.model).float(), deepcopy(self.ema.ema).float()])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompressTrainer, "optimizer_step", look)
        training.train(path, name="run", prune_mask="unstructured", prune_mask_share=0.7, **settings)
    assert len(steps) >= 50
    made = checkpoint.load_model(tmp_path / "runs" / "run" / "weights" / "last.pt")
    dense = checkpoint.load_model(path)
    for model in (*seen, made):
        _zeros(model, 0.7)
    assert not torch.equal(made.model[4].cv1.conv.weight, dense.model[4].cv1.conv.weight)
    assert checkpoint.facts(made)["prune"]["zero_share"] == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("flags", [{}, {"prune_flops": 0.3, "prune_round_to": 2}], ids=["weights", "both"])
def test_masks_follow_a_schedule_and_survive_a_cut(make_checkpoint, settings, tmp_path, cut, flags):
    path = make_checkpoint()
    settings |= {"epochs": 6, "optimizer": "AdamW", "lr0": 0.001}
    ours = {"prune_mask": "unstructured", "prune_mask_share": 0.6, "prune_schedule": "iterative", "prune_steps": 2}
    ours |= {"prune_images": 8, "prune_importance": "l2", **flags}
    training.train(path, name="whole", **ours, **settings)
    weights = tmp_path / "runs" / "cut" / "weights"
    with cut(4):
        training.train(path, name="cut", **ours, **settings)
    half = checkpoint.load_model(weights / "last.pt")
    assert checkpoint.facts(half)["prune"]["zero_share"] > 0.25
    training.train(weights / "last.pt", resume=True)
    assert_same_losses(tmp_path / "runs" / "whole", tmp_path / "runs" / "cut", epochs=6)
    made = checkpoint.load_model(weights / "last.pt")
    _zeros(made, 0.6)
    full = checkpoint.count(checkpoint.load_model(path), 64)[1]
    wanted = 1 - flags.get("prune_flops", 0)
    assert checkpoint.count(made, 64)[1] / full == pytest.approx(wanted, rel=0.03)


def test_blocks_go_before_training_and_stay_gone(make_checkpoint, settings, tmp_path):
    path = make_checkpoint()
    training.train(path, name="run", prune_blocks=2, prune_images=8, teacher=str(path), **settings)
    made, dense = checkpoint.load_model(tmp_path / "runs" / "run" / "weights" / "best.pt"), checkpoint.load_model(path)
    assert len(checkpoint.facts(made)["prune"]["blocks"]) == 2
    assert len(list(made.modules())) < len(list(dense.modules()))
    with pytest.raises(UsageError, match=r"prune_blocks=1 takes whole layers out|blocks=1 takes whole layers out"):
        training.train(path, name="no", prune_blocks=1, prune=0.2, prune_schedule="gradual", **settings)
