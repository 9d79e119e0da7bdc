# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A trial is known by what it is, ends once, and an error of its own is how it ended."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from yolo_compress import pipeline
from yolo_compress import recipe as recipes
from yolo_compress.errors import DataError, GateNotMet, UsageError
from yolo_compress.sweep import trial
from yolo_compress.sweep.trial import Job, Outcome, key_of, recipe_of, run_trial
from yolo_compress.train import with_options

INPUTS = {"model": {"path": "a.pt", "sha256": "1"}, "data": {"path": "d.yaml", "sha256": "2"}}
BASE = recipes.from_flags({"prune": 0.5, "qat": "int8", "teacher": "self"})


def key(recipe=BASE, inputs=INPUTS, imgsz=64, device="cpu"):
    return key_of(recipe, inputs, imgsz=imgsz, device=device)


def with_teacher(path):
    return recipes.from_flags({"teacher": path}, BASE)


def test_a_trial_is_its_recipe_its_files_by_content_size_and_device():
    moved = {name: {**kept, "path": "elsewhere/" + kept["path"]} for name, kept in INPUTS.items()}
    assert key() == key(inputs=moved) == key(BASE.model_copy(update={"name": "x", "description": "y"}))
    assert key(with_teacher("a.pt")) == key(with_teacher("b/a.pt"))
    others = [
        key(recipes.from_flags({"prune": 0.4}, BASE)),
        key(with_options(BASE, {"epochs": 3})),
        key(with_teacher("a.pt")),
        key(inputs={**INPUTS, "model": {"path": "a.pt", "sha256": "3"}}),
        key(imgsz=96),
        key(device="0"),
    ]
    assert len({key(), *others}) == 7


def test_how_it_is_measured_is_no_part_of_a_trial():
    assert key(recipes.from_flags({"bench_rounds": 9}, BASE)) == key(recipes.from_flags({"bench_rounds": 8}, BASE))


def test_none_goes_without_the_section_and_its_other_flags():
    found = recipe_of(BASE, {"qat": None, "qat_freeze": 0.5, "prune": None, "teacher": None}, with_options)
    assert (found.qat, found.prune, found.distill) == (None, None, None)
    assert found.train is not None


def test_none_beside_another_target_leaves_the_section():
    found = recipe_of(BASE, {"prune": None, "prune_flops": 0.2}, with_options)
    assert (found.prune.ratio, found.prune.flops) == (None, 0.2)


def test_none_of_an_option_that_may_be_nothing_is_nothing():
    base = recipes.from_flags({"quantize_max_drop": 0.3})
    assert recipe_of(base, {"quantize_max_drop": None}, with_options).quantize.max_drop is None


@pytest.mark.parametrize("flag", ["prune_importance", "epochs"])
def test_what_always_has_a_value_cannot_be_none(flag):
    with pytest.raises(UsageError, match=f"{flag}=none means nothing, since {flag} always has a value"):
        recipe_of(BASE, {flag: None}, with_options)


@pytest.fixture
def job(tmp_path):
    return Job(str(tmp_path / "1-abc"), BASE.model_dump(mode="json"), "a.pt", "d.yaml", 64, "cpu")


RECORD = {
    "schema_version": 1,
    "stages": [
        {
            "name": "baseline",
            "seconds": 2.0,
            "outputs": {"checkpoint": {"path": "/a.pt"}},
            "metrics": {"map50_95": 0.4, "params": 100},
            "notes": [],
        },
        {
            "name": "quantize",
            "seconds": 3.5,
            "outputs": {"qdq": {"path": "2-quantize/int8.onnx"}},
            "metrics": {"map50_95": 0.39},
            "notes": ["told"],
        },
        {
            "name": "build",
            "seconds": 1.0,
            "outputs": {"openvino:int8": {"path": "3-build/x"}},
            "metrics": {},
            "notes": [],
        },
    ],
}


class FakePipeline:
    """Runs that end as told."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.effect = None
        monkeypatch.setattr(pipeline, "run", self.run)
        monkeypatch.setattr(pipeline, "resume", self.resume)

    def run(self, recipe, *, project, name, bench, **given):
        assert bench is False
        self.calls.append("run")
        place = project / name
        assert not place.exists()
        place.mkdir()
        (place / "run.json").write_text(json.dumps(RECORD))
        return self._end()

    def resume(self, place, *, progress):
        self.calls.append("resume")
        return self._end()

    def _end(self):
        if self.effect is not None:
            raise self.effect
        return SimpleNamespace(record=RECORD)


@pytest.fixture
def runs(monkeypatch):
    return FakePipeline(monkeypatch)


def test_a_finished_trial_has_its_figures_and_engines_and_is_not_run_again(job, runs):
    outcome = run_trial(job)
    assert (outcome.state, outcome.seconds, outcome.attempts, outcome.error) == ("done", 6.5, 1, "")
    assert outcome.figures == {"map50_95": 0.39, "params": 100, "float_map50_95": 0.4}
    assert outcome.artifacts == {"openvino:int8": "run/3-build/x"}
    assert list(outcome.notes) == ["told"]
    again = run_trial(job)
    assert runs.calls == ["run"]
    assert vars(again) == json.loads(json.dumps(vars(outcome)))


def test_without_an_engine_the_checkpoint_is_what_was_made(job, runs, monkeypatch):
    monkeypatch.setitem(RECORD, "stages", RECORD["stages"][:1])
    assert run_trial(job).artifacts == {"checkpoint": "/a.pt"}


def test_a_cut_off_trial_goes_on_with_its_run(job, runs):
    runs.effect = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_trial(job)
    assert not (Path(job.folder) / trial.OUTCOME).exists()
    runs.effect = None
    assert run_trial(job).attempts == 2
    assert runs.calls == ["run", "resume"]
    lines = [json.loads(line) for line in (Path(job.folder) / trial.ATTEMPTS).read_text().splitlines()]
    assert [line["stages_done"] for line in lines] == [[], ["baseline", "quantize", "build"]]


def test_a_run_folder_without_a_record_is_begun_afresh(job, runs):
    (Path(job.folder) / "run" / "1-baseline").mkdir(parents=True)
    assert run_trial(job).state == "done"
    assert runs.calls == ["run"]


@pytest.mark.parametrize(
    ("effect", "state", "error"),
    [
        (DataError("no such teacher"), "failed", "no such teacher"),
        (GateNotMet("too much lost"), "gate not met", "too much lost"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_is_how_a_trial_ended(job, runs, effect, state, error):
    runs.effect = effect
    outcome = run_trial(job)
    assert (outcome.state, outcome.error, outcome.seconds) == (state, error, 6.5)
    assert run_trial(job) == Outcome(**json.loads((Path(job.folder) / trial.OUTCOME).read_text()))
    assert runs.calls == ["run"]


def test_a_damaged_outcome_is_named(job):
    Path(job.folder).mkdir()
    (Path(job.folder) / trial.OUTCOME).write_text("{")
    with pytest.raises(DataError, match=r"outcome.json' is damaged .* remove that file, and the trial goes on"):
        run_trial(job)


def test_a_job_goes_to_another_process_and_back(job):
    assert Job.from_json(job.to_json()) == job
