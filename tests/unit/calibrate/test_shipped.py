# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The manifests that come with the project."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_compress.calibrate import read_manifest
from yolo_compress.host.data import read_data

FOLDER = Path(__file__).resolve().parents[3] / "calib_data"
MANIFESTS = sorted(FOLDER.glob("*.json"))


def test_only_names_lie_there():
    assert [path.name for path in MANIFESTS] == ["coco-val2017-128.json", "coco-val2017-512.json"]
    assert {path.suffix for path in FOLDER.iterdir()} == {".json", ".md"}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in MANIFESTS:
        assert f"out=calib_data/{path.name}" in readme


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_shipped_manifest_serves_whoever_has_the_images(path, tmp_path):
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_yaml

    names = [entry["image"] for entry in json.loads(path.read_text())["images"]]
    assert len(set(names)) == len(names) == int(path.stem.rpartition("-")[2])
    assert all(re.fullmatch(r"\d{12}\.jpg", name) for name in names)
    place = tmp_path / "images" / "val2017"
    place.mkdir(parents=True)
    image = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for name in [*names, "other.jpg"]:
        (place / name).write_bytes(image)
    tree = {"train": "images/val2017", "val": "images/val2017", "names": YAML.load(check_yaml("coco.yaml"))["names"]}
    YAML.save(tmp_path / "data.yaml", tree)
    found = read_manifest(path, read_data(tmp_path / "data.yaml"))
    assert found.images == tuple(place / name for name in names)
    assert any("names without hashes" in note for note in found.notes)
