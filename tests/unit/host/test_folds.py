# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Folds: every image once, sizes and classes alike, and data sets that hold nothing twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import write_data
from yolo_compress.calibrate.manifest import name_of
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host.data import labels_for, read_data
from yolo_compress.host.folds import stratified, write_folds

few = settings(max_examples=40, deadline=None)


def drawn(seed: int, images: int, classes: int = 6) -> list[list[int]]:
    """Return the classes of images, of which the first is common and the last rare."""
    rng = np.random.default_rng(seed)
    return [[c for c in range(classes) if rng.random() < 0.6 / (c + 1)] for _ in range(images)]


def uneven(classes: list[list[int]], number_of: np.ndarray, folds: int) -> float:
    """Return by how many images a fold is off its share of a class, the mean over classes and folds."""
    width = 1 + max(max(shown, default=0) for shown in classes)
    counts = np.zeros((folds, width))
    for shown, fold in zip(classes, number_of, strict=True):
        counts[fold, shown] += 1
    return float(np.abs(counts - counts.sum(0) / folds).mean())


@few
@given(st.integers(0, 999), st.integers(2, 6), st.integers(12, 60))
def test_every_image_is_in_one_fold_and_folds_are_alike(seed, folds, images):
    classes = drawn(seed, images)
    number_of = stratified(classes, folds, seed=seed)
    sizes = np.bincount(number_of, minlength=folds)
    assert sizes.sum() == len(number_of) == images
    assert sizes.max() - sizes.min() <= 5  # images that show several classes pull on sizes
    assert np.array_equal(number_of, stratified(classes, folds, seed=seed))


def test_classes_are_spread_more_evenly_than_by_chance():
    found, chance = [], []
    for seed in range(20):
        classes = drawn(seed, 50)
        found.append(uneven(classes, stratified(classes, 5, seed=seed), 5))
        chance.append(uneven(classes, np.random.default_rng(seed).permutation(np.arange(50) % 5), 5))
    assert np.mean(found) < 0.6 * np.mean(chance)
    assert all(a < b for a, b in zip(found, chance, strict=True))


def test_a_class_of_as_many_images_as_folds_is_in_each():
    classes = [[0]] * 30 + [[0, 1]] * 5
    number_of = stratified(classes, 5)
    assert sorted(number_of[30:]) == [0, 1, 2, 3, 4]
    assert np.bincount(number_of).tolist() == [7] * 5


def test_images_without_objects_fill_up_folds():
    assert np.bincount(stratified([[]] * 7 + [[0]] * 2, 3)).tolist() == [3, 3, 3]
    assert np.bincount(stratified([[]] * 6, 3)).tolist() == [2, 2, 2]


def test_folds_are_data_sets_that_hold_nothing_twice(tmp_path):
    data = read_data(write_data(tmp_path / "data", train=8, val=4))
    made = [read_data(path) for path in write_folds(data, 3, tmp_path / "folds")]
    everything = {image.resolve() for image in (*data.train, *data.val)}
    measured = [image for fold in made for image in fold.val]
    assert len(measured) == len(set(measured)) == 12
    assert set(measured) == everything
    for fold in made:
        assert fold.names == data.names
        assert not set(fold.train) & set(fold.val)
        assert set(fold.train) | set(fold.val) == everything


def test_an_image_that_trains_and_measures_counts_once(tmp_path):
    path = write_data(tmp_path / "data", train=6, val=0)
    path.write_text("train: images/train\nval: images/train\nnames: {0: disc, 1: box, 2: bar}\n")
    made = [read_data(fold) for fold in write_folds(read_data(path), 2, tmp_path / "folds")]
    assert [(len(fold.train), len(fold.val)) for fold in made] == [(3, 3), (3, 3)]


def test_labels_are_those_beside_a_link_and_not_beside_what_it_leads_to(tmp_path):
    path = write_data(tmp_path / "data", train=4, val=4)
    (tmp_path / "store").mkdir()
    for image in sorted((path.parent / "images" / "train").iterdir()):
        image.rename(tmp_path / "store" / image.name)
        image.symlink_to(tmp_path / "store" / image.name)
    made = [read_data(fold) for fold in write_folds(read_data(path), 2, tmp_path / "folds")]
    assert all(len(rows) == 2 for fold in made for rows in labels_for((*fold.train, *fold.val)))


def test_two_links_to_one_image_count_once(tmp_path):
    path = write_data(tmp_path / "data", train=4, val=4)
    first, second = sorted((path.parent / "images" / "train").iterdir())[:2]
    second.unlink()
    second.symlink_to(first)
    assert sum(len(read_data(fold).val) for fold in write_folds(read_data(path), 2, tmp_path / "folds")) == 7


def test_names_of_images_stay_relative_to_the_root_of_the_data(tmp_path, monkeypatch):
    data = read_data(write_data(tmp_path / "data", train=4, val=4))
    names = {name_of(image, data) for image in (*data.train, *data.val)}
    monkeypatch.chdir(tmp_path)
    for path in write_folds(data, 2, Path("folds")):  # given as a user may: relative
        fold = read_data(path)
        assert {name_of(image, fold) for image in fold.val} <= names


@pytest.mark.parametrize("number", ["-1", "3", "nan"])
def test_a_label_of_no_class_is_refused(tmp_path, number):
    path = write_data(tmp_path / "data", train=4, val=4)
    (path.parent / "labels" / "train" / "001.txt").write_text(f"{number} 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"a label of '.*001\.png' has another class than the 3 that .* names; correct"):
        write_folds(read_data(path), 2, tmp_path / "folds")


def test_what_cannot_be_cut_is_refused_and_leaves_nothing(tmp_path):
    path = write_data(tmp_path / "data", train=3, val=2)
    data = read_data(path)
    for folds in (1, 6, -1):
        with pytest.raises(
            UsageError, match=rf"folds={folds} cannot be made of the 5 images of .*; give 2 to 5, such as"
        ):
            write_folds(data, folds, tmp_path / "folds")
    shutil.rmtree(path.parent / "labels" / "train")
    with pytest.raises(DataError, match=r"1 of 3 folds would have no object to measure on, since 2 of the 5 images of"):
        write_folds(data, 3, tmp_path / "folds")
    assert not (tmp_path / "folds").exists()
