# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Where objects are, and how positions are drawn by it: against loops over cells, and by counting."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import FAMILIES
from yolo_compress.quantize.foreground import CELL, Places, foregrounds, painted, resized

SIDE = 64 // CELL


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 6), seed=st.integers(0, 999))
def test_a_cell_has_the_highest_score_of_the_boxes_that_reach_into_it(count, seed):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(-8, 72, (count, 2, 2)), axis=1).reshape(count, 4)  # some reach out of the image
    found = np.column_stack([corners, rng.random(count), np.zeros(count)]).astype(np.float32)
    expected = np.zeros((SIDE, SIDE), np.float32)
    for row in range(SIDE):
        for column in range(SIDE):
            for x1, y1, x2, y2, score, _ in found:
                if x1 < (column + 1) * CELL and x2 > column * CELL and y1 < (row + 1) * CELL and y2 > row * CELL:
                    expected[row, column] = max(expected[row, column], score)
    np.testing.assert_array_equal(painted(found, SIDE), expected)


@settings(max_examples=50, deadline=None)
@given(side=st.integers(1, 20), rows=st.integers(1, 45), columns=st.integers(1, 45), seed=st.integers(0, 99))
def test_a_position_has_the_highest_value_of_the_cells_under_it(side, rows, columns, seed):
    cells = np.random.default_rng(seed).random((side, side), dtype=np.float32)
    expected = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            top, left = row * side // rows, column * side // columns
            bottom, right = (row + 1) * side // rows, (column + 1) * side // columns
            expected[row, column] = cells[top : max(bottom, top + 1), left : max(right, left + 1)].max()
    np.testing.assert_array_equal(resized(cells, rows, columns), expected)


@pytest.mark.parametrize("places", [Places(0, ()), Places(0.5, [np.zeros((1, SIDE, SIDE), np.float32)])])
def test_without_a_foreground_positions_are_drawn_alike_and_once(places):
    """As repair did before it knew of objects: the same positions of the same seed."""
    drawn = places.drawn(0, 0, (9, 7), 40, np.random.default_rng(3))
    np.testing.assert_array_equal(drawn, np.random.default_rng(3).permutation(63)[:40])


def test_the_share_is_drawn_by_score_and_the_rest_from_everywhere():
    cells = np.zeros((1, 4, 4), np.float32)
    cells[0, 0, 1], cells[0, 2, 2] = 0.9, 0.3
    counts = np.zeros(16)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        counts += np.bincount(Places(0.6, cells[None]).drawn(0, 0, (4, 4), 16, rng), minlength=16)
    expected = np.full(16, 0.4 / 16)
    expected[1] += 0.6 * 0.75
    expected[10] += 0.6 * 0.25
    assert counts / counts.sum() == pytest.approx(expected, abs=0.01)


def test_all_of_them_are_where_objects_are():
    cells = np.zeros((1, SIDE, SIDE), np.float32)
    cells[0, :4, :4] = 0.5
    drawn = Places(1, [cells]).drawn(0, 0, (SIDE // 2, SIDE // 2), 200, np.random.default_rng(0))
    assert len(drawn) == SIDE * SIDE // 4  # a small map has no more positions than it has
    assert set(drawn // (SIDE // 2)) <= {0, 1}
    assert set(drawn % (SIDE // 2)) <= {0, 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_says_where_it_sees_something(awake, images, family):
    model = onnx.load(str(awake / f"{family}.onnx"))
    found = foregrounds(model, images, 64)
    assert [cells.shape for cells in found] == [(1, SIDE, SIDE)] * len(images)
    assert all(0.01 < cells.max() <= 1 for cells in found)
