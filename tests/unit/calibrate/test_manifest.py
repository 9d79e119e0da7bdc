# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Calibration sets: repeatable, from training images, checked when they are read."""

from __future__ import annotations

import shutil

import pytest

from yolo_compress.calibrate import choose, read_manifest, write_manifest
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host.data import read_data


def test_same_seed_same_set_on_another_path(tiny_data, tmp_path):
    shutil.copytree(tiny_data.parent, tmp_path / "elsewhere")
    here, there = read_data(tiny_data), read_data(tmp_path / "elsewhere" / "data.yaml")
    assert choose(here, 4).sha256 == choose(there, 4).sha256
    assert choose(here, 4, seed=1).sha256 != choose(here, 4).sha256


def test_only_training_images_are_drawn(tiny_data):
    data = read_data(tiny_data)
    assert set(choose(data, 100).images) == set(data.train)


def test_round_trip(tiny_data):
    chosen = choose(read_data(tiny_data), 4)
    write_manifest(chosen, tiny_data.parent / "calibration.json")
    assert read_manifest(tiny_data.parent / "calibration.json").hashes == chosen.hashes


@pytest.mark.parametrize(("change", "message"), [("remove", "is missing"), ("edit", "is not the one that")])
def test_missing_or_changed_image_is_named(tiny_data, change, message):
    chosen = choose(read_data(tiny_data), 4)
    write_manifest(chosen, tiny_data.parent / "calibration.json")
    victim = chosen.images[2]
    victim.unlink() if change == "remove" else victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(DataError, match=f"{victim.name}' {message}"):
        read_manifest(tiny_data.parent / "calibration.json")


def test_bad_input(tiny_data, tmp_path):
    with pytest.raises(UsageError, match="images=0 is no calibration set"):
        choose(read_data(tiny_data), 0)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="is not a calibration manifest"):
        read_manifest(tmp_path / "bad.json")
