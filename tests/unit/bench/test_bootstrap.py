# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Curves of weighted images and intervals of differences, against pycocotools on images that are really repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bench_bootstrap import coverage, synthetic
from tests.unit.bench.test_accuracy import oracle, scene
from yolo_compress.bench.accuracy import Detections, Truth
from yolo_compress.bench.bootstrap import paired_differences, resampled
from yolo_compress.bench.curves import RECALLS, Curves, _recalls_up_to
from yolo_compress.bench.matches import AREAS, IOU_THRESHOLDS, match_coco, overlaps

SAME = 1e-11  # the running maximum carries the number of a curve, up to a thousand, beside the precision
STATS = {"all": 0, "small": 3, "medium": 4, "large": 5}


def repeated(truth, found, weights):
    """Return every image as often as its weight says."""
    order = np.repeat(np.arange(len(weights)), weights)
    return (
        Truth([truth.images[i] for i in order], [truth.shapes[i] for i in order]),
        Detections([found.images[i] for i in order]),
    )


def mean(values):
    return -1.0 if np.isnan(values).all() else np.nanmean(values)


@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.sampled_from([1, 3, 20]),
    weights=st.lists(st.integers(0, 3), min_size=5, max_size=5).filter(any),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_weighted_images_are_repeated_images(seed, classes, weights):
    truth, found = scene(seed, images=5, classes=classes, objects=6, extra=8)
    matches = match_coco(truth, found, classes=classes)
    expected = oracle(*repeated(truth, found, weights), classes)
    for area, place in STATS.items():
        values = Curves.of(matches, area=area).average_precision(np.array(weights))
        assert mean(values) == pytest.approx(expected[place], abs=SAME), area
    whole = Curves.of(matches)
    assert mean(whole.average_precision(np.array(weights))[0]) == pytest.approx(expected[1], abs=SAME)
    if expected[0] >= 0:
        assert whole.mean(np.array(weights)) == pytest.approx(expected[0], abs=SAME)
    else:
        assert np.isnan(whole.mean(np.array(weights)))


def test_images_as_they_are_give_the_number_of_pycocotools_with_ties_too():
    for seed in range(8):
        truth, found = scene(seed, images=6, classes=3, objects=8, extra=10, ties=True)
        matches = match_coco(truth, found, classes=3)
        assert Curves.of(matches).mean(np.ones(6, int)) == pytest.approx(oracle(truth, found, 3)[0], abs=SAME)


def test_an_overlap_on_the_threshold_counts():
    objects = np.array([[0, 0, 0, 10, 10]], float)
    found = np.array([[0, 0, 10, 5, 0.9, 0]], np.float32)
    assert overlaps(found.astype(float), objects) == [[0.5]]
    matches = match_coco(Truth([objects], [(20, 20)]), Detections([found]), classes=1)
    assert matches.flags(matches.hit, "all")[:, 0].tolist() == [True] + [False] * 9


def test_boxes_without_area_overlap_nothing():
    flat = np.array([[5, 5, 5, 9], [20, 20, 30, 30]], float)
    assert overlaps(flat, np.array([[0, 0, 0, 10, 10]], float)).tolist() == [[0.0], [0.0]]


def test_recalls_are_counted_as_a_search_counts_them():
    values = np.unique([hits / objects for objects in range(1, 205) for hits in range(objects + 1)])
    values = np.unique(np.concatenate([values, RECALLS, np.nextafter(RECALLS, 0), np.nextafter(RECALLS[:-1], 1)]))
    np.testing.assert_array_equal(_recalls_up_to(values), np.searchsorted(RECALLS, values, side="right"))


def pair(seed=4):
    truth, found = scene(seed, images=30, classes=4, objects=8, extra=4, empty=0)
    rng = np.random.default_rng(seed)
    worse = Detections([rows[rng.random(len(rows)) < 0.5] for rows in found.images])
    return [match_coco(truth, one, classes=4) for one in (found, worse)]


def test_a_detector_does_not_differ_from_itself():
    first, _ = pair()
    (told,) = paired_differences([first, first], resamples=50)
    assert (told.value, told.interval, told.below_zero) == (0.0, (0.0, 0.0), 0.0)


def test_a_blind_detector_loses_everything_in_every_resample():
    truth = Truth([np.array([[0, 10, 10, 50, 50]], float)] * 6, [(99, 99)] * 6)
    right = Detections([np.array([[10, 10, 60, 60, 0.9, 0]], np.float32)] * 6)
    matches = [match_coco(truth, one, classes=1) for one in (right, Detections([right.images[0][:0]] * 6))]
    (told,) = paired_differences(matches, resamples=50)
    assert (told.value, told.interval, told.below_zero) == (
        pytest.approx(-1),
        pytest.approx((-1, -1)),
        1.0,
    )


def test_the_other_way_round_is_the_mirror_image():
    first, second = pair()
    (there,) = paired_differences([first, second], resamples=200)
    (back,) = paired_differences([second, first], resamples=200)
    assert there.value == pytest.approx(-back.value)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert there.below_zero == pytest.approx(1 - back.below_zero, abs=0.02)
    assert there.value < 0
    assert there.below_zero > 0.9


def test_a_seed_is_repeated_and_another_one_differs():
    candidates = pair()
    first, again, other = (paired_differences(candidates, resamples=60, seed=seed)[0] for seed in (1, 1, 2))
    assert first == again
    assert first.value == other.value
    assert first.interval != other.interval


def test_every_candidate_is_compared_with_the_first():
    first, second = pair()
    told = paired_differences([first, second, first], resamples=30)
    assert [one.value == 0 for one in told] == [False, True]
    assert paired_differences([first]) == []


def test_any_two_candidates_are_compared_on_the_same_resamples():
    first, second = pair()
    one, two = paired_differences([first, second, first], resamples=30)
    assert one.against[0] == one.interval
    assert one.against[1] == (0, 0)
    assert one.against[2] == one.interval  # the third is the first again
    assert two.against[1] == pytest.approx((-one.interval[1], -one.interval[0]))
    assert two.against[0] == two.against[2] == (0, 0)


def test_a_single_image_tells_nothing_of_others():
    truth, found = scene(2, images=1, classes=2, objects=5, extra=3, empty=0)
    matches = match_coco(truth, found, classes=2)
    (told,) = paired_differences([matches, matches])
    assert (told.value, told.interval, told.below_zero) == (0.0, None, None)


@given(objects=st.lists(st.integers(0, 3), min_size=2, max_size=6).filter(any), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_every_draw_has_as_many_images_and_some_object(objects, seed):
    draws = resampled(np.array(objects), 20, seed)
    assert (draws.sum(axis=1) == len(objects)).all()
    assert (draws @ np.array(objects) > 0).all()


def test_images_are_drawn_as_often_as_chance_has_it():
    draws = resampled(np.ones(40, int), 500, 0)
    assert draws.mean() == 1
    assert draws.var() == pytest.approx(39 / 40, rel=0.05)  # of a binomial of 40 draws at 1/40
    assert abs(draws.mean(axis=0) - 1).max() < 5 * np.sqrt(39 / 40 / 500)


def test_the_interval_covers_a_known_difference_about_as_often_as_it_says():
    told = coverage(50, 0.15, trials=30, draws=50, population=4000)
    assert told["true_difference_points"] < -1
    assert 0.8 <= told["coverage"] <= 1


def test_synthetic_detectors_err_together():
    first, second = synthetic(np.random.default_rng(0), 300, gap=0.3)
    assert (first.objects == second.objects).all()
    values = [Curves.of(one).mean(np.ones(300, int)) for one in (first, second)]
    assert 0.1 < values[1] < values[0] < 0.9


def test_ranges_of_areas_and_thresholds_are_those_of_coco():
    from pycocotools.cocoeval import Params

    params = Params("bbox")
    assert dict(zip(params.areaRngLbl, map(tuple, params.areaRng), strict=True)) == AREAS
    np.testing.assert_array_equal(params.iouThrs, IOU_THRESHOLDS)
    np.testing.assert_array_equal(params.recThrs, RECALLS)
