# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Several calibration sets, of which a judge keeps one."""

from __future__ import annotations

import pytest

from tests.tiny import write_data
from yolo_compress.calibrate import Contest, choose_measured
from yolo_compress.calibrate.choose import JUDGED
from yolo_compress.host.data import read_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_data(write_data(tmp_path_factory.mktemp("contest") / "data", train=40))


class Table:
    """A judge that notes the sets it sees, and likes the one at a place."""

    def __init__(self, best: int) -> None:
        self.best, self.sets, self.judged = best, [], ()

    def __call__(self, images):
        self.judged = tuple(images)
        return self.judge

    def judge(self, images):
        self.sets.append(tuple(images))
        return 1.0 if len(self.sets) == self.best else 2.0 + len(self.sets)


@pytest.mark.parametrize("method", ["cover", "random"])
@pytest.mark.parametrize("best", [1, 3, 5])
def test_the_set_that_the_judge_likes_is_kept(data, method, best):
    table, told = Table(best), []
    contest = Contest(5, table, {"target": "openvino"})
    found = choose_measured(data, 8, method=method, contest=contest, progress=told.append)
    assert len(table.sets) == len(set(table.sets)) == 5
    assert found.chosen.images == table.sets[best - 1]
    assert found.chosen.how["objective"] == pytest.approx(found.objective.value(found.numbers), abs=1e-6)
    assert found.chosen.how["candidates"][best - 1] == 1.0
    assert found.chosen.how["judged_on"] == len(table.judged) == 40 <= JUDGED
    assert found.chosen.how["target"] == "openvino"
    assert told[-1] == f"candidate 5 of 5: detections move by {7 if best < 5 else 1}, with the best one by 1"


def test_the_first_candidate_is_the_set_chosen_without_a_contest(data):
    table = Table(1)
    first = choose_measured(data, 8, seed=4, contest=Contest(3, table)).chosen
    assert first.images == choose_measured(data, 8, seed=4).chosen.images
    assert "candidates" not in choose_measured(data, 8, seed=4).chosen.how


def test_the_seed_says_which_sets_there_are(data):
    tables = [Table(1) for _ in range(3)]
    for table, seed in zip(tables, (0, 0, 1), strict=True):
        choose_measured(data, 8, seed=seed, contest=Contest(4, table))
    assert tables[0].sets == tables[1].sets
    assert not set(tables[0].sets[1:]) & set(tables[2].sets[1:])
    assert tables[0].judged == tables[2].judged
