# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A sweep runs each trial once, whatever ends it in between, keeps failures, and measures when nothing runs."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import pytest

from tests.unit.bench.samples import result, row
from tests.unit.sweep.fakes import FakePool, Killed, fake_everything, use_pool
from yolo_compress import api
from yolo_compress import recipe as recipes
from yolo_compress.errors import CompressError, DataError, RecipeError, ResumeMismatch, UsageError
from yolo_compress.recipe import BenchSection
from yolo_compress.report.pareto import picture
from yolo_compress.sweep.measure import GROUP, Artifact, groups, measure, merged

BASE = recipes.from_flags({"prune": 0.5, "engines": "openvino:int8", "qat": "int8"})


@pytest.fixture
def fake(monkeypatch, tmp_path):
    return fake_everything(monkeypatch, tmp_path)


def sweep(fake, tmp_path, **options):
    given = {"model": fake.model, "data": fake.data, "project": tmp_path / "out", "progress": lambda line: None}
    return api.sweep(options.pop("recipe", BASE), **{**given, **options})


def record_of(tmp_path, name="sweep"):
    return json.loads((tmp_path / "out" / name / "sweep.json").read_text())


def test_a_grid_is_run_in_order_and_measured_afterwards(fake, tmp_path, monkeypatch):
    pool = use_pool(monkeypatch, FakePool())
    result = sweep(fake, tmp_path, prune="0.2,0.4", qat="none,int8", epochs=3)
    assert [row["values"] for row in result.rows] == [
        {"prune": 0.2, "qat": None},
        {"prune": 0.2, "qat": "int8"},
        {"prune": 0.4, "qat": None},
        {"prune": 0.4, "qat": "int8"},
    ]
    assert pool.ran == ["1", "2", "3", "4"]
    assert fake.benches == [["trial 1", "trial 2", "trial 3", "trial 4"]]
    assert record_of(tmp_path)["rows"] == list(result.rows)
    assert record_of(tmp_path)["status"] == "done"
    assert "4 trials: 4 done" in str(result)


def test_the_report_has_every_trial_and_what_none_beats(fake, tmp_path, monkeypatch):
    use_pool(monkeypatch, FakePool())
    monkeypatch.setattr("yolo_compress.report.picture", picture)
    result = sweep(fake, tmp_path, prune="0.2,0.4,0.9")
    with (result.folder / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["prune"] for row in rows] == ["0.2", "0.4", "0.9"]
    assert [row["state"] for row in rows] == ["done", "done", "failed"]
    assert [row["size_bytes"] for row in rows] == ["800", "600", ""]
    # native:fp32 is the most accurate and trial 2 the smallest; trial 1 lies on the line between them
    assert [row["unbeaten_in_speed"] for row in rows] == ["1", "1", "0"]
    assert rows[2]["error"] == "nothing is left at 0.9"
    page = result.report_html.read_text()
    text = (result.folder / "report.md").read_text()
    for told in (page, text):
        assert "trial 3: failed: nothing is left at 0.9" in told
        assert "Not beaten in" in told
        assert "the flag that was given last changes fastest" in told
    assert page.count("<img ") == 2
    assert "Accuracy against time as a ratio to the first candidate" in page
    assert "Accuracy against latency" not in page
    assert "![mAP50-95 against time as a ratio to the first candidate: native:fp32 1.00, 37.12; " in text
    assert (result.folder / "pareto-size.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_a_killed_sweep_goes_on_and_repeats_nothing_that_had_ended(fake, tmp_path, monkeypatch, kill_at):
    first = use_pool(monkeypatch, FakePool(kill_at=kill_at))
    with pytest.raises(Killed):
        sweep(fake, tmp_path, prune="0.2,0.9,0.4")
    states = [row["state"] for row in record_of(tmp_path)["rows"]]
    assert states.count("waiting") == 4 - kill_at
    second = use_pool(monkeypatch, FakePool())
    result = api.sweep(resume=tmp_path / "out/sweep", progress=lambda line: None)
    assert [row["state"] for row in result.rows] == ["done", "failed", "done"]
    assert first.ran[:-1] + second.ran == ["1", "2", "3"]
    assert fake.exports == 1


def test_an_ended_sweep_that_is_resumed_runs_and_measures_nothing(fake, tmp_path, monkeypatch):
    use_pool(monkeypatch, FakePool())
    before = sweep(fake, tmp_path, prune="0.2,0.4")
    fake.benches.clear()
    before.report_html.unlink()
    pool = use_pool(monkeypatch, FakePool())
    after = api.sweep(resume=before.folder, progress=lambda line: None)
    assert (pool.ran, fake.benches) == ([], [])
    assert after.rows == before.rows
    assert after.report_html.is_file()


def test_failures_stay_until_they_are_asked_for(fake, tmp_path, monkeypatch):
    use_pool(monkeypatch, FakePool())
    folder = sweep(fake, tmp_path, prune="0.2,0.9").folder
    pool = use_pool(monkeypatch, FakePool())
    api.sweep(resume=folder, progress=lambda line: None)
    assert pool.ran == []
    api.sweep(resume=folder, retry_failed=True, progress=lambda line: None)
    assert pool.ran == ["2"]


def test_a_sweep_of_failures_says_so_and_keeps_its_rows(fake, tmp_path, monkeypatch):
    use_pool(monkeypatch, FakePool())
    with pytest.raises(CompressError, match=r"no trial of .* reached its end; trial 1 \(.*\): nothing is left at 0.9"):
        sweep(fake, tmp_path, prune=0.9, epochs="1,2")
    assert [row["state"] for row in record_of(tmp_path)["rows"]] == ["failed", "failed"]


def test_what_comes_to_the_same_is_run_once(fake, tmp_path, monkeypatch):
    pool = use_pool(monkeypatch, FakePool())
    rows = sweep(fake, tmp_path, qat="none,int8", qat_freeze="0.5,0.8").rows
    assert [row["values"] for row in rows] == [
        {"qat": None, "qat_freeze": 0.5},
        {"qat": "int8", "qat_freeze": 0.5},
        {"qat": "int8", "qat_freeze": 0.8},
    ]
    assert len(pool.ran) == 3


def test_a_combination_that_cannot_be_is_a_row(fake, tmp_path, monkeypatch):
    pool = use_pool(monkeypatch, FakePool())
    rows = sweep(fake, tmp_path, prune="none,0.2", prune_flops="none,0.3").rows
    assert [row["state"] for row in rows] == ["done", "done", "done", "failed"]
    assert "ratio and flops given" in rows[3]["error"]
    assert pool.ran == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"prune": "0.2,4"},
            UsageError,
            "prune=4 cannot be part of any trial: the command line cannot be",
        ),
        ({"prune": "0.2,0.4", "lr": 0.1}, UsageError, "prune=0.2 cannot be part of any trial: 'lr' is not a valid"),
        ({"teacher": "none,gone.pt"}, UsageError, "teacher=gone.pt cannot be part of any trial: teacher 0 '"),
        (
            {"prune": "0.2,0.4", "epochs": "none,3"},
            UsageError,
            "epochs=none cannot be part of any trial: epochs=none",
        ),
        ({"prune": 0.4}, UsageError, "every flag has one value, so there is nothing to sweep"),
        ({"bench_rounds": "5,10"}, UsageError, "bench_rounds says how everything is measured, which has to be alike"),
        ({"prune": "0.2,0.4", "bench_pictures": 4}, UsageError, "a sweep draws no pictures before and after"),
        ({"prune": "0.2,0.4", "workers": 2}, UsageError, "workers=2 run on Ray, and without it trials follow each"),
        ({"prune": "0.2,0.4", "workers": 0}, UsageError, "workers=0 runs nothing; give at least 1"),
        (
            {"prune": "0.2,0.4", "retry_failed": True},
            UsageError,
            "retry_failed is for a sweep that has failures",
        ),
        ({"prune": "0.2,0.4", "search": "grid"}, UsageError, "search=grid is not known; choose from optuna"),
        ({"prune": "0.2,0.4", "search": "optuna", "objective": "speed"}, UsageError, "objective=speed is not known;"),
        ({"prune": "0.2,0.4", "search": "optuna", "trials": 0}, UsageError, "trials=0 leaves nothing to run"),
        (
            {"prune": "0.2,0.4", "ray": "local", "device": "0,1"},
            UsageError,
            "device=0,1 names several GPUs",
        ),
        ({"prune": "0.2,0.4", "model": None}, UsageError, "a sweep needs model=; give for example model=best.pt"),
        ({"prune": "0.2,0.4", "recipe": "edge"}, RecipeError, "recipe 'edge' is not known"),
        ({"resume": "x", "prune": 0.3}, UsageError, "a resumed sweep keeps what it was started with; leave out recipe"),
    ],
)
def test_what_cannot_be_done_is_told_before_there_is_a_folder(fake, tmp_path, options, error, message):
    with pytest.raises(error) as raised:
        sweep(fake, tmp_path, **options)
    assert str(raised.value).startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_changed_file_is_named(fake, tmp_path, monkeypatch):
    use_pool(monkeypatch, FakePool())
    teacher = tmp_path / "teacher.pt"
    teacher.write_bytes(b"teacher")
    folder = sweep(fake, tmp_path, teacher=f"none,{teacher}").folder
    teacher.write_bytes(b"another")
    with pytest.raises(ResumeMismatch, match=r"trial 2 rests on something that is no longer.*teacher 0 '.*teacher.pt'"):
        api.sweep(resume=folder)
    teacher.unlink()
    with pytest.raises(ResumeMismatch, match=r"trial 2 cannot be what it was: teacher 0 '.*' does not exist"):
        api.sweep(resume=folder)
    fake.model.unlink()
    with pytest.raises(ResumeMismatch, match=r"the model of this sweep, '.*model.pt', is gone"):
        api.sweep(resume=folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no sweep.json; give the folder of a sweep"),
        ("{", "is damaged"),
        ('{"schema_version": 9}', "has schema_version 9 and this yolo_compress reads 1"),
        ("[]", "has schema_version None"),
    ],
)
def test_what_is_no_sweep_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(DataError, match=message):
        api.sweep(resume=tmp_path)


def test_many_artifacts_are_timed_in_groups_beside_the_same_reference(fake, tmp_path, monkeypatch):
    use_pool(monkeypatch, FakePool())
    values = [round(0.02 * step, 2) for step in range(1, GROUP + 2)]
    result = sweep(fake, tmp_path, prune=values)
    assert [len(labels) for labels in fake.benches] == [4, 5]
    found = merged(result.folder, record_of(tmp_path)["benches"])
    trials = [f"trial {number}" for number in range(1, GROUP + 2)]
    assert [row.label for row in found.rows] == ["native:fp32", "native:int8", *trials]
    text = (result.folder / "report.md").read_text()
    assert "candidates were timed in 2 groups, each beside native:fp32" in text


def test_a_group_is_measured_as_the_recipe_says(tmp_path, monkeypatch):
    peaks, seen = object(), {}
    monkeypatch.setattr("yolo_compress.measuring._peaks", lambda section: peaks if section.roofline else None)

    def run(candidates, data, **given):
        seen.update(given, labels=[candidate.label for candidate in candidates])
        return result(*(row(candidate.label) for candidate in candidates))

    context = SimpleNamespace(data=None, imgsz=64, device="cpu", progress=print)
    section = BenchSection(rounds=7, roofline=True, latency=9, max_drop=1)
    known = {"native:fp32": "a", "native:int8": "b"}
    made = [Artifact("trial 1", tmp_path, "trial 1")]
    found = measure(made, known, context, section, every_reference=False, run=run)
    assert seen["labels"] == ["native:fp32", "trial 1"]
    assert (seen["rounds"], seen["imgsz"], seen["peaks"]) == (7, 64, peaks)
    assert found.settings["limits"] == {"latency_ms": 9, "max_drop": 1}


@pytest.mark.parametrize("count", [0, 1, GROUP, GROUP + 1, 3 * GROUP - 1])
def test_groups_hold_everything_once_and_are_small(count, tmp_path):
    artifacts = [Artifact(str(index), tmp_path, "w") for index in range(count)]
    found = groups(artifacts)
    assert [artifact for group in found for artifact in group] == artifacts
    assert all(0 < len(group) <= GROUP for group in found)
    assert len(found) == -(-count // GROUP)


def test_an_interrupt_says_how_to_go_on(fake, tmp_path, monkeypatch):
    pool = use_pool(monkeypatch, FakePool())
    monkeypatch.setattr(pool, "run", lambda jobs, ended: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match=r"go on with: yolo-compress sweep resume=.*sweep"):
        sweep(fake, tmp_path, prune="0.2,0.4")
