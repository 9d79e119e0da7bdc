# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The drawn set: the same bytes for the same seed, labels that fit the drawing, and nothing damaged used again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from yolo_compress.demo import DEMO_MODELS, run, write_demo_set
from yolo_compress.demo import scene as scene_module
from yolo_compress.demo.dataset import IMGSZ
from yolo_compress.demo.scene import CLASSES, MIN_SIDE, draw_scene, mask_box
from yolo_compress.errors import CompressError, DataError, OutputError

SMALL = {"train": 3, "val": 2, "imgsz": 96}
SCENES = 120  # enough that every class comes in several sizes
HALF_STEP = 5e-7  # labels are written with six decimals


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a set by its relative name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rng(*key: int) -> np.random.Generator:
    """Return the generator of a picture."""
    return np.random.Generator(np.random.PCG64(list(key)))


@pytest.fixture(scope="module")
def scenes():
    """Draw many pictures once."""
    return [draw_scene(rng(7, 0, k), size=IMGSZ) for k in range(SCENES)]


def test_same_seed_gives_the_same_bytes_in_another_folder(tmp_path):
    write_demo_set(tmp_path / "a", seed=3, **SMALL)
    write_demo_set(tmp_path / "b", seed=3, **SMALL)
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    images = [name for name in first if name.startswith("images/")]
    assert len(images) == SMALL["train"] + SMALL["val"]
    assert len({first[name] for name in images}) == len(images), "two pictures of a set are the same"


def test_another_seed_gives_other_pictures(tmp_path):
    write_demo_set(tmp_path / "a", seed=0, **SMALL)
    write_demo_set(tmp_path / "b", seed=1, **SMALL)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first.keys() == second.keys()
    assert not [name for name in first if name.endswith(".png") and first[name] == second[name]]


def test_a_longer_set_begins_with_the_shorter_one(tmp_path):
    write_demo_set(tmp_path / "short", seed=5, **SMALL)
    write_demo_set(tmp_path / "long", seed=5, **{**SMALL, "train": 5})
    short, long = contents(tmp_path / "short"), contents(tmp_path / "long")
    shared = [name for name in short if name.startswith(("images/", "labels/"))]
    assert [name for name in shared if short[name] != long[name]] == []


def test_boxes_are_tight_on_the_visible_mask(scenes):
    for scene in scenes:
        assert scene.image.shape == (IMGSZ, IMGSZ, 3)
        assert scene.image.dtype == np.uint8
        for part in scene.parts:
            x1, y1, x2, y2 = part.box
            assert 0 <= x1 < x2 <= IMGSZ
            assert 0 <= y1 < y2 <= IMGSZ
            assert min(x2 - x1, y2 - y1) >= MIN_SIDE
            inside = part.mask[y1:y2, x1:x2]
            assert inside.sum() == part.mask.sum(), "some of the part is outside its box"
            edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert all(edge.any() for edge in edges), "the box is larger than the part"
            assert part.box == mask_box(part.mask)


def test_every_class_is_drawn_where_its_mask_is_and_stands_off_the_backdrop():
    backdrop = 128.0
    empty = np.full((IMGSZ, IMGSZ, 3), backdrop, np.float32)
    for class_id, name in enumerate(CLASSES):
        layer, pixels = scene_module._draw_part(rng(1), class_id, IMGSZ, backdrop)
        mask = layer.alpha >= 0.5
        assert 50 < mask.sum() <= pixels
        assert not layer.colour[layer.alpha == 0].any(), f"a {name} has colour outside its outline"
        laid = scene_module._lay(rng(2), empty, layer)
        assert np.abs(laid - empty)[mask].max(axis=-1).mean() > 25, f"a {name} is hardly visible"


def test_masks_do_not_overlap(scenes):
    for scene in scenes:
        if scene.parts:
            assert np.sum([part.mask for part in scene.parts], axis=0).max() == 1


def test_classes_sizes_and_numbers_of_parts_are_covered(scenes):
    assert set(CLASSES) == {"bolt", "nut", "washer", "gear", "bracket", "knob"}
    numbers = Counter(len(scene.parts) for scene in scenes)
    assert numbers[0] > 0
    assert max(numbers) >= 5
    sides: dict[int, list[float]] = {k: [] for k in range(len(CLASSES))}
    for part in (part for scene in scenes for part in scene.parts):
        x1, y1, x2, y2 = part.box
        sides[part.class_id].append(max(x2 - x1, y2 - y1) / IMGSZ)
    for k, found in sides.items():
        assert len(found) >= 20, f"{CLASSES[k]} is rare"
        assert min(found) < 0.18, f"{CLASSES[k]} is never small"
        assert max(found) > 0.4, f"{CLASSES[k]} is never large"


def test_lighting_varies(scenes):
    levels = [float(scene.image.mean()) for scene in scenes]
    assert min(levels) < 80 < 150 < max(levels)


def test_labels_say_what_was_drawn(tmp_path):
    data = write_demo_set(tmp_path / "set", seed=2, train=6, val=1, imgsz=96)
    written = 0
    for k in range(6):
        scene = draw_scene(rng(2, 0, k), size=96)
        lines = (data.parent / f"labels/train/{k:04d}.txt").read_text().splitlines()
        assert len(lines) == len(scene.parts)
        for line, part in zip(lines, scene.parts, strict=True):
            class_id, x, y, w, h = (float(value) for value in line.split())
            corners = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            assert int(class_id) == part.class_id
            np.testing.assert_allclose(corners * 96, part.box, atol=96 * 2 * HALF_STEP)
            written += 1
    assert written > 0


def test_a_complete_set_is_used_again(tmp_path):
    data = write_demo_set(tmp_path / "set", **SMALL)
    before = {p: p.stat().st_mtime_ns for p in data.parent.rglob("*")}
    assert write_demo_set(tmp_path / "set", **SMALL) == data
    assert {p: p.stat().st_mtime_ns for p in data.parent.rglob("*")} == before


@pytest.mark.parametrize("damage", ["deleted picture", "changed label", "cut manifest"])
def test_a_damaged_set_is_drawn_again(tmp_path, damage):
    data = write_demo_set(tmp_path / "set", **SMALL)
    whole = contents(data.parent)
    if damage == "deleted picture":
        (data.parent / "images/train/0001.png").unlink()
    elif damage == "changed label":
        (data.parent / "labels/val/0000.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    else:
        (data.parent / "manifest.json").write_text('{"parameters": ')
    (data.parent / "labels" / "train.cache").write_bytes(b"made from the damaged set")
    write_demo_set(tmp_path / "set", **SMALL)
    assert contents(data.parent) == whole


def test_other_parameters_replace_the_set(tmp_path):
    write_demo_set(tmp_path / "set", **SMALL)
    write_demo_set(tmp_path / "set", **{**SMALL, "train": 1})
    assert len(list((tmp_path / "set/images/train").iterdir())) == 1


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    from yolo_compress.demo import dataset

    original, calls = dataset._write_picture, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(*args)

    monkeypatch.setattr(dataset, "_write_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_demo_set(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds no demonstration set and is not empty; give a new or empty folder"):
        write_demo_set(tmp_path, **SMALL)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"seed": -1}, {"imgsz": 32}])
def test_parameters_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(DataError, match="cannot be drawn; give a seed of at least 0"):
        write_demo_set(tmp_path / "set", **{**SMALL, **wrong})
    assert not (tmp_path / "set").exists()


def test_the_yaml_is_relative_to_itself_and_ultralytics_finds_the_pictures(tmp_path, monkeypatch):
    from yolo_compress.host.data import read_data

    data = write_demo_set(tmp_path / "a folder with spaces" / "set", **SMALL)
    tree = yaml.safe_load(data.read_text())
    assert tree == {"train": "images/train", "val": "images/val", "names": dict(enumerate(CLASSES))}
    moved = tmp_path / "moved elsewhere"
    data.parent.rename(moved)
    monkeypatch.chdir(tmp_path)
    spec = read_data("moved elsewhere/data.yaml")
    assert spec.names == CLASSES
    assert sorted(image.resolve() for image in spec.val) == sorted((moved / "images/val").resolve().iterdir())
    assert len(spec.train) == SMALL["train"]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Replace training by a file with a given accuracy, and note what is trained."""
    calls: list[str] = []

    def train(model, inputs, data, folder):
        calls.append(model.name)
        weights = tmp_path / f"{model.name}-weights"
        weights.write_text(json.dumps(inputs))
        return weights

    monkeypatch.setattr(run, "_train", train)
    monkeypatch.setattr(run, "_accuracy", lambda checkpoint, data: 0.71)
    monkeypatch.setattr(run, "write_demo_set", lambda folder, *, seed: write_demo_set(folder, seed=seed, **SMALL))
    return calls


def test_models_build_in_stock_ultralytics_and_the_student_is_the_smaller_one(tmp_path):
    from ultralytics import YOLO

    params = {}
    for model in DEMO_MODELS:
        (tmp_path / f"{model.name}.yaml").write_text(model.architecture(len(CLASSES)))
        built = YOLO(str(tmp_path / f"{model.name}.yaml"))
        assert built.task == "detect"
        assert built.model.model[-1].nc == len(CLASSES)
        assert built.model.stride.tolist() == [8, 16, 32]
        params[model.name] = sum(p.numel() for p in built.model.parameters())
    assert params["student"] < 0.75 * params["teacher"]


def test_a_trained_model_is_used_again_until_its_settings_change(tmp_path, trained):
    data = write_demo_set(tmp_path / "data", **SMALL)
    teacher = DEMO_MODELS[0]
    quiet = {"progress": lambda line: None}
    path, value = run.train_model(teacher, data, tmp_path, seed=0, **quiet)
    assert (path, value) == (tmp_path / "teacher.pt", 0.71)
    assert run.train_model(teacher, data, tmp_path, seed=0, **quiet) == (path, 0.71)
    assert trained == ["teacher"]
    run.train_model(teacher, data, tmp_path, seed=1, **quiet)
    assert len(trained) == 2, "another seed trains again"
    path.write_bytes(path.read_bytes()[:-1])
    run.train_model(teacher, data, tmp_path, seed=1, **quiet)
    assert len(trained) == 3, "a damaged checkpoint is not used"
    (tmp_path / "teacher.json").write_text("{")
    run.train_model(teacher, data, tmp_path, seed=1, **quiet)
    assert len(trained) == 4, "a record that was cut off is not believed"


def test_a_teacher_that_learned_too_little_stops_the_demonstration(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(run, "TEACHER_MAP50_95", 0.72)
    with pytest.raises(CompressError, match=r"the teacher reached mAP50-95 0\.710 with seed=0, and 0\.72 is needed"):
        run.run_demo(tmp_path / "demo", progress=lambda line: None)
    assert trained == ["teacher"]


def test_the_recipe_is_edge_cpu_with_this_teacher(tmp_path):
    from yolo_compress import recipe as recipes

    made, shipped = run.demo_recipe(tmp_path / "teacher.pt"), recipes.load("edge-cpu")
    assert [teacher.path for teacher in made.distill.teacher] == [str(tmp_path / "teacher.pt")]
    assert (made.name, made.build, made.prune.flops) == ("edge-cpu", shipped.build, shipped.prune.flops)
    assert made.train.settings["epochs"] < shipped.train.settings["epochs"]
    assert recipes.validate(made.model_dump(mode="json"), source="the demo") == made
