# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Some of the classes: the scores are those of before, and so is everything that is not left out."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies

from tests.tiny import FAMILIES, tiny_model
from yolo_compress.errors import UnsupportedModel, UsageError
from yolo_compress.host import checkpoint, classes
from yolo_compress.host.detect import class_outputs

NAMES = ("disc", "box", "bar")


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_boxes_are_those_of_the_classes_kept(family):
    model = tiny_model(family, nc=5).double()
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kept = [3, 0]
    narrow = classes.keep_classes(model, kept)
    with torch.no_grad():
        before, after = model(image)[1], narrow(image)[1]
    branches = [(before[b], after[b]) for b in ("one2many", "one2one")] if "one2many" in before else [(before, after)]
    for full, some in branches:
        torch.testing.assert_close(some["scores"], full["scores"][:, kept], rtol=0, atol=1e-12)
        torch.testing.assert_close(some["boxes"], full["boxes"], rtol=0, atol=1e-12)
    assert narrow.names == {0: "ring", 1: "disc"}
    assert narrow.model[-1].nc == narrow.nc == narrow.yaml["nc"] == 2
    assert model.model[-1].nc == 5
    assert narrow.args["data"] is None
    assert checkpoint.facts(narrow)["classes"] == {"before": 5, "kept": ["ring", "disc"]}


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_stock_ultralytics_finds_what_it_found_of_these_classes_where_boxes_may_have_several(family, tmp_path):
    from ultralytics import YOLO
    from ultralytics.utils.nms import non_max_suppression

    model = tiny_model(family, nc=5)
    for last in class_outputs(model).values():
        last.bias.data += 6  # of random weights hardly anything would be found
    checkpoint.save_model(model, tmp_path / "all.pt")
    checkpoint.save_model(classes.keep_classes(model, [1, 4]), tmp_path / "some.pt")
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        full, some = (YOLO(tmp_path / f"{name}.pt").model(image)[0] for name in ("all", "some"))
    settings = {"conf_thres": 0.01, "multi_label": True, "max_det": 10_000}
    (expected,) = non_max_suppression(full, classes=[1, 4], **settings)
    (found,) = non_max_suppression(some, **settings)
    expected[:, 5] = (expected[:, 5] == 4).float()
    assert len(found) > 5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@hypothesis.given(strategies.permutations(range(5)), strategies.integers(1, 5))
def test_any_choice_of_a_choice_is_the_choice_at_once(order, count):
    model = tiny_model(nc=5)
    first, second = order[:count], list(range(count))[::-1]
    twice = classes.keep_classes(classes.keep_classes(model, first), second)
    once = classes.keep_classes(model, first[::-1])
    assert twice.names == once.names
    assert all(torch.equal(a, b) for a, b in zip(twice.state_dict().values(), once.state_dict().values(), strict=True))


def test_names_and_numbers():
    assert classes.class_numbers(NAMES, ["bar", " DISC "], of="it") == (2, 0)
    assert classes.class_numbers(NAMES, ["1", 0], of="it") == (1, 0)
    assert classes.class_numbers(("7", "a"), ["7"], of="it") == (0,)  # a name comes before a number
    assert classes.class_numbers(("Car", "car"), ["Car", "car"], of="it") == (0, 1)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([], "name some, such as keep=person,car"),
        (["dics"], "it has no class 'dics'; did you mean disc"),
        (["3"], "it has no class 3; its 3 classes end at 2"),
        (["bar", "2"], "class 'bar' is named twice"),
    ],
)
def test_unknown_classes(keep, message):
    with pytest.raises(UsageError, match=message):
        classes.class_numbers(NAMES, keep, of="it")


def test_a_name_that_may_be_two_classes_is_refused():
    with pytest.raises(UsageError, match="'CAR' may be any of Car, car of it; write it as one of them"):
        classes.class_numbers(("Car", "car"), ["CAR"], of="it")


def test_a_model_that_was_trained_quantized_is_refused():
    model = tiny_model()
    checkpoint.set_facts(model, {"qat": {}})
    with pytest.raises(UsageError, match="leave classes out of the float checkpoint"):
        classes.keep_classes(model, [0])


def test_another_head_is_refused():
    model = tiny_model()
    model.model[-1].__class__ = type("Other", (type(model.model[-1]),), {})
    with pytest.raises(UnsupportedModel, match="a head of type Other"):
        classes.keep_classes(model, [0])
