# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Two engines as one: when images go on, what the answer is, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from yolo_compress.bench.cascade import differences, fit_rule
from yolo_compress.engines import engine_for
from yolo_compress.engines.cascade import CascadeSession, Rule, boxes, write_cascade
from yolo_compress.errors import CompressError, DataError, EngineError, UsageError
from yolo_compress.host.detect import overlaps


def raw(*rows: tuple[float, ...], classes: int = 3, anchors: int = 12) -> np.ndarray:
    """Return a raw answer with boxes (x, y, w, h, score, class) and anchors that say nothing."""
    answer = np.zeros((1, 4 + classes, anchors), np.float32)
    answer[0, :4] = 1
    for index, (x, y, w, h, score, cls) in enumerate(rows):
        answer[0, :4, index] = x, y, w, h
        answer[0, 4 + int(cls), index] = score
    return answer


class Fixed:
    """A session whose answers are known."""

    def __init__(self, answers):
        self.answers, self.seen = answers, 0

    def infer(self, images):
        self.seen += len(images)
        return np.concatenate([self.answers[int(image[0, 0, 0])] for image in images])

    def describe(self):
        return {"engine": "fixed", "precision": "int8", "version": "1", "device": "cpu", "threads": 1, "notes": ["n"]}

    def close(self):
        self.answers = None


def image(number: int) -> np.ndarray:
    return np.full((1, 3, 2, 2), number, np.float32)


SURE, UNSURE = raw((50, 50, 20, 20, 0.99, 1)), raw((50, 50, 20, 20, 0.5, 1), (90, 20, 10, 10, 0.4, 0))


def test_the_surer_of_two_boxes_at_one_place_stays_unless_they_are_of_two_classes():
    found = boxes(
        raw((50, 50, 20, 20, 0.6, 1), (51, 50, 20, 20, 0.9, 1), (50, 51, 20, 20, 0.7, 2), (9, 9, 4, 4, 0.04, 0))
    )
    assert found[:, 4] == pytest.approx([0.9, 0.7])
    assert found[:, 5].tolist() == [1, 2]
    assert found[0, :4] == pytest.approx([41, 40, 61, 60])
    end_to_end = np.array([[[1, 2, 3, 4, 0.3, 2], [1, 2, 3, 4, 0.8, 1], [0, 0, 0, 0, 0, 0]]], np.float32)
    assert boxes(end_to_end)[:, 4] == pytest.approx([0.8, 0.3])


@given(seed=st.integers(0, 2**16), n=st.integers(1, 6), m=st.integers(1, 6))
def test_overlaps_are_those_of_torchvision(seed, n, m):
    draw = np.random.default_rng(seed)
    # of at least 10 pixels, for which the small number that keeps division safe is far below the tolerance
    one, other = (
        np.concatenate([low := 90 * draw.random((k, 2)), low + 10 + 90 * draw.random((k, 2))], axis=1) for k in (n, m)
    )
    exact = box_iou(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    np.testing.assert_allclose(overlaps(one, other), exact, atol=1e-9)


def test_differences_count_boxes_without_a_partner():
    one = raw((50, 50, 20, 20, 0.9, 1), (90, 20, 10, 10, 0.8, 0), (10, 90, 8, 8, 0.1, 0))
    assert differences(one, one) == 0
    assert differences(one, raw()) == 2  # the third is not shown
    assert differences(one, raw((51, 50, 20, 20, 0.6, 1), (90, 20, 10, 10, 0.8, 2))) == 2  # another class
    twice = raw((50, 50, 20, 20, 0.9, 1), (50, 64, 20, 20, 0.9, 1))
    assert differences(one, twice) == 2


@given(seed=st.integers(0, 2**16))
def test_differences_do_not_depend_on_the_order_of_the_engines(seed):
    draw = np.random.default_rng(seed)
    pair = [
        raw(*((*draw.uniform(20, 80, 2), *draw.uniform(10, 30, 2), draw.random(), draw.integers(3)) for _ in range(4)))
        for _ in range(2)
    ]
    # apart boxes have at most one partner each, so that the greedy choice is the only one
    if all(overlaps(b, b).sum() == pytest.approx(len(b)) for b in map(boxes, pair)):
        assert differences(*pair) == differences(*pair[::-1])


def test_an_unsure_answer_is_replaced_and_a_sure_one_is_kept():
    better = raw((50, 50, 20, 20, 0.97, 1))
    cheap, precise = Fixed([SURE, UNSURE]), Fixed([raw(), better])
    session = CascadeSession(cheap, precise, 0.3, ("int8.onnx", "fp32.onnx"), 7)
    found = session.infer(np.concatenate([image(0), image(1), image(0)]))
    assert np.array_equal(found, np.concatenate([SURE, better, SURE]))
    assert (cheap.seen, precise.seen) == (3, 1)
    told = session.describe()
    assert told["passed_on"] == pytest.approx(1 / 3)
    assert told["size_bytes"] == 7
    assert told["notes"] == ["33.3 % of 3 images went to fp32.onnx", "n", "n"]


def test_the_rule_sends_on_the_share_that_is_asked_for():
    draw = np.random.default_rng(0)
    unsure = draw.uniform(0.3, 0.99, 200)
    cheap = [raw((50, 50, 20, 20, float(score), 1)) for score in unsure]
    # the nearer to a half, the more often the precise engine sees nothing there
    kept = draw.random(200) > 4 * unsure * (1 - unsure)
    precise = [answer if keep else raw() for answer, keep in zip(cheap, kept, strict=True)]
    rule = fit_rule(Fixed(cheap).infer, Fixed(precise).infer, map(image, range(200)), share=0.25)
    assert rule.share == pytest.approx(0.25)
    assert rule.images == 200
    assert rule.correlation > 0.3
    assert list(rule.doubts) == sorted(rule.doubts)
    assert list(rule.differing) == sorted(rule.differing)
    assert np.mean(rule.differing) == pytest.approx(
        np.mean([differences(a, b) for a, b in zip(cheap, precise, strict=True)])
    )


def test_the_rule_sends_on_where_more_boxes_are_expected_to_differ():
    cheap, precise = Fixed([SURE, UNSURE]), Fixed([SURE, raw()])
    rule = fit_rule(cheap.infer, precise.infer, [image(0), image(1)], differing=1)
    assert rule.share == 0.5
    assert CascadeSession(cheap, precise, rule.threshold, ("a", "b"), 0).infer(image(1)).max() == 1
    everything = fit_rule(Fixed([SURE, UNSURE]).infer, Fixed([raw(), raw()]).infer, [image(0), image(1)], differing=0)
    assert everything.share == 1.0
    nothing = fit_rule(cheap.infer, precise.infer, [image(0), image(1)], differing=9)
    assert nothing.share == 0.0


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({}, "give share=0.25 or differing=1"),
        ({"share": 0.2, "differing": 1}, "one of them"),
        ({"share": 1.0}, "share=1.0 makes no cascade"),
        ({"differing": -1}, "differing=-1 is no number of boxes"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(given_, message):
    with pytest.raises(UsageError, match=message):
        fit_rule(Fixed([SURE]).infer, Fixed([SURE]).infer, [image(0)], **given_)


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="cannot be fitted to 1 images"):
        fit_rule(Fixed([SURE]).infer, Fixed([SURE]).infer, [image(0)], share=0.5)


def test_engines_that_are_gone_or_changed_are_noticed(tmp_path):
    cheap, precise, out = tmp_path / "int8.onnx", tmp_path / "fp32.onnx", tmp_path / "pair.cascade.json"
    cheap.write_bytes(b"one")
    precise.write_bytes(b"two")
    rule = Rule(0.5, 0.25, (0.1,), (0.2,), 0.6, 10)
    with pytest.raises(UsageError, match=r"let it end in \.cascade\.json"):
        write_cascade(tmp_path / "pair.json", cheap, precise, rule, imgsz=64)
    made = write_cascade(out, cheap, precise, rule, imgsz=64)
    assert json.loads(made.path.read_text())["cheap"]["path"] == "int8.onnx"
    engine = engine_for(out)
    precise.write_bytes(b"three")
    cheap.unlink()
    for message in ("'.*int8.onnx', which does not exist", "is not the file that"):
        with pytest.raises(EngineError, match=message):
            engine.load(out)
        cheap.write_bytes(b"other")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cheap": {"path": 1}}', '{"schema_version": 1}'])
def test_what_is_no_cascade_is_refused(tmp_path, text):
    path = tmp_path / "x.cascade.json"
    path.write_text(text)
    with pytest.raises(CompressError, match="is not a cascade"):
        engine_for(path).load(path)
    with pytest.raises(DataError, match="does not exist"):
        engine_for(path).load(tmp_path / "gone.cascade.json")
    with pytest.raises(UsageError, match="made of two engines"):
        engine_for(path).build(path, tmp_path, precision="int8", imgsz=64)
