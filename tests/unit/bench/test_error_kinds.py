# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Kinds of errors, on scenes whose answer is known by hand and in what has to hold for every scene."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.bench.test_accuracy import scene
from yolo_compress.bench.accuracy import Detections, Truth, matched, summarize
from yolo_compress.bench.error_kinds import error_kinds
from yolo_compress.bench.result import ERROR_KINDS

CAR, DOG = 0, 1
HERE = (0, 0, 100, 100)  # x1, y1, x2, y2
THERE = (300, 300, 400, 400)
NOWHERE = (600, 600, 700, 700)


def shifted(box, share):
    """Return a box of the same size beside another one, moved by a share of its width."""
    width = box[2] - box[0]
    return (box[0] + share * width, box[1], box[2] + share * width, box[3])


def sort(objects, detections, classes=2):
    """Sort the errors of one image: objects are (class, box), detections (class, box, score)."""
    things = [[cls, box[0], box[1], box[2] - box[0], box[3] - box[1]] for cls, box in objects]
    found = [[*box, score, cls] for cls, box, score in detections]
    truth = Truth([np.array(things, float).reshape(-1, 5)], [(1000, 1000)])
    given = Detections([np.array(found, np.float32).reshape(-1, 6)])
    return error_kinds(truth, given, matched(truth, given, classes=classes))


def told(kinds):
    """Return gain in points and count by kind."""
    points = [None if gain is None else round(100 * gain, 2) for gain in kinds.gains()]
    return dict(zip(ERROR_KINDS, zip(points, kinds.counts(), strict=True), strict=True))


NOTHING = dict.fromkeys(ERROR_KINDS, (0.0, 0))


def test_a_perfect_detector_has_nothing_to_mend():
    assert told(sort([(CAR, HERE)], [(CAR, HERE, 0.9)])) == NOTHING


def test_a_box_that_is_off_is_mended_whole():
    # an overlap of 1/3: (100 - 50) / (100 + 50)
    found = told(sort([(CAR, HERE)], [(CAR, shifted(HERE, 0.5), 0.9)]))
    assert found == {**NOTHING, "localisation": (100.0, 1)}


def test_a_wrong_class_is_mended_whole():
    assert told(sort([(CAR, HERE)], [(DOG, HERE, 0.9)])) == {**NOTHING, "classification": (100.0, 1)}


def test_what_is_off_in_both_is_taken_out_and_leaves_the_object_missed():
    found = told(sort([(CAR, HERE), (DOG, THERE)], [(DOG, shifted(HERE, 0.5), 0.9), (DOG, THERE, 0.8)]))
    # AP50 is 1/4: cars have 0 and dogs 1/2; mending `both` gives 1/2, and taking the car out gives the dogs alone, 1/2
    assert found == {**NOTHING, "both": (25.0, 1), "missed": (25.0, 1)}


def test_a_second_box_above_the_next_object_is_a_duplicate():
    detections = [(CAR, HERE, 0.9), (CAR, shifted(HERE, 0.1), 0.8), (CAR, THERE, 0.7)]
    # precision 1 up to a recall of 1/2, 51 readings, then 2/3 for 50; gone, it is 1
    found = told(sort([(CAR, HERE), (CAR, THERE)], detections))
    assert found == {**NOTHING, "duplicate": (round(100 * 50 / 101 / 3, 2), 1)}


def test_a_box_on_nothing_is_background_and_costs_as_much_as_it_stands_above():
    found = told(sort([(CAR, HERE)], [(CAR, NOWHERE, 0.9), (CAR, HERE, 0.8)]))
    assert found == {**NOTHING, "background": (50.0, 1)}
    below = told(sort([(CAR, HERE)], [(CAR, HERE, 0.9), (CAR, NOWHERE, 0.8)]))
    assert below == {**NOTHING, "background": (0.0, 1)}


def test_an_object_that_nothing_is_near_is_missed():
    # recall ends at 1/2: 51 of 101 readings are 1
    found = told(sort([(CAR, HERE), (CAR, THERE)], [(CAR, HERE, 0.9)]))
    assert found == {**NOTHING, "missed": (round(100 * 50 / 101, 2), 1)}


def test_nothing_found_at_all_leaves_nothing_to_average_once_mended():
    found = told(sort([(CAR, HERE)], []))
    assert found == {**NOTHING, "missed": (None, 1)}


def test_a_box_between_both_kinds_is_first_one_of_its_class():
    # it overlaps a car of its class by 1/3 and a dog by all
    near = shifted(HERE, 0.5)
    found = sort([(CAR, HERE), (DOG, near)], [(CAR, near, 0.9)])
    assert told(found)["localisation"][1] == 1
    assert told(found)["classification"][1] == 0
    assert told(found)["missed"][1] == 1  # the dog


def test_only_the_best_of_several_is_mended_to_one_object():
    detections = [(CAR, shifted(HERE, 0.5), 0.6), (CAR, shifted(HERE, 0.6), 0.9), (DOG, HERE, 0.7)]
    found = sort([(CAR, HERE)], detections)
    assert found.counts() == (2, 1, 0, 0, 0, 0)
    assert (found.target >= 0).sum() == 1
    assert found.matches.score[found.target >= 0] == pytest.approx(0.9)
    assert found.average_precision(range(6)) == pytest.approx(1)


def test_a_mended_box_on_an_object_that_is_found_is_taken_out():
    found = sort([(CAR, HERE)], [(CAR, shifted(HERE, 0.5), 0.9), (CAR, HERE, 0.8)])
    assert told(found) == {**NOTHING, "localisation": (50.0, 1)}
    assert (found.target == -1).all()


def test_the_limits_are_a_tenth_and_a_half():
    def kind(overlap):  # two boxes of one size, moved by s, overlap by (1 - s) / (1 + s)
        found = sort([(CAR, HERE)], [(CAR, shifted(HERE, (1 - overlap) / (1 + overlap)), 0.9)])
        return [name for name, count in zip(ERROR_KINDS, found.counts(), strict=True) if count and name != "missed"]

    assert kind(0.09) == ["background"]
    assert kind(0.11) == kind(0.49) == ["localisation"]
    assert kind(0.51) == []


@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.sampled_from([1, 3]),
    objects=st.integers(0, 5),
    ties=st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_what_holds_for_every_detector(seed, classes, objects, ties):
    truth, given = scene(seed, images=3, classes=classes, objects=objects, extra=6, ties=ties)
    matches = matched(truth, given, classes=classes)
    found = error_kinds(truth, given, matches)
    assert found.average_precision(()) == pytest.approx(summarize(matches).map50, abs=1e-12)
    wrong = int((~matches.flags(matches.hit, "all")[0]).sum())
    assert sum(found.counts()[:-1]) == wrong  # each false positive is of one kind
    missing = truth.count - (len(matches.cls) - wrong)
    mended = int((found.target >= 0).sum())
    assert found.counts()[-1] == missing - mended  # each object is found, mended or missed
    assert all(gain is None or gain > -1e-9 for gain in found.gains())
    everything = found.average_precision(range(6))
    if everything is None:
        assert mended + truth.count - missing == 0
    else:
        assert everything == pytest.approx(1)


def test_images_are_kept_apart():
    truth, given = scene(5, images=4, classes=3, objects=5, extra=5, empty=0)
    whole = error_kinds(truth, given, matched(truth, given, classes=3)).counts()
    parts = []
    for index in range(4):
        one, theirs = Truth([truth.images[index]], [(640, 640)]), Detections([given.images[index]])
        if one.count:
            parts.append(error_kinds(one, theirs, matched(one, theirs, classes=3)).counts())
    empty = [len(rows) for rows, objects in zip(given.images, truth.images, strict=True) if not len(objects)]
    summed = np.sum(parts, axis=0)
    summed[ERROR_KINDS.index("background")] += sum(empty)
    assert summed.tolist() == list(whole)
