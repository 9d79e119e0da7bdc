# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A search by Optuna is bounded, repeats nothing, and goes on where it was cut off; without Optuna it says so."""

from __future__ import annotations

import importlib.util
import json

import pytest

from tests.unit.sweep.fakes import FakePool, Killed, fake_everything, use_pool
from yolo_compress import api
from yolo_compress import recipe as recipes
from yolo_compress.errors import MissingDependency
from yolo_compress.sweep.search import OptunaSearch
from yolo_compress.sweep.space import read_space

BASE = recipes.from_flags({"prune": 0.5, "engines": "openvino:int8"})
needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    return fake_everything(monkeypatch, tmp_path)


def sweep(fake, tmp_path, **options):
    given = {"model": fake.model, "data": fake.data, "project": tmp_path / "out", "search": "optuna"}
    return api.sweep(BASE, **given, **options, progress=lambda line: None)


def test_without_optuna_the_message_says_what_to_install(fake, tmp_path, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(MissingDependency, match=r"searches need the 'optuna' package.*'yolo-compress\[sweep\]'"):
        sweep(fake, tmp_path, prune="0.2..0.6")
    assert not (tmp_path / "out").exists()


@needs_optuna
def test_suggestions_lie_in_the_space_with_their_types(tmp_path):
    space = read_space({"prune": "0.2..0.6", "epochs": "1..4", "lr0": "1e-5..1e-3:log", "qat": "none,int8"})
    search = OptunaSearch(tmp_path, space)
    for _ in range(20):
        _, values = search.ask()
        assert 0.2 <= values["prune"] <= 0.6
        assert values["epochs"] in (1, 2, 3, 4)
        assert isinstance(values["epochs"], int)
        assert 1e-5 <= values["lr0"] <= 1e-3
        assert values["qat"] in (None, "int8")


@needs_optuna
def test_a_list_can_be_suggested(tmp_path):
    _, values = OptunaSearch(tmp_path, read_space({"freeze": "[0,1];[2]", "prune": "0.1..0.2"})).ask()
    assert values["freeze"] in ([0, 1], [2])


@needs_optuna
def test_what_was_told_is_there_after_the_process_has_ended(tmp_path):
    space = read_space({"prune": "0.2..0.6"})
    search = OptunaSearch(tmp_path, space, seed=1)
    first, values = search.ask()
    search.tell(first, (0.3, 0.5))
    second, _ = search.ask()
    search.tell(second, None)
    third, _ = search.ask()
    again = OptunaSearch(tmp_path, space, seed=1)
    assert (again.told(), again.open()) == (2, [third])
    assert again.study.trials[first].values == [0.3, 0.5]
    assert again.study.trials[first].params == values
    assert again.ask()[1] != values  # the sampler does not begin at its seed once more


@needs_optuna
@pytest.mark.parametrize("objective", ["latency", "size"])
def test_a_search_runs_and_tells_every_trial(fake, tmp_path, monkeypatch, objective):
    pool = use_pool(monkeypatch, FakePool(workers=2))
    result = sweep(fake, tmp_path, prune="0.2..0.6", trials=5, objective=objective)
    assert pool.waves == [2, 2, 1]
    assert len(fake.benches) == (3 if objective == "latency" else 1)
    study = OptunaSearch(result.folder, read_space({"prune": "0.2..0.6"})).study
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5
    for row, trial in zip(result.rows, study.trials, strict=True):
        assert row["values"] == trial.params
        size = round(1000 * (1 - row["values"]["prune"]))
        seconds = size / 1000 if objective == "latency" else size
        accuracy = 0.2 + size / 5000 if objective == "latency" else 0.4 - 0.2 * row["values"]["prune"]
        assert trial.values == pytest.approx([accuracy, seconds])


@needs_optuna
@pytest.mark.parametrize("kill_at", [1, 3])
def test_a_killed_search_goes_on(fake, tmp_path, monkeypatch, kill_at):
    first = use_pool(monkeypatch, FakePool(workers=2, kill_at=kill_at))
    with pytest.raises(Killed):
        sweep(fake, tmp_path, prune="0.2..0.6", trials=4)
    second = use_pool(monkeypatch, FakePool(workers=2))
    result = api.sweep(resume=tmp_path / "out/sweep", progress=lambda line: None)
    assert [row["state"] for row in result.rows] == ["done"] * 4
    assert sorted(first.ran[:-1] + second.ran) == ["1", "2", "3", "4"]
    search = OptunaSearch(result.folder, read_space({"prune": "0.2..0.6"}))
    assert (search.told(), search.open()) == (4, [])


@needs_optuna
def test_a_suggestion_of_before_counts_and_is_not_run_again(fake, tmp_path, monkeypatch):
    pool = use_pool(monkeypatch, FakePool())
    result = sweep(fake, tmp_path, prune="0.2,0.9", trials=8)
    assert sorted(pool.ran) == ["1", "2"]
    assert sorted(number for row in result.rows for number in row["asked"]) == list(range(8))
    states = {row["values"]["prune"]: row["state"] for row in result.rows}
    assert states == {0.2: "done", 0.9: "failed"}
    told = [trial.state.name for trial in OptunaSearch(result.folder, read_space({"prune": "0.2,0.9"})).study.trials]
    assert set(told) == {"COMPLETE", "FAIL"}


@needs_optuna
def test_a_suggestion_that_has_no_row_is_given_up(fake, tmp_path, monkeypatch):
    use_pool(monkeypatch, FakePool(kill_at=1))
    with pytest.raises(Killed):
        sweep(fake, tmp_path, prune="0.2..0.6", trials=3)
    file = tmp_path / "out/sweep/sweep.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rows": []}))
    use_pool(monkeypatch, FakePool())
    result = api.sweep(resume=tmp_path / "out/sweep", progress=lambda line: None)
    assert [row["asked"] for row in result.rows] == [[1], [2]]
