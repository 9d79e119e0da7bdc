# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What corruption costs each candidate, with detectors whose sight is known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.bench.samples import refused, row
from yolo_compress.bench.corruptions import CORRUPTIONS
from yolo_compress.bench.robustness import Conditions, relative_drops, under_corruption
from yolo_compress.errors import UsageError
from yolo_compress.host.data import labels_for, letterbox, read_data, read_image

IMGSZ = 64


class Seer:
    """Answers with the labels of the image most like the one it is shown, if it is like enough."""

    def __init__(self, data, limit):
        self.known = [letterbox(read_image(path), IMGSZ)[0].astype(float) / 255 for path in data.val]
        self.labels, self.limit, self.calls = labels_for(data.val), limit, 0

    def infer(self, images):
        self.calls += 1
        apart = [np.abs(images[0] - known).mean() for known in self.known]
        best = int(np.argmin(apart))
        raw = np.zeros((1, 7, 8), np.float32)
        if apart[best] <= self.limit:
            for anchor, (cls, *box) in enumerate(self.labels[best]):
                raw[:, :4, anchor] = np.array(box) * IMGSZ
                raw[:, 4 + int(cls), anchor] = 0.9
        return raw


@pytest.fixture
def data(tiny_data):
    return read_data(tiny_data)


def measure(data, seers, conditions, rows=None):
    rows = rows or [row(f"candidate {index}") for index in range(len(seers))]
    lines = []
    given = {"classes": 3, "imgsz": IMGSZ, "progress": lines.append}
    return under_corruption(rows, seers, data.val, conditions, **given), lines


def test_a_blind_candidate_loses_all_and_a_tolerant_one_nothing(data):
    seers = [Seer(data, limit=1), Seer(data, limit=1e-6)]
    conditions = Conditions(("gaussian_noise", "jpeg"), (1, 5))
    (tolerant, strict), lines = measure(data, seers, conditions)
    assert tolerant.clean_map50_95 == strict.clean_map50_95 == pytest.approx(1)
    assert tolerant.corruption_drops == (("gaussian_noise", pytest.approx(0)), ("jpeg", pytest.approx(0)))
    assert strict.corruption_drops == (("gaussian_noise", pytest.approx(1)), ("jpeg", pytest.approx(1)))
    assert [setting[:2] for setting in strict.corrupted_map50_95] == [
        ("gaussian_noise", 1),
        ("gaussian_noise", 5),
        ("jpeg", 1),
        ("jpeg", 5),
    ]
    assert seers[0].calls == len(data.val) * 5  # clean, and two corruptions at two severities
    assert "robustness of 2 candidates on 4 images in 4 conditions" in lines[0]
    assert "jpeg, severity 5" in lines[-1]


def test_a_refused_candidate_is_left_out(data):
    broken = Seer(data, limit=1)
    rows = [row("good"), refused("broken")]
    (good, other), _ = measure(data, [Seer(data, limit=1), broken], Conditions(("jpeg",), (1,)), rows)
    assert good.corruption_drops
    assert other == rows[1]
    assert broken.calls == 0
    (alone,), lines = measure(data, [broken], Conditions(("jpeg",), (1,)), [refused("broken")])
    assert (alone.corruption_drops, lines) == ((), [])


def test_drops_are_shares_of_the_clean_value_and_means_over_severities():
    spoilt = (("haze", 1, 0.4), ("jpeg", 1, 0.5), ("haze", 3, 0.1))
    assert dict(relative_drops(0.5, spoilt)) == {"haze": pytest.approx(0.5), "jpeg": pytest.approx(0)}
    assert relative_drops(0.4, (("jpeg", 1, 0.5),)) == (("jpeg", pytest.approx(-0.25)),)
    assert relative_drops(0.0, spoilt) == (("haze", None), ("jpeg", None))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((("fog",), (1,)), "corruptions=fog is not known"),
        ((("haze",), (0,)), "severity 0 does not exist; give 1 to 5, such as severities=1,3,5"),
        (((), (1,)), "corruptions= has to name some, and each once"),
        ((("haze",), ()), "severities= has to name some"),
        ((("haze", "haze"), (1,)), "corruptions=haze,haze has to name some, and each once"),
    ],
)
def test_conditions_that_do_not_exist_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        Conditions(*given)


def test_a_section_says_what_is_measured():
    from yolo_compress.measuring import conditions
    from yolo_compress.recipe import BenchSection

    assert conditions(BenchSection()) is None
    section = BenchSection(corruptions="blur", severities=(2,), robustness_images=7)
    assert conditions(section) == Conditions(("defocus_blur", "motion_blur"), (2,), 7)
    assert conditions(BenchSection(robustness=True)).corruptions == tuple(CORRUPTIONS)
