# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Accuracy against pycocotools and against Ultralytics' own integration, which were not written here."""

from __future__ import annotations

import contextlib
import io
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_compress.bench import accuracy
from yolo_compress.bench.accuracy import Detections, Truth, coco_results, coco_truth, detect, evaluate
from yolo_compress.bench.yolo_val import yolo_val_map50_95
from yolo_compress.errors import DataError
from yolo_compress.host.data import read_data

SAME = 1e-6  # both compute in float64; what is left is the order of additions
SAME_RULE = 2e-4  # Ultralytics matches and integrates in float32


def oracle(truth: Truth, found: Detections, classes: int) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = coco_truth(truth, classes)
        reference.createIndex()
        results = coco_results(found)
        if results:
            loaded = reference.loadRes(results)
        else:  # loadRes of pycocotools looks at the first result
            loaded = COCO()
            loaded.dataset = {**reference.dataset, "annotations": []}
            loaded.createIndex()
        evaluation = COCOeval(reference, loaded, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats)


def ours(truth: Truth, found: Detections, classes: int) -> np.ndarray:
    return np.array([-1.0 if value is None else value for value in evaluate(truth, found, classes=classes).stats])


def scene(seed, *, images, classes, objects, extra, ties=False, empty=0.2):
    """Draw objects, and detections that partly hit them; some images have no objects and some no detections."""
    rng = np.random.default_rng(seed)
    truth, found = Truth(), Detections()
    for _ in range(images):
        count = 0 if rng.random() < empty else int(rng.integers(0, objects + 1))
        sides = rng.choice([12.0, 50.0, 160.0], (count, 2)) * rng.uniform(0.7, 1.3, (count, 2))
        boxes = np.column_stack([rng.uniform(0, 400, (count, 2)), sides])
        labels = rng.integers(0, classes, count)
        truth.images.append(np.column_stack([labels, boxes]).reshape(-1, 5).astype(np.float64))
        truth.shapes.append((640, 640))
        hits = np.repeat(np.arange(count), 2)
        corners = np.column_stack([boxes[hits, :2], boxes[hits, :2] + boxes[hits, 2:]])
        corners += rng.normal(0, 0.08, corners.shape) * np.tile(boxes[hits, 2:], 2)
        noise = rng.uniform(0, 400, (extra, 2))
        corners = np.concatenate([corners, np.column_stack([noise, noise + rng.uniform(5, 150, (extra, 2))])])
        cls = np.concatenate([labels[hits], rng.integers(0, classes, extra)])
        scores = rng.uniform(0.001, 1, len(cls))
        if ties:
            scores = np.ceil(scores * 4) / 4
        rows = np.column_stack([corners, scores, cls]).astype(np.float32)
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        found.images.append(rows if rng.random() >= empty else rows[:0])
    if not truth.count:
        truth.images[0] = np.array([[0, 10, 10, 50, 50]], np.float64)
    return truth, found


@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 6),
    classes=st.sampled_from([1, 2, 7, 80]),
    objects=st.integers(0, 8),
    extra=st.integers(0, 12),
    ties=st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_all_twelve_numbers_equal_those_of_pycocotools(seed, images, classes, objects, extra, ties):
    truth, found = scene(seed, images=images, classes=classes, objects=objects, extra=extra, ties=ties)
    np.testing.assert_allclose(ours(truth, found, classes), oracle(truth, found, classes), rtol=0, atol=SAME)


def test_more_than_a_hundred_detections_of_a_class_are_cut_as_pycocotools_cuts_them():
    truth, found = scene(3, images=3, classes=1, objects=30, extra=250, empty=0)
    assert max(len(rows) for rows in found.images) > 250
    values = ours(truth, found, 1)
    np.testing.assert_allclose(values, oracle(truth, found, 1), rtol=0, atol=SAME)
    assert 0.01 < values[0] < 0.99


def test_no_detections_at_all_is_zero():
    truth, found = scene(0, images=4, classes=3, objects=5, extra=0)
    found.images = [rows[:0] for rows in found.images]
    values = ours(truth, found, 3)
    np.testing.assert_allclose(values, oracle(truth, found, 3), rtol=0, atol=SAME)
    assert values[0] == 0


def test_perfect_detections_are_one_and_absent_kinds_are_none():
    truth, found = Truth(), Detections()
    truth.images, truth.shapes = [np.array([[1, 10, 10, 200, 200]], np.float64)], [(300, 300)]
    found.images = [np.array([[10, 10, 210, 210, 0.9, 1]], np.float32)]
    result = evaluate(truth, found, classes=3)
    assert result.map50_95 == pytest.approx(1)
    assert result.per_class == (None, pytest.approx(1), None)
    assert result.stats[3] is None  # no small object


def test_per_class_values_average_to_the_total():
    truth, found = scene(11, images=8, classes=5, objects=8, extra=6)
    result = evaluate(truth, found, classes=5)
    known = [value for value in result.per_class if value is not None]
    assert len(set(known)) > 2
    assert np.mean(known) == pytest.approx(result.map50_95, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_the_number_that_yolo_val_prints_is_reproduced(seed):
    import torch
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.utils.metrics import ap_per_class, box_iou

    truth, found = scene(seed, images=10, classes=4, objects=8, extra=8)
    validator = DetectionValidator.__new__(DetectionValidator)
    validator.iouv = torch.linspace(0.5, 0.95, 10)
    correct = []
    for objects, rows in zip(truth.images, found.images, strict=True):
        boxes = torch.tensor(np.column_stack([objects[:, 1:3], objects[:, 1:3] + objects[:, 3:]]), dtype=torch.float32)
        overlap = box_iou(boxes, torch.tensor(rows[:, :4]))
        labels = torch.tensor(objects[:, 0], dtype=torch.float32)
        correct.append(validator.match_predictions(torch.tensor(rows[:, 5]), labels, overlap).numpy())
    rows = np.concatenate(found.images)
    labels = np.concatenate([objects[:, 0] for objects in truth.images])
    expected = ap_per_class(np.concatenate(correct), rows[:, 4], rows[:, 5], labels)[5].mean()
    assert yolo_val_map50_95(truth, found) == pytest.approx(expected, abs=SAME_RULE)


def test_yolo_val_number_of_perfect_and_of_no_detections():
    truth, found = Truth(), Detections()
    truth.images, truth.shapes = [np.array([[0, 10, 10, 200, 200]], np.float64)], [(300, 300)]
    found.images = [np.array([[10, 10, 210, 210, 0.9, 0]], np.float32)]
    assert yolo_val_map50_95(truth, found) == pytest.approx(1, abs=0.006)  # the last reading counts by half
    found.images = [np.zeros((0, 6), np.float32)]
    assert yolo_val_map50_95(truth, found) == 0


def test_images_without_any_object_are_refused():
    truth, found = scene(0, images=2, classes=2, objects=2, extra=2)
    truth.images = [rows[:0] for rows in truth.images]
    with pytest.raises(DataError, match="none of the validation images has a labelled object"):
        evaluate(truth, found, classes=2)


def test_a_label_beyond_the_class_list_is_refused():
    truth, found = scene(5, images=3, classes=4, objects=6, extra=2, empty=0)
    highest = int(max(rows[:, 0].max() for rows in truth.images if len(rows)))
    with pytest.raises(DataError, match=f"class {highest} and the data names {highest}"):
        evaluate(truth, found, classes=highest)


class Oracle:
    """A session that answers with the labels of the images, which it is given in their order."""

    def __init__(self, boxes, *, classes=3):
        self.boxes, self.classes, self.calls = iter(boxes), classes, 0

    def infer(self, images):
        assert images.dtype == np.float32
        assert images.shape[:2] == (1, 3)
        assert 0 <= images.min() <= images.max() <= 1
        self.calls += 1
        rows = next(self.boxes)
        raw = np.zeros((1, 4 + self.classes, max(len(rows), 1)), np.float32)
        for anchor, (cls, *box) in enumerate(rows):
            raw[0, :4, anchor] = box
            raw[0, 4 + int(cls), anchor] = 0.9
        return raw


def letterboxed(data, imgsz):
    """Return the labels of the val images as centre boxes in letterboxed pixels, computed by hand."""
    from yolo_compress.host.data import labels_for, read_image

    for path, rows in zip(data.val, labels_for(data.val), strict=True):
        height, width = read_image(path).shape[:2]
        scale = imgsz / max(height, width)
        sides = np.array([width, height]) * scale
        pad = (imgsz - sides) / 2
        boxes = rows[:, 1:] * np.tile(sides, 2) + np.concatenate([pad, [0, 0]])
        yield np.column_stack([rows[:, 0], boxes])


def test_detections_return_to_the_pixels_of_the_original(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("images/val", "labels/val", "images/train"):
        (tmp_path / kind).mkdir(parents=True)
    for index, (width, height) in enumerate([(64, 64), (96, 48), (40, 80)]):
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "images/val" / f"{index}.png"), image)
        (tmp_path / "labels/val" / f"{index}.txt").write_text("0 0.4 0.5 0.5 0.6\n2 0.7 0.3 0.4 0.3\n")
    cv2.imwrite(str(tmp_path / "images/train/0.png"), image)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: a, 1: b, 2: c}\n")
    data = read_data(tmp_path / "data.yaml")
    truth, (found,) = detect([Oracle(letterboxed(data, 128))], data.val, imgsz=128)
    assert truth.shapes == [(64, 64), (48, 96), (80, 40)]
    for objects, rows in zip(truth.images, found.images, strict=True):
        rows = rows[np.argsort(rows[:, 5])]
        corners = np.column_stack([objects[:, 1:3], objects[:, 1:3] + objects[:, 3:]])
        np.testing.assert_allclose(rows[:, :4], corners, atol=0.05)
    assert evaluate(truth, found, classes=3).map50_95 == pytest.approx(1)


def test_output_that_is_not_finite_is_counted_and_detects_nothing(tiny_data):
    data = read_data(tiny_data)

    class Broken:
        def infer(self, images):
            return np.full((1, 7, 4), np.nan, np.float32)

    _, (found,) = detect([Broken()], data.val, imgsz=64)
    assert found.not_finite == len(data.val)
    assert found.count == 0


def test_an_unreadable_image_is_named(tiny_data):
    data = read_data(tiny_data)
    data.val[1].write_bytes(b"not an image")
    with pytest.raises(DataError, match=data.val[1].name):
        detect([Oracle(letterboxed(data, 64))], data.val, imgsz=64)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, monkeypatch):
    shape = (600, 600, 3)

    class Blind:
        def infer(self, images):
            return np.zeros((1, 7, 4), np.float32)

    monkeypatch.setattr(accuracy, "read_image", lambda path: np.zeros(shape, np.uint8))
    images = [tmp_path / f"{index}.png" for index in range(40)]
    detect([Blind()], images[:2], imgsz=64)  # whatever is imported or cached at first use
    peaks = []
    for count in (4, 40):
        tracemalloc.start()
        detect([Blind()], images[:count], imgsz=64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < np.prod(shape) / 2  # 36 more images cost less than half of one


def test_progress_is_told_about_every_ten_seconds(tiny_data):
    data = read_data(tiny_data)
    now = iter(range(0, 1000, 6))
    lines = []
    detect([Oracle(letterboxed(data, 64))], data.val, imgsz=64, progress=lines.append, clock=lambda: next(now))
    assert lines[0] == "accuracy: image 2/4"
