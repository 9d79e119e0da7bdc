# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures before and after: which images, which boxes differ, and that only those of the same bench are shown."""

from __future__ import annotations

import base64
import dataclasses

import cv2
import numpy as np
import pytest

from tests.unit.bench.samples import result, row
from tests.unit.report.test_report import read
from yolo_compress.bench.accuracy import Detections
from yolo_compress.errors import DataError
from yolo_compress.report import write_report
from yolo_compress.report.drawing import LARGEST_BYTES, SIDE, Witness, deployed, differing, draw, drawn, most_different
from yolo_compress.report.pictures import read_pairs

EMPTY = np.zeros((0, 6), np.float32)
NAMES = ("disc", "box", "bar")


def boxes(*rows):
    return np.array(rows, np.float32).reshape(len(rows), 6)


SQUARE = (10, 10, 50, 50, 0.9, 0)


def test_partners_have_the_same_class_and_half_of_their_union_in_common():
    before = boxes(SQUARE, (60, 60, 90, 90, 0.8, 1))
    moved, other_class, far = (12, 10, 52, 50, 0.5, 0), (60, 60, 90, 90, 0.8, 2), (31, 10, 71, 50, 0.9, 0)
    assert [side.tolist() for side in differing(before, boxes(moved, other_class))] == [[False, True], [False, True]]
    assert [side.tolist() for side in differing(boxes(SQUARE), boxes(far))] == [[True], [True]]
    assert [side.tolist() for side in differing(EMPTY, boxes(SQUARE))] == [[], [True]]
    twice = differing(boxes(SQUARE), boxes(moved, SQUARE))  # each box once, the larger overlap first
    assert [side.tolist() for side in twice] == [[False], [True, False]]


def test_images_are_those_with_most_differences_over_all_candidates_and_the_earlier_of_equal_ones():
    one, two = boxes(SQUARE), boxes(SQUARE, (60, 60, 90, 90, 0.8, 1))
    found = [[one, one, one, one], [one, two, EMPTY, EMPTY], [one, one, two, two]]
    assert most_different(found, 4) == [2, 3, 1]
    assert most_different(found, 1) == [2]
    assert most_different(found, 0) == []
    assert most_different(found[:1], 4) == []


def test_only_what_a_user_would_see_counts():
    assert len(deployed(boxes((0, 0, 9, 9, 0.25, 0), (0, 0, 9, 9, 0.26, 0)))) == 1


def test_boxes_that_differ_are_told_apart_without_colour():
    image, found = np.full((300, 300, 3), 128, np.uint8), boxes((40, 60, 240, 260, 0.9, 0))
    pieces = {}
    for kind, alone, after in (("solid", False, False), ("dashed", True, False), ("dotted", True, True)):
        data = drawn(image, found, np.array([alone]), NAMES, after=after)
        side = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)[259:262, 60:220].min(axis=0)
        dark = side < 110  # the image is at 128
        pieces[kind] = int((np.diff(dark.astype(int)) == 1).sum() + dark[0])
    assert pieces["solid"] == 1
    assert abs(pieces["dashed"] - 160 / 15) < 2  # a dash and a gap
    assert abs(pieces["dotted"] - 160 / 7) < 2


def test_a_picture_is_small_whatever_is_in_it():
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    data = drawn(noise, EMPTY, np.zeros(0, bool), NAMES, after=False)
    assert len(data) <= LARGEST_BYTES
    assert max(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape) == SIDE


@pytest.fixture
def bench(tmp_path):
    """Return a result with one picture below a folder, and the folder."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((100, 120, 3), 90, np.uint8))
    made = result(row("float"), row("int8 <b>"))
    witness = Witness(4)
    extra = boxes(SQUARE, (60, 60, 90, 90, 0.8, 1))
    witness([path, path], [Detections([boxes(SQUARE)] * 2), Detections([extra, boxes(SQUARE)])])
    draw(made, witness, tmp_path / "out")
    return made, tmp_path / "out"


def test_pictures_lie_beside_the_bench_and_are_found_again(bench):
    made, folder = bench
    (pair,) = read_pairs(folder, made.to_dict())
    assert (pair.image, pair.candidate, pair.same, pair.only_before, pair.only_after) == ("a.png", "int8 <b>", 1, 0, 1)
    assert pair.before.read_bytes()[:2] == pair.after.read_bytes()[:2] == b"\xff\xd8"
    assert read_pairs(None, made.to_dict()) == ()
    assert read_pairs(folder, dataclasses.replace(made, date="2026-01-03T00:00:00+00:00").to_dict()) == ()


def test_the_page_holds_them_and_the_document_points_to_them(bench):
    made, folder = bench
    files = write_report(made.to_dict(), None, folder / "report of it", pictures=folder)
    page = read(files.html.read_text())
    shown = [one["src"].partition(",")[2] for one in page.pictures if "jpeg" in one["src"]]
    assert [base64.b64decode(one)[:2] for one in shown] == [b"\xff\xd8"] * 2
    text = "".join(page.text)
    assert "int8 <b>: 1 as in the other, 1 only here (dotted)" in text
    assert "b" not in page.tags
    assert "](../pictures/1-1-after.jpg)" in files.markdown.read_text()
    assert "Before and after" not in write_report(made.to_dict(), None, folder / "bare").html.read_text()


def test_with_none_asked_for_those_of_before_go(bench):
    made, folder = bench
    draw(made, Witness(0), folder)
    assert not (folder / "pictures").exists()


def test_what_is_damaged_is_named(bench):
    made, folder = bench
    (folder / "pictures" / "1-1-after.jpg").unlink()
    with pytest.raises(DataError, match=r"1-1-after\.jpg' is missing; measure again, or remove that folder"):
        read_pairs(folder, made.to_dict())
    (folder / "pictures" / "pictures.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        read_pairs(folder, made.to_dict())
