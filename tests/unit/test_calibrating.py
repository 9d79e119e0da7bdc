# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The whole choice: what is looked at, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.tiny import tiny_model, write_data
from yolo_compress.calibrate.responses import TAIL, responses
from yolo_compress.calibrate.survey import survey
from yolo_compress.calibrating import calib
from yolo_compress.cli import main
from yolo_compress.errors import DataError, UnsupportedModel, UsageError
from yolo_compress.host.data import image_batches, read_data

IMAGES = ["luma", "contrast", "sharpness", "clutter"]
OBJECTS = ["classes", "objects", "areas"]


def quiet(data, **options):
    return calib(data, **{"plot": False, "progress": lambda _: None, **options})


def names(features) -> list[str]:
    return [feature.name for feature in features]


def test_the_manifest_says_what_was_chosen_and_how(tiny_data, tmp_path):
    made = quiet(tiny_data, n=3, out=tmp_path / "a.json", weights={"classes": 2})
    tree = json.loads(made.manifest.read_text())
    assert len(tree["images"]) == 3
    assert tree["images"] == sorted(tree["images"], key=lambda entry: entry["image"])
    assert tree["how"] == {
        "method": "cover",
        "seed": 0,
        "weights": {**dict.fromkeys([*IMAGES, *OBJECTS], 1.0), "classes": 2.0},
        "balance": 0.5,
        "objects": "labels",
        "model_sha256": None,
        "imgsz": 640,
        "side": 256,
        "yolo_compress": "0.1.0",
        "objective": tree["how"]["objective"],
    }
    assert list(tree["coverage"]) == [*IMAGES, *OBJECTS]
    assert 0 < tree["coverage"]["classes"]["covered"] <= 1
    assert tree["skipped"] == []
    assert made.picture is None


def test_same_seed_same_manifest_on_another_path(tiny_data, tmp_path):
    shutil.copytree(tiny_data.parent, tmp_path / "elsewhere" / "deeper")
    for data, out in ((tiny_data, "here"), (tmp_path / "elsewhere" / "deeper" / "data.yaml", "there")):
        quiet(data, n=4, seed=3, out=tmp_path / f"{out}.json")
    assert (tmp_path / "here.json").read_bytes() == (tmp_path / "there.json").read_bytes()


def test_a_covering_choice_scores_higher_than_random_ones(tmp_path):
    data = write_data(tmp_path / "data", train=40)
    chosen, drawn = (quiet(data, n=8, method=m, out=tmp_path / f"{m}.json").chosen for m in ("cover", "random"))
    assert chosen.how["objective"] > drawn.how["objective"]
    for row in chosen.coverage.values():
        assert row["score"] > row["random_score"] - 0.05  # one feature may give a little where others gain


def test_a_random_choice_is_what_quantize_draws(tmp_path):
    from yolo_compress.calibrate import choose

    data = write_data(tmp_path / "data", train=20)
    drawn = quiet(data, n=5, seed=7, method="random", out=tmp_path / "a.json").chosen
    assert drawn.names == choose(read_data(data), 5, seed=7).names


def test_the_table_and_the_picture(tiny_data, tmp_path):
    import cv2

    made = calib(tiny_data, n=3, out=tmp_path / "sub" / "a.json", progress=lambda _: None)
    text = str(made)
    assert text.startswith("3 of 8 training images, method cover, seed 0; random: mean of 20 draws of as many\n")
    assert [line.split()[0] for line in text.splitlines()[3:10]] == [*IMAGES, *OBJECTS]
    assert f"wrote {tmp_path / 'sub' / 'a.json'}" in text
    assert f"wrote {tmp_path / 'sub' / 'a.png'}" in text
    assert cv2.imread(str(made.picture)).shape[2] == 3


def test_without_labels_images_alone_count(tiny_data, tmp_path):
    shutil.rmtree(tiny_data.parent / "labels")
    made = quiet(tiny_data, n=3, labels=False, out=tmp_path / "a.json")
    assert list(made.chosen.coverage) == IMAGES
    assert made.chosen.how["objects"] == "none"
    with pytest.raises(
        DataError, match=r"none of the 8 training images of .* has a labelled object; give labels=false"
    ):
        quiet(tiny_data, n=3, out=tmp_path / "a.json")


def test_a_model_stands_in_for_labels_and_its_activations_count(tiny_data, tmp_path, make_checkpoint):
    shutil.rmtree(tiny_data.parent / "labels")
    told: list[str] = []
    found = survey(read_data(tiny_data), labels=False, model=make_checkpoint(), imgsz=64, progress=told.append)
    assert names(found.features)[-2:] == ["extremes", "percentiles"]
    assert ("classes" in names(found.features)) != any("detects nothing" in line for line in told)
    made = quiet(tiny_data, n=3, labels=False, model=make_checkpoint(), imgsz=64, out=tmp_path / "a.json")
    assert made.chosen.how["objects"] == "detections"
    assert len(made.chosen.how["model_sha256"]) == 64


def test_the_best_of_several_sets_is_for_a_target_and_a_range(tiny_data, tmp_path, make_checkpoint):
    options = {"n": 3, "model": make_checkpoint(), "imgsz": 64, "candidates": 4, "target": "tensorrt"}
    made = quiet(tiny_data, **options, range="minmax", out=tmp_path / "a.json")
    how = json.loads(made.manifest.read_text())["how"]
    assert len(how["candidates"]) == 4
    assert (how["target"], how["range"], how["scored_on"]) == ("tensorrt", "minmax", 8)
    assert "the best of 4 sets for target=tensorrt range=minmax: on 8 images detections move by" in str(made)
    shutil.copytree(tiny_data.parent, tmp_path / "elsewhere")
    quiet(tmp_path / "elsewhere" / "data.yaml", **options, range="minmax", out=tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("family", ["yolov8n", "yolo26n"])
def test_responses_are_those_of_the_model(tiny_data, family):
    import torch
    from ultralytics.nn.modules.conv import Conv

    from yolo_compress.host.detect import postprocess

    images = read_data(tiny_data).train[:2]
    model = tiny_model(family)
    with torch.no_grad():
        for tower in model.model[-1].modules():  # bias of the classes: so that something is found
            if isinstance(tower, torch.nn.Conv2d) and tower.out_channels == 3 and tower.bias is not None:
                tower.bias.fill_(-0.5)
    found = responses(model, images, imgsz=64)
    blocks = [m for m in model.modules() if isinstance(m, Conv)]
    outputs: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out.abs())) for block in blocks]
    for i, batch in enumerate(image_batches(images, 64, batch=1)):
        outputs.clear()
        with torch.inference_mode():
            raw = model(torch.from_numpy(batch))[0]
        assert found.extremes[i] == pytest.approx([float(out.max()) for out in outputs])
        for value, out in zip(found.percentiles[i], outputs, strict=True):
            assert int((out > value).sum()) <= max(1, round(TAIL * out.numel())) - 1 <= int((out >= value).sum())
        boxes = postprocess(raw, conf=0.25)[0]
        assert len(boxes) == len(found.objects[i]) > 0
        assert found.objects[i][:, 0].tolist() == boxes[:, 5].tolist()
        centre = (boxes[:, :2].clip(0, 64) + boxes[:, 2:4].clip(0, 64)) / 128
        assert found.objects[i][:, 1:3] == pytest.approx(centre, abs=1e-5)
    for hook in hooks:
        hook.remove()
    assert not any(block._forward_hooks for block in blocks)


def test_a_model_that_diverged_is_refused(tiny_data):
    import torch

    model = tiny_model()
    with torch.no_grad():
        model.model[0].conv.weight.fill_(float("nan"))
    with pytest.raises(UnsupportedModel, match=r"not finite on '.*000\.png'; the weights are damaged"):
        responses(model, read_data(tiny_data).train[:1], imgsz=64)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, UsageError, "n=0 is no calibration set"),
        ({"n": 9}, UsageError, "n=9 is more than the 8 training images of '"),
        ({"method": "covr"}, UsageError, "method=covr is not known; did you mean cover?"),
        ({"weights": ["classes"]}, UsageError, "weights=classes is no feature and number; write such as weights="),
        ({"weights": ["extremes=1"]}, UsageError, "there is no feature 'extremes' to weigh; choose from luma"),
        ({"out": "a.txt"}, UsageError, "out=a.txt is no name of a manifest; give one that ends in .json"),
        ({"candidates": 0}, UsageError, "candidates=0 leaves no set to choose; give 1, or 16 to have the best of 16"),
        (
            {"candidates": 4},
            UsageError,
            "candidates=4 compares sets by what a model quantized on them detects; give mode",
        ),
        ({"candidates": 4, "model": "none.pt", "target": "openvin"}, UsageError, "did you mean openvino?"),
        ({"candidates": 4, "model": "none.pt", "range": "minmx"}, UsageError, "did you mean minmax?"),
        ({"model": "none.pt"}, DataError, "weights 'none.pt' do not exist"),
        ({"model": "none.pt", "imgsz": 100}, UsageError, "imgsz=100 cannot be used, a detector needs a multiple of 32"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(tiny_data, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        quiet(tiny_data, **{"n": 3, **options})
    assert message in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


def test_a_model_of_other_classes_is_refused(tiny_data, make_checkpoint):
    with pytest.raises(UsageError, match=r"knows 2 classes and .* has 3; give the data that it was trained on"):
        quiet(tiny_data, n=3, model=make_checkpoint(nc=2), imgsz=64)


def test_a_label_of_no_class_is_refused(tiny_data):
    (tiny_data.parent / "labels" / "train" / "000.txt").write_text("7 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"a label has class 7 and .* names 3; correct the labels or 'names'"):
        quiet(tiny_data, n=3)


def test_an_empty_training_set(tiny_data):
    shutil.rmtree(tiny_data.parent / "images" / "train")
    (tiny_data.parent / "images" / "train").mkdir()
    with pytest.raises(DataError, match="train holds no images"):
        quiet(tiny_data, n=3)


def test_unreadable_images_are_skipped_only_if_asked_and_counted(tiny_data, tmp_path):
    (tiny_data.parent / "images" / "train" / "000.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"000\.png' cannot be read"):
        quiet(tiny_data, n=3)
    made = quiet(tiny_data, n=7, skip_unreadable=True, out=tmp_path / "a.json")
    assert json.loads(made.manifest.read_text())["skipped"] == ["images/train/000.png"]
    assert "note: 1 images that cannot be read were skipped" in str(made)
    with pytest.raises(UsageError, match="n=8 is more than the 7 training images that can be read of"):
        quiet(tiny_data, n=8, skip_unreadable=True)


def test_the_command_line_writes_beside_the_user(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["calib", f"data={tiny_data}", "n=3", "plot=false", "labels=false", "hashes=false"]) == 0
    out = capsys.readouterr().out
    assert "choosing 3 of 8 images: cover" in out
    tree = json.loads((tmp_path / "calib_data" / "data-3.json").read_text())
    assert [entry["sha256"] for entry in tree["images"]] == [None] * 3
    assert main(["calib", f"data={tiny_data}", "n=30"]) == 2
    assert "n=30 is more than the 8 training images" in capsys.readouterr().err


def test_quantizing_follows_a_manifest(tiny_data, tmp_path, make_checkpoint):
    from yolo_compress.context import context_for
    from yolo_compress.quantizing import quantize_checkpoint
    from yolo_compress.recipe import QuantizeSection

    made = quiet(tiny_data, n=2, out=tmp_path / "a.json")
    (tiny_data.parent / "images" / "train" / "008.png").write_bytes(made.chosen.images[0].read_bytes())
    context = context_for(
        make_checkpoint(), tiny_data, imgsz=64, device="cpu", run_dir=tmp_path, progress=lambda _: None
    )
    section = QuantizeSection(calibration=str(made.manifest), range="minmax")
    result = quantize_checkpoint(context.model, tmp_path / "int8", context, section)
    assert result.metrics["calibration_images"] == 2
    assert any("chosen from 8 training images and there are 9 now" in note for note in result.notes)
    again = json.loads((tmp_path / "int8" / "calibration.json").read_text())
    assert again["images"] == json.loads(made.manifest.read_text())["images"]
    with pytest.raises(DataError, match=r"none\.json' does not exist"):
        quantize_checkpoint(context.model, tmp_path, context, QuantizeSection(calibration="none.json"))


def test_training_quantized_begins_with_the_images_of_a_manifest(tiny_data, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from yolo_compress.quantize import attachment, start
    from yolo_compress.recipe import QatSection, QuantizeSection

    made = quiet(tiny_data, n=2, out=tmp_path / "a.json")
    given = []

    class Enough(Exception):
        pass

    def choose_all(model, placement, numbers, images, **options):
        given.extend(images)
        raise Enough

    monkeypatch.setattr(start, "choose_all", choose_all)
    trainer = SimpleNamespace(model=tiny_model(), args=SimpleNamespace(data=str(tiny_data), imgsz=64))
    form = QuantizeSection(calibration=str(made.manifest))
    with pytest.raises(Enough):
        attachment.QuantizationAware(QatSection(), form)._begin(trainer, trainer.model)
    assert given == list(made.chosen.images)


def test_a_run_looks_at_its_manifest_before_it_begins(tiny_data, tmp_path, make_checkpoint):
    from yolo_compress import pipeline
    from yolo_compress.recipe import QuantizeSection, Recipe

    made = quiet(tiny_data, n=2, out=tmp_path / "a.json")
    made.chosen.images[0].write_bytes(b"another image")
    recipe = Recipe(quantize=QuantizeSection(calibration=str(made.manifest)))
    with pytest.raises(DataError, match="is not the one that"):
        pipeline.run(recipe, model=make_checkpoint(), data=tiny_data, imgsz=64, project=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_values_of_a_survey_do_not_depend_on_where_images_lie(tiny_data, tmp_path):
    shutil.copytree(tiny_data.parent, tmp_path / "elsewhere")
    here, there = (survey(read_data(d)) for d in (tiny_data, tmp_path / "elsewhere" / "data.yaml"))
    for a, b in zip(here.features, there.features, strict=True):
        assert np.array_equal(a.members.toarray(), b.members.toarray())
