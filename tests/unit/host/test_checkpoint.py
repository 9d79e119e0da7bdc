# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints: what is refused, what survives, what is written."""

from __future__ import annotations

import os
import pickletools
import subprocess
import sys
import zipfile

import pytest
import torch

from tests.tiny import FAMILIES, tiny_model
from yolo_compress.errors import DataError, OutputError, UnsupportedModel
from yolo_compress.host import checkpoint


class Foreign(torch.nn.Module):
    """A class that no stock installation knows."""


def test_round_trip_keeps_weights_names_and_facts(tmp_path):
    model = tiny_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    described = checkpoint.save_model(model, tmp_path / "a.pt", facts={"prune": {"ratio": 0.5}})
    loaded = checkpoint.load_model(tmp_path / "a.pt")
    assert described.names == ("disc", "box", "bar") == checkpoint.names(loaded)
    assert checkpoint.facts(loaded) == {"prune": {"ratio": 0.5}}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the input was changed"
    for key, value in loaded.state_dict().items():
        expected = before[key].half().to(value.dtype) if value.is_floating_point() else before[key]
        assert torch.equal(value, expected)


def test_saved_file_names_stock_classes_only(tmp_path):
    checkpoint.save_model(tiny_model("yolo26n"), tmp_path / "a.pt", facts={"a": [1, 2.5, "x", None]})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        stream = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    modules = {str(argument).split(" ")[0] for op, argument, _ in pickletools.genops(stream) if op.name == "GLOBAL"}
    assert modules
    assert {name.partition(".")[0] for name in modules} <= checkpoint.TRUSTED


def test_weights_only_loading_works_without_this_package(tmp_path):
    checkpoint.save_model(tiny_model(), tmp_path / "a.pt", facts={"prune": {"ratio": 0.5}})
    code = (
        "import sys; sys.modules['yolo_compress'] = None\n"
        "from ultralytics import YOLO; m = YOLO(sys.argv[1]); print(m.model.yolo_compress, m.names)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pt")],
        capture_output=True,
        text=True,
        env={**os.environ, "ULTRALYTICS_SAFE_LOAD": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "{'prune': {'ratio': 0.5}} {0: 'disc', 1: 'box', 2: 'bar'}" in run.stdout


def test_missing_weights(tmp_path):
    with pytest.raises(DataError, match=r"do not exist; give the path of a trained checkpoint"):
        checkpoint.load_model(tmp_path / "no.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_corrupt_weights(tmp_path, content):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"is not a readable checkpoint"):
        checkpoint.load_model(tmp_path / "bad.pt")


def test_truncated_weights(tmp_path):
    checkpoint.save_model(tiny_model(), tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train or copy it again"):
        checkpoint.load_model(tmp_path / "a.pt")


def test_foreign_classes_are_refused_before_they_are_loaded(tmp_path):
    torch.save({"model": Foreign()}, tmp_path / "a.pt")
    with pytest.raises(UnsupportedModel, match=r"classes outside of Ultralytics and torch"):
        checkpoint.load_model(tmp_path / "a.pt")


@pytest.mark.parametrize(("name", "what"), [("yolov8n-seg", "segment"), ("yolov8n-cls", "classify")])
def test_other_tasks_are_refused(tmp_path, name, what):
    from ultralytics import YOLO

    model = YOLO(f"{name}.yaml")
    torch.save({"model": model.model.half(), "train_args": {"task": what}}, tmp_path / "a.pt")
    with pytest.raises(UnsupportedModel, match=r"only detect models|only models that end in Detect"):
        checkpoint.load_model(tmp_path / "a.pt")


def test_fused_models_are_refused(tmp_path):
    model = tiny_model().fuse(verbose=False)
    torch.save({"model": model.half(), "train_args": {}}, tmp_path / "a.pt")
    with pytest.raises(UnsupportedModel, match=r"fused for inference"):
        checkpoint.load_model(tmp_path / "a.pt")


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write"):
        checkpoint.save_model(tiny_model(), tmp_path / "file" / "a.pt")


def test_disk_full_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint.save_model(tiny_model(), tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"the disk is full"):
        checkpoint.save_model(tiny_model(seed=1), tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_structures_are_recognised(family):
    model = tiny_model(family)
    assert not checkpoint.restructured(model)
    convolution = model.model[0].conv
    convolution.weight = torch.nn.Parameter(convolution.weight[:4])
    assert checkpoint.restructured(model)


def test_count_equals_a_hand_count():
    model = tiny_model()
    params, gflops = checkpoint.count(model, 64)
    assert params == sum(p.numel() for p in model.parameters())
    total = 0

    def hook(module, inputs, output):
        nonlocal total
        kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
        total += 2 * kernel * output.numel()

    hooks = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    for handle in hooks:
        handle.remove()
    assert gflops == pytest.approx(total / 1e9, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_new_classes_keep_the_trained_box_branch(family):
    model = tiny_model(family)
    box = [tower[-1].bias.detach().clone() for tower in model.model[-1].cv2]
    checkpoint.set_classes(model, {i: str(i) for i in range(5)})
    assert model.model[-1].cv3[0][-1].out_channels == 5 == model.nc
    assert all(torch.equal(a, t[-1].bias) for a, t in zip(box, model.model[-1].cv2, strict=True))
    assert model.eval()(torch.zeros(1, 3, 64, 64))[0].shape[0] == 1
