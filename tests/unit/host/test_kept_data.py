# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A data set of some classes: the labels that are left, wherever images lie, and nothing else touched."""

from __future__ import annotations

import pytest

from yolo_compress.errors import DataError
from yolo_compress.host import data
from yolo_compress.host.kept_data import write_kept_data

NAMES = ("disc", "box", "bar")


def test_data_holds_the_labels_of_the_classes_kept(tiny_data, tmp_path):
    spec = data.read_data(tiny_data)
    made = write_kept_data(spec, [2, 0], tmp_path / "some")
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

    write_kept_data(data.read_data(tiny_data), [1], tmp_path / "some")
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
    made = write_kept_data(data.read_data(tmp_path / "set" / "data.yaml"), [2, 1], tmp_path / "some")
    assert (made.objects, made.images) == (2, 2)
    some = data.read_data(made.path)
    assert [path.read_bytes() for path in (*some.train, *some.val)] == [b"imagetrain", b"imageval"]
    assert data.labels_for(some.val)[0].tolist() == [[0.0, 0.5, 0.5, pytest.approx(0.1), pytest.approx(0.1)]]


def test_two_images_that_would_get_one_name(tmp_path):
    spec = data.DataSpec(tmp_path / "d.yaml", NAMES, (tmp_path / "images/a.png",), (tmp_path / "a.png",), tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match="would share one label file; rename one of them"):
        write_kept_data(spec, [0], tmp_path / "some")


def test_an_image_of_both_splits_is_there_once(tiny_data, tmp_path):
    tiny_data.write_text("train: images/train\nval: images/train\nnames: [disc, box, bar]\n")
    made = write_kept_data(data.read_data(tiny_data), [0, 1], tmp_path / "some")
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
    made = write_kept_data(data.read_data(yaml), [1], tmp_path / "some")
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
        write_kept_data(data.read_data(tiny_data), [0, 2], tmp_path / "some")
    assert [file.name for file in (tmp_path / "some").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "content", [b"disc 0.5 0.5 0.1 0.1\n", b"0\n", b"\xff\xfe", b"0.7 0.5 0.5 0.1 0.1\n", b"nan 0.5 0.5 0.1 0.1\n"]
)
def test_a_damaged_label_is_named(tiny_data, tmp_path, content):
    (tiny_data.parent / "labels" / "train" / "003.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"003.txt' are not rows of 'class x y width height'"):
        write_kept_data(data.read_data(tiny_data), [0], tmp_path / "some")


def test_the_system_that_makes_no_symbolic_links(tiny_data, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr("pathlib.Path.symlink_to", refused)
    made = write_kept_data(data.read_data(tiny_data), [0], tmp_path / "some")
    images = data.read_data(made.path).train
    assert not any(path.is_symlink() for path in images)
    assert images[0].read_bytes() == data.read_data(tiny_data).train[0].read_bytes()
