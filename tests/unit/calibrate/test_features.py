# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Statistics of images that can be worked out by hand, and the reading of many."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolo_compress.calibrate import features
from yolo_compress.calibrate.features import STATISTICS, image_statistics, read_statistics
from yolo_compress.errors import DataError


def figures(luma: np.ndarray) -> dict[str, float]:
    return dict(zip(STATISTICS, image_statistics(luma.astype(np.uint8)).tolist(), strict=True))


def test_a_grey_card_has_nothing_but_its_luma():
    found = figures(np.full((20, 30), 77))
    assert found == {"dark": 77, "middle": 77, "bright": 77, "contrast": 0, "sharpness": 0, "clutter": 0}


def test_a_step_by_hand():
    luma = np.zeros((10, 20))
    luma[:, 10:] = 200
    found = figures(luma)
    assert (found["dark"], found["bright"]) == (0, 200)
    assert found["contrast"] == pytest.approx(100)
    # the Laplacian is 200 left of the step, -200 right of it and 0 in the other 18 of 20 columns
    assert found["sharpness"] == pytest.approx(2 / 20 * 200**2)
    assert found["clutter"] == pytest.approx(2 / 20)


@pytest.mark.parametrize(("slope", "clutter"), [(features.EDGE - 1, 0.0), (features.EDGE + 1, 0.8)])
def test_a_slope_is_an_edge_from_its_levels_per_pixel_on(slope, clutter):
    luma = np.tile(np.arange(10) * slope, (8, 1))  # at the first and the last column the mirrored border is flat
    assert figures(luma)["clutter"] == pytest.approx(clutter)


def test_blur_takes_sharpness_and_noise_adds_it():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (64, 64)).astype(np.uint8), (0, 0), 3)
    blurred = cv2.GaussianBlur(image, (0, 0), 3)
    assert figures(blurred)["sharpness"] < figures(image)["sharpness"]
    assert figures(blurred)["contrast"] < figures(image)["contrast"]


def test_images_are_read_in_order_with_their_aspect(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 2)
    files = []
    for i, (height, width) in enumerate([(10, 40), (40, 10), (20, 20)]):
        files.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(files[-1]), np.full((height, width, 3), 50 * i, np.uint8))
    found = read_statistics(files)
    assert found.images == tuple(files)
    assert found.values[:, STATISTICS.index("middle")].tolist() == [0, 50, 100]
    assert found.aspects.tolist() == [0.25, 0.25, 1]
    assert found.skipped == ()


def test_unreadable_images_stop_it_unless_they_are_to_be_skipped(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    cv2.imwrite(str(good), np.zeros((8, 8, 3), np.uint8))
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png' cannot be read; .* or skip such images with skip_unreadable=true"):
        read_statistics([good, bad])
    found = read_statistics([bad, good], skip_unreadable=True)
    assert (found.images, found.skipped) == ((good,), (bad,))
    with pytest.raises(DataError, match="none of the 1 training images can be read"):
        read_statistics([bad], skip_unreadable=True)


def test_progress_is_told_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 1)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file in files:
        cv2.imwrite(str(file), np.zeros((8, 8, 3), np.uint8))
    told: list[str] = []
    read_statistics(files, progress=told.append, clock=iter([0, 1, 11, 11.5, 12]).__next__)
    assert told == ["looked at 2 of 3 images"]
