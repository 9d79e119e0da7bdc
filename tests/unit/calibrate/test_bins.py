# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which bins images fall into."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from yolo_compress.calibrate.bins import COUNTS, area_bins, class_bins, count_bins, value_bins

few = settings(max_examples=40, deadline=None)


def rows(*sides: float, cls: int = 0) -> np.ndarray:
    """Return objects that are squares with such sides, as shares of a square image."""
    return np.array([[cls, 0.5, 0.5, side, side] for side in sides], np.float32).reshape(-1, 5)


def places(feature) -> list[list[int]]:
    return [row.nonzero()[0].tolist() for row in feature.members.toarray()]


def test_values_are_cut_at_deciles_and_at_the_last_hundredths():
    feature = value_bins("light", np.arange(1000.0))
    assert np.asarray((feature.members > 0).sum(axis=0)).ravel().tolist() == [10, 90, *[100] * 8, 90, 10]
    assert [found[0] for found in places(feature)] == sorted(found[0] for found in places(feature))


@few
@given(arrays(np.float64, (12, 3), elements=st.integers(0, 9)))
def test_every_image_counts_as_one(values):
    feature = value_bins("any", values)
    assert np.asarray(feature.members.sum(axis=1)).ravel() == pytest.approx(np.ones(12))
    assert (np.asarray(feature.members.sum(axis=0)) > 0).all()  # a bin that no image is in can not be covered


@few
@given(arrays(np.float64, 30, elements=st.integers(0, 9)), st.integers(0, 9))
def test_bins_follow_the_order_of_values_alone(values, seed):
    shuffled = np.random.default_rng(seed).permutation(30)
    here, there = value_bins("any", values), value_bins("any", np.exp(values[shuffled]))
    assert np.array_equal(here.members.toarray()[shuffled], there.members.toarray())


def test_equal_values_are_one_bin():
    assert value_bins("flat", np.zeros(50)).bins == 1


def test_classes_that_images_show():
    objects = [np.concatenate([rows(0.1, cls=4), rows(0.1, 0.2, cls=1)]), rows(), rows(0.5, cls=4)]
    feature = class_bins(objects, 7)
    assert feature.members.toarray().tolist() == [[0.5, 0.5], [0, 0], [0, 1]]


@pytest.mark.parametrize(("count", "place"), [(0, 0), (1, 1), (2, 2), (4, 3), (5, 4), (16, 5), (17, 6), (99, 6)])
def test_numbers_of_objects(count, place):
    every = [rows(*[0.1] * number) for number in (0, *COUNTS)]
    feature = count_bins([*every, rows(*[0.1] * count)])
    assert feature.bins == 7
    assert places(feature)[-1] == [place]


def test_areas_are_deciles_of_their_own_level():
    small, middle, large = np.linspace(0.01, 0.049, 20), np.linspace(0.051, 0.149, 20), np.linspace(0.151, 0.9, 20)
    feature = area_bins([rows(side) for side in (*small, *middle, *large)], np.ones(60), 640)
    assert feature.bins == 30
    assert places(feature) == [[i // 2] for i in range(60)]


def test_the_size_of_the_input_and_the_shape_of_the_image_tell_the_level():
    objects = [rows(0.06), rows(0.06)]  # 38 pixels at 640, 19 at 320; in an image of 4:1, half of that
    assert places(area_bins(objects, np.array([1.0, 0.25]), 640)) == [[1], [0]]
    assert area_bins(objects, np.array([1.0, 0.25]), 320).bins == 2  # two deciles of one level
    assert area_bins([rows(), rows()], np.ones(2), 640).bins == 0
