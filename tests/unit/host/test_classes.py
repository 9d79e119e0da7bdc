# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Some of the classes: the scores are those of before, and so is everything that is not left out."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies

from tests.tiny import FAMILIES, tiny_model
from yolo_compress.errors import DataError, UnsupportedModel, UsageError
from yolo_compress.host import checkpoint, classes, data
from yolo_compress.host.detect import class_outputs

NAMES = ("disc", "box", "bar")


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_boxes_are_those_of_the_classes_kept(family):
    model = tiny_model(family, nc=5).double()
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kept = [3, 0]
    narrow = classes.keep_classes(model, kept)
    with torch.no_grad():
        before, after = model(image)[1], narrow(image)[1]
    branches = [(before[b], after[b]) for b in ("one2many", "one2one")] if "one2many" in before else [(before, after)]
    for full, some in branches:
        torch.testing.assert_close(some["scores"], full["scores"][:, kept], rtol=0, atol=1e-12)
        torch.testing.assert_close(some["boxes"], full["boxes"], rtol=0, atol=1e-12)
    assert narrow.names == {0: "ring", 1: "disc"}
    assert narrow.model[-1].nc == narrow.nc == narrow.yaml["nc"] == 2
    assert model.model[-1].nc == 5
    assert narrow.args["data"] is None
    assert checkpoint.facts(narrow)["classes"] == {"before": 5, "kept": ["ring", "disc"]}


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_stock_ultralytics_finds_what_it_found_of_these_classes_where_boxes_may_have_several(family, tmp_path):
    from ultralytics import YOLO
    from ultralytics.utils.nms import non_max_suppression

    model = tiny_model(family, nc=5)
    for last in class_outputs(model).values():
        last.bias.data += 6  # of random weights hardly anything would be found
    checkpoint.save_model(model, tmp_path / "all.pt")
    checkpoint.save_model(classes.keep_classes(model, [1, 4]), tmp_path / "some.pt")
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        full, some = (YOLO(tmp_path / f"{name}.pt").model(image)[0] for name in ("all", "some"))
    settings = {"conf_thres": 0.01, "multi_label": True, "max_det": 10_000}
    (expected,) = non_max_suppression(full, classes=[1, 4], **settings)
    (found,) = non_max_suppression(some, **settings)
    expected[:, 5] = (expected[:, 5] == 4).float()
    assert len(found) > 5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@hypothesis.given(strategies.permutations(range(5)), strategies.integers(1, 5))
def test_any_choice_of_a_choice_is_the_choice_at_once(order, count):
    model = tiny_model(nc=5)
    first, second = order[:count], list(range(count))[::-1]
    twice = classes.keep_classes(classes.keep_classes(model, first), second)
    once = classes.keep_classes(model, first[::-1])
    assert twice.names == once.names
    assert all(torch.equal(a, b) for a, b in zip(twice.state_dict().values(), once.state_dict().values(), strict=True))


def test_names_and_numbers():
    assert classes.class_numbers(NAMES, ["bar", " DISC "], of="it") == (2, 0)
    assert classes.class_numbers(NAMES, ["1", 0], of="it") == (1, 0)
    assert classes.class_numbers(("7", "a"), ["7"], of="it") == (0,)  # a name comes before a number
    assert classes.class_numbers(("Car", "car"), ["Car", "car"], of="it") == (0, 1)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([], "name some, such as keep=person,car"),
        (["dics"], "it has no class 'dics'; did you mean disc"),
        (["3"], "it has no class 3; its 3 classes end at 2"),
        (["bar", "2"], "class 'bar' is named twice"),
    ],
)
def test_unknown_classes(keep, message):
    with pytest.raises(UsageError, match=message):
        classes.class_numbers(NAMES, keep, of="it")


def test_a_model_that_was_trained_quantized_is_refused():
    model = tiny_model()
    checkpoint.set_facts(model, {"qat": {}})
    with pytest.raises(UsageError, match="leave classes out of the float checkpoint"):
        classes.keep_classes(model, [0])


def test_another_head_is_refused():
    model = tiny_model()
    model.model[-1].__class__ = type("Other", (type(model.model[-1]),), {})
    with pytest.raises(UnsupportedModel, match="a head of type Other"):
        classes.keep_classes(model, [0])


def test_data_holds_the_labels_of_the_classes_kept(tiny_data, tmp_path):
    spec = data.read_data(tiny_data)
    made = classes.write_kept_data(spec, [2, 0], tmp_path / "some")
    some = data.read_data(made.path)
    assert some.names == ("bar", "disc")
    assert [path.read_bytes() for path in some.train] == [path.read_bytes() for path in spec.train]
    objects = filled = 0
    for split in ("train", "val"):
        pairs = zip(data.labels_for(getattr(spec, split)), data.labels_for(getattr(some, split)), strict=True)
        for before, after in pairs:
            expected = [[{2: 0, 0: 1}[int(row[0])], *row[1:]] for row in before.tolist() if row[0] != 1]
            assert after.tolist() == expected
            objects, filled = objects + len(expected), filled + bool(expected)
    assert (made.objects, made.images_with_objects) == (objects, filled)
    assert (made.objects_before, made.images) == (24, 12)


def test_data_can_be_moved_and_is_read_by_ultralytics(tiny_data, tmp_path):
    from ultralytics.data import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    classes.write_kept_data(data.read_data(tiny_data), [1], tmp_path / "some")
    moved = (tmp_path / "some").rename(tmp_path / "moved")
    tree = check_det_dataset(str(moved / "data.yaml"), autodownload=False)
    assert tree["nc"] == 1
    seen = YOLODataset(img_path=tree["val"], data=tree, imgsz=64, augment=False)
    expected = [(rows[:, 0] == 1).sum() for rows in data.labels_for(data.read_data(tiny_data).val)]
    assert [len(item["cls"]) for item in seen.labels] == expected
    assert all((item["cls"] == 0).all() for item in seen.labels)


@pytest.mark.parametrize("layout", ["images/{split}", "{split}/images", "{split}"])
def test_any_layout_of_folders(layout, tmp_path):
    for split in ("train", "val"):
        images = tmp_path / "set" / layout.format(split=split)
        labels = tmp_path / "set" / layout.format(split=split).replace("images", "labels")
        for folder, name, content in ((images, "a.png", b"image"), (labels, "a.txt", b"2 0.5 0.5 0.1 0.1\n")):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content + split.encode() * (name == "a.png"))
    lines = [f"{split}: {layout.format(split=split)}" for split in ("train", "val")]
    (tmp_path / "set" / "data.yaml").write_text("\n".join([*lines, "names: [disc, box, bar]", ""]))
    made = classes.write_kept_data(data.read_data(tmp_path / "set" / "data.yaml"), [2, 1], tmp_path / "some")
    assert (made.objects, made.images) == (2, 2)
    some = data.read_data(made.path)
    assert [path.read_bytes() for path in (*some.train, *some.val)] == [b"imagetrain", b"imageval"]
    assert data.labels_for(some.val)[0].tolist() == [[0.0, 0.5, 0.5, pytest.approx(0.1), pytest.approx(0.1)]]


def test_two_images_that_would_get_one_name(tmp_path):
    spec = data.DataSpec(tmp_path / "d.yaml", NAMES, (tmp_path / "images/a.png",), (tmp_path / "a.png",), tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match="would share one label file; rename one of them"):
        classes.write_kept_data(spec, [0], tmp_path / "some")


def test_an_image_of_both_splits_is_there_once(tiny_data, tmp_path):
    tiny_data.write_text("train: images/train\nval: images/train\nnames: [disc, box, bar]\n")
    made = classes.write_kept_data(data.read_data(tiny_data), [0, 1], tmp_path / "some")
    assert made.images == 8
    assert len(data.read_data(made.path).val) == 8


def test_folders_outside_of_that_of_the_yaml(tmp_path):
    for place in ("a/b/images", "other/images"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place.replace("images", "labels")).mkdir()
        (tmp_path / place / "x.png").write_bytes(place.encode())
        (tmp_path / place.replace("images", "labels") / "x.txt").write_text("\ufeff1 0.5 0.5 0.1 0.1\n", "utf-8")
    absolute = tmp_path / "a" / "b" / "images" / "x.png"
    (tmp_path / "a" / "b" / "train.txt").write_text(f"{absolute}\n./images/x.png\n")
    yaml = tmp_path / "a" / "b" / "data.yaml"
    yaml.write_text("train: train.txt\nval: ../../other/images\nnames: [disc, box]\n")
    before = sorted(tmp_path.rglob("*"))
    made = classes.write_kept_data(data.read_data(yaml), [1], tmp_path / "some")
    some = data.read_data(made.path)
    assert {path.read_bytes() for path in (*some.train, *some.val)} == {b"a/b/images", b"other/images"}
    assert [rows[0, 0] for rows in data.labels_for(some.val)] == [0]
    assert [path for path in sorted(tmp_path.rglob("*")) if tmp_path / "some" not in (path, *path.parents)] == before


def test_what_is_there_stays_where_no_object_is_left(tiny_data, tmp_path):
    for file in (tiny_data.parent / "labels" / "val").iterdir():
        file.write_text("")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "mine").write_text("kept")
    with pytest.raises(DataError, match=r"no val image of .* has an object of disc, bar; keep other classes"):
        classes.write_kept_data(data.read_data(tiny_data), [0, 2], tmp_path / "some")
    assert [file.name for file in (tmp_path / "some").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "content", [b"disc 0.5 0.5 0.1 0.1\n", b"0\n", b"\xff\xfe", b"0.7 0.5 0.5 0.1 0.1\n", b"nan 0.5 0.5 0.1 0.1\n"]
)
def test_a_damaged_label_is_named(tiny_data, tmp_path, content):
    (tiny_data.parent / "labels" / "train" / "003.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"003.txt' are not rows of 'class x y width height'"):
        classes.write_kept_data(data.read_data(tiny_data), [0], tmp_path / "some")


def test_the_system_that_makes_no_symbolic_links(tiny_data, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr("pathlib.Path.symlink_to", refused)
    made = classes.write_kept_data(data.read_data(tiny_data), [0], tmp_path / "some")
    images = data.read_data(made.path).train
    assert not any(path.is_symlink() for path in images)
    assert images[0].read_bytes() == data.read_data(tiny_data).train[0].read_bytes()
