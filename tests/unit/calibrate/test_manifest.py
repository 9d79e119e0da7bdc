# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Manifests: repeatable, from training images, checked against the data set when they are read."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.tiny import write_data
from yolo_compress.calibrate import calibration_set, choose, read_manifest, write_manifest
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host.data import read_data

EMPTY = {"schema_version": 2, "data": {}, "how": {}, "coverage": {}}


@pytest.fixture
def manifest(tiny_data, tmp_path):
    path = tmp_path / "elsewhere" / "chosen.json"
    write_manifest(choose(read_data(tiny_data), 4), path)
    return path


def test_same_seed_same_manifest_on_another_path(tiny_data, tmp_path):
    shutil.copytree(tiny_data.parent, tmp_path / "elsewhere")
    here, there = read_data(tiny_data), read_data(tmp_path / "elsewhere" / "data.yaml")
    for place, data in (("here", here), ("there", there)):
        write_manifest(choose(data, 4), tmp_path / place)
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
    assert str(tmp_path) not in (tmp_path / "here").read_text()
    assert choose(here, 4, seed=1).sha256 != choose(here, 4).sha256


def test_a_manifest_finds_its_images_wherever_the_data_set_lies(tiny_data, tmp_path, manifest):
    shutil.move(tiny_data.parent, tmp_path / "moved")
    found = read_manifest(manifest, read_data(tmp_path / "moved" / "data.yaml"))
    assert all(image.is_relative_to(tmp_path / "moved") for image in found.images)
    assert found.notes == ()


def test_only_training_images_are_drawn(tiny_data):
    data = read_data(tiny_data)
    assert set(choose(data, 100).images) == set(data.train)


def test_round_trip(tiny_data, manifest):
    data = read_data(tiny_data)
    chosen = choose(data, 4)
    assert read_manifest(manifest, data) == chosen
    assert calibration_set(data, 2, str(manifest)) == chosen
    assert calibration_set(data, 4) == chosen


@pytest.mark.parametrize(("change", "message"), [("remove", "is missing"), ("edit", "is not the one that")])
def test_missing_or_changed_image_is_named(tiny_data, manifest, change, message):
    victim = choose(read_data(tiny_data), 4).images[2]
    victim.unlink() if change == "remove" else victim.write_bytes(victim.read_bytes() + b"x")
    name = victim.relative_to(tiny_data.parent).as_posix()
    with pytest.raises(DataError, match=f"image '{name}' .*{message}"):
        read_manifest(manifest, read_data(tiny_data))


def test_validation_images_cannot_be_named(tiny_data, manifest):
    tree = json.loads(manifest.read_text())
    tree["images"][0]["image"] = "images/val/000.png"
    manifest.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"'images/val/000\.png' .* is missing from the training images"):
        read_manifest(manifest, read_data(tiny_data))


def names_of_another_data_set(folder):
    return write_data(folder / "other", seed=1)


def renamed_images(folder):
    data = write_data(folder / "other")
    for image in (data.parent / "images" / "train").iterdir():
        image.rename(image.with_name(f"x{image.name}"))
    return data


def other_classes(folder):
    data = write_data(folder / "other")
    data.write_text(data.read_text().replace("bar", "rod"))
    return data


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (names_of_another_data_set, "the same names and other bytes, such as 'images/train/"),
        (renamed_images, "none of its 4 images, such as 'images/train/"),
        (other_classes, "classes of other names or order"),
    ],
)
def test_a_manifest_of_another_data_set_is_refused(tmp_path, manifest, make, why):
    with pytest.raises(DataError) as caught:
        read_manifest(manifest, read_data(make(tmp_path)))
    assert "is a manifest of another data set ('data.yaml' with 8 training images" in str(caught.value)
    assert why in str(caught.value)
    assert "choose again with: yolo-compress calib" in str(caught.value)


def test_a_data_set_that_has_grown_is_noted(tiny_data, manifest):
    train = tiny_data.parent / "images" / "train"
    shutil.copy(train / "000.png", train / "100.png")
    (note,) = read_manifest(manifest, read_data(tiny_data)).notes
    assert "chosen from 8 training images and there are 9 now" in note


def test_a_name_without_a_folder_is_that_of_the_only_file_called_so(tiny_data, manifest):
    tree = json.loads(manifest.read_text())
    for entry in tree["images"]:
        entry["image"] = entry["image"].rpartition("/")[2]
    manifest.write_text(json.dumps(tree))
    data = read_data(tiny_data)
    assert read_manifest(manifest, data).images == choose(data, 4).images
    victim = choose(data, 4).images[0]
    (victim.parent / "twice").mkdir()
    shutil.copy(victim, victim.parent / "twice" / victim.name)
    with pytest.raises(DataError, match=f"image '{victim.name}' .* is missing from"):
        read_manifest(manifest, read_data(tiny_data))


def test_names_without_hashes_serve_copies_that_are_encoded_otherwise(tiny_data, manifest):
    tree = json.loads(manifest.read_text())
    for entry in tree["images"]:
        entry["sha256"] = None
    manifest.write_text(json.dumps(tree))
    victim = choose(read_data(tiny_data), 4).images[0]
    victim.write_bytes(victim.read_bytes() + b"x")
    (note,) = read_manifest(manifest, read_data(tiny_data)).notes
    assert "names without hashes" in note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a calibration manifest"),
        ("not json", "is not a calibration manifest"),
        ("[1]", "is not a calibration manifest"),
        ('{"schema_version": 2, "images": [1]}', "is not a calibration manifest"),
        ('{"schema_version": 1, "images": []}', "has schema_version 1 and this yolo_compress reads 2"),
        (json.dumps({**EMPTY, "images": [], "skipped": None}), "is not a calibration manifest"),
        (json.dumps({**EMPTY, "images": [], "skipped": []}), "names no images"),
    ],
)
def test_a_file_that_is_no_manifest(tiny_data, tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / "bad.json", read_data(tiny_data))


def test_bad_input(tiny_data, tmp_path):
    with pytest.raises(UsageError, match="images=0 is no calibration set"):
        choose(read_data(tiny_data), 0)
    with pytest.raises(DataError, match=r"none\.json' does not exist; make one with: yolo-compress calib"):
        read_manifest(tmp_path / "none.json", read_data(tiny_data))
