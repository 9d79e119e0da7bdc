# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Several calibration sets, of which one is kept by a score."""

from __future__ import annotations

import importlib

import pytest

from tests.tiny import write_data
from yolo_compress.calibrate import Selection, choose_measured
from yolo_compress.calibrate.choose import SCORED
from yolo_compress.calibrate.responses import responses
from yolo_compress.host.data import read_data

# their names in the package are those of functions
choose, survey = (importlib.import_module(f"yolo_compress.calibrate.{name}") for name in ("choose", "survey"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_data(write_data(tmp_path_factory.mktemp("selection") / "data", train=40))


class Table:
    """A score that notes the sets it sees, and is lowest for the one at a place."""

    def __init__(self, best: int) -> None:
        self.best, self.sets, self.images = best, [], ()

    def __call__(self, images):
        self.images = tuple(images)
        return self.score

    def score(self, images):
        self.sets.append(tuple(images))
        return 1.0 if len(self.sets) == self.best else 2.0 + len(self.sets)


@pytest.mark.parametrize("method", ["cover", "random"])
@pytest.mark.parametrize("best", [1, 3, 5])
def test_the_set_of_the_lowest_score_is_kept(data, method, best):
    table, told = Table(best), []
    selection = Selection(5, table, {"target": "openvino"})
    found = choose_measured(data, 8, method=method, selection=selection, progress=told.append)
    assert len(table.sets) == len(set(table.sets)) == 5
    assert found.chosen.images == table.sets[best - 1]
    assert found.chosen.how["objective"] == pytest.approx(found.objective.value(found.numbers), abs=1e-6)
    assert found.chosen.how["candidates"][best - 1] == 1.0
    assert found.chosen.how["scored_on"] == len(table.images) == 40 <= SCORED
    assert found.chosen.how["target"] == "openvino"
    assert told[-1] == f"candidate 5 of 5: detections move by {7 if best < 5 else 1}, with the best one by 1"


def test_the_first_candidate_is_the_set_chosen_without_a_selection(data):
    table = Table(1)
    first = choose_measured(data, 8, seed=4, selection=Selection(3, table)).chosen
    assert first.images == choose_measured(data, 8, seed=4).chosen.images
    assert "candidates" not in choose_measured(data, 8, seed=4).chosen.how


def test_the_seed_says_which_sets_there_are(data):
    tables = [Table(1) for _ in range(3)]
    for table, seed in zip(tables, (0, 0, 1), strict=True):
        choose_measured(data, 8, seed=seed, selection=Selection(4, table))
    assert tables[0].sets == tables[1].sets
    assert not set(tables[0].sets[1:]) & set(tables[2].sets[1:])


def test_sets_are_scored_on_the_same_few_images_whatever_the_seed(data, monkeypatch):
    monkeypatch.setattr(choose, "SCORED", 10)
    tables = [Table(1) for _ in range(2)]
    for table, seed in zip(tables, (0, 1), strict=True):
        made = choose_measured(data, 8, seed=seed, selection=Selection(2, table))
        assert made.chosen.how["scored_on"] == 10
    assert tables[0].images == tables[1].images
    assert len(set(tables[0].images)) == 10 < len(data.train)


@pytest.mark.parametrize("labels", [True, False])
def test_activations_do_not_count_where_the_model_scores_whole_sets(data, make_checkpoint, monkeypatch, labels):
    ran = []
    monkeypatch.setattr(survey, "responses", lambda *given, **more: ran.append(1) or responses(*given, **more))
    made = choose_measured(data, 8, labels=labels, model=make_checkpoint(), imgsz=64, selection=Selection(2, Table(1)))
    assert len(ran) == (not labels)  # it has to be run for its detections alone
    assert not {"extremes", "percentiles"} & {feature.name for feature in made.objective.features}
