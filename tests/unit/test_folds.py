# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs with folds, with stages that take no time: cut off and resumed, gated, refused, and reported."""

from __future__ import annotations

import csv
import json

import pytest

from tests.tiny import write_data
from tests.unit.bench.samples import result, row
from yolo_compress import api, pipeline
from yolo_compress import recipe as recipes
from yolo_compress.context import StageResult
from yolo_compress.errors import DataError, GateNotMet, OutputError, UnsupportedModel, UsageError

RECIPE = {"schema_version": 1, "name": "few", "quantize": {"range": "minmax"}, "bench": {"rounds": 5}}


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data", train=8, val=4)


class Stages:
    """Stages that note on which images they were run, and may fail in a fold."""

    def __init__(self) -> None:
        self.measured: list[tuple[str, ...]] = []
        self.fail: dict[int, BaseException] = {}
        self.drop_in: set[int] = set()
        self.notes: list[str] = []
        self.refuse_in = 0  # the number of the measurement

    def planned(self, recipe):
        return {"baseline": self.baseline, "quantize": self.quantize, "bench": self.bench}

    def baseline(self, context, files, folder):
        return StageResult({}, {"map50_95": 0.5})

    def quantize(self, context, files, folder):
        number = int(context.data.path.parent.name) if context.data.path.parent.name.isdigit() else 0
        if number in self.fail:
            raise self.fail.pop(number)
        return StageResult({}, {"map50_95": 0.3 if number in self.drop_in else 0.49}, tuple(self.notes))

    def bench(self, context, files, folder):
        folder.mkdir()
        self.measured.append(tuple(sorted(str(image) for image in context.data.val)))
        value = 0.4 + 0.01 * len(self.measured)
        ours = {"map50_95": value - 0.01, "latency_ratio_p50": 0.5}
        if len(self.measured) == self.refuse_in:
            ours |= {"status": "refused", "reason": "it detects nothing"}
        made = result(row("native:fp32", map50_95=value), row("ours:int8", **ours))
        made.save(folder / "bench.json")
        return StageResult({"bench": folder / "bench.json"}, {})


@pytest.fixture
def fakes(monkeypatch):
    found = Stages()
    monkeypatch.setattr(pipeline, "planned", found.planned)
    return found


def run(make_checkpoint, data, tmp_path, folds=3, **changes):
    recipe = recipes.validate({**RECIPE, **changes}, source="test")
    return pipeline.run(
        recipe, model=make_checkpoint(), data=data, imgsz=64, project=tmp_path / "runs", folds=folds, progress=str
    )


def cells(folder):
    with (folder / "folds.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_every_image_is_measured_once_beside_the_run_itself(fakes, make_checkpoint, data, tmp_path):
    made = run(make_checkpoint, data, tmp_path)
    whole, *folds = fakes.measured
    assert len(whole) == 4
    assert len(folds) == 3
    assert len({image for fold in folds for image in fold}) == sum(map(len, folds)) == 12
    assert [fold["state"] for fold in made.record["folds"]] == ["done"] * 3
    text = (made.run_dir / "report.md").read_text()
    assert "## Cross-validated" in text
    assert "| ours:int8 | 3 of 3 | 42.00 | 1.00 | -1.00 [-1.00, -1.00] | 0.500 | 0.000 |" in text
    assert "the 12 training and validation images were put together and cut into 3 folds" in text
    page = made.report_html.read_text()
    assert "<h2>Cross-validated</h2>" in page
    assert "-1.00 [-1.00, -1.00]" in page
    first, second = cells(made.run_dir)
    assert [float(second[f"map50_95_fold_{n}"]) for n in (1, 2, 3)] == pytest.approx([0.41, 0.42, 0.43])
    assert first["map50_95_difference"] == ""
    assert float(second["map50_95"]) == pytest.approx(0.42)
    assert "fold 3: done" in str(made)


def test_without_folds_nothing_is_said_of_them(fakes, make_checkpoint, data, tmp_path):
    made = run(make_checkpoint, data, tmp_path, folds=0)
    assert len(fakes.measured) == 1
    assert not (made.run_dir / "folds").exists()
    assert not (made.run_dir / "folds.csv").exists()
    assert "Cross-validated" not in (made.run_dir / "report.md").read_text() + made.report_html.read_text()


def test_a_run_cut_off_in_a_fold_goes_on_there(fakes, make_checkpoint, data, tmp_path):
    fakes.fail = {2: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt, match=r"interrupted in fold 2; go on with: yolo-compress run resume=.*few$"):
        run(make_checkpoint, data, tmp_path)
    folder = tmp_path / "runs" / "few"
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], len(record["folds"]), len(fakes.measured)) == ("running", 1, 2)
    assert "Cross-validated" not in (folder / "report.md").read_text()  # the run itself has been reported
    unfinished = api.report(run=folder).markdown.read_text()
    assert "the 12 training and validation images were put together and cut into 3 folds" in unfinished
    assert "1 of them have been run" in unfinished
    made = api.run(resume=folder, progress=str)
    assert made.status == "done"
    text = (folder / "report.md").read_text()
    assert "the 12 training and validation images were put together and cut into 3 folds" in text
    assert "All of them have been run" in text
    assert len(fakes.measured) == 4  # the run and fold 1 were not measured again
    assert [line["folds"] for line in cells(folder)] == ["3", "3"]
    assert not list((folder / "folds").glob("*/run2"))
    again = api.report(run=folder)
    assert "## Cross-validated" in again.markdown.read_text()


@pytest.mark.parametrize("place", ["", "folds/2/run/"])
def test_a_benchmark_that_is_damaged_is_named_and_the_report_stays(fakes, make_checkpoint, data, tmp_path, place):
    folder = run(make_checkpoint, data, tmp_path).run_dir
    before = (folder / "report.md").read_bytes()
    (file,) = (folder / place).glob("*-bench/bench.json")
    file.write_text('{"schema_version": 1')
    with pytest.raises(DataError, match=rf"'{file}' is not JSON .*; give the bench.json that a benchmark wrote"):
        api.report(run=folder)
    file.unlink()
    with pytest.raises(DataError, match=rf"'{file}' does not exist; measure first with: yolo-compress bench"):
        api.report(run=folder)
    assert (folder / "report.md").read_bytes() == before


def test_a_fold_killed_before_its_record_was_there_begins_afresh(fakes, make_checkpoint, data, tmp_path):
    fakes.fail = {2: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run(make_checkpoint, data, tmp_path)
    folder = tmp_path / "runs" / "few"
    (folder / "folds" / "2" / "run" / "run.json").unlink()
    assert len(api.run(resume=folder, progress=str).record["folds"]) == 3
    assert not (folder / "folds" / "2" / "run2").exists()


def test_a_fold_that_fails_is_told_and_the_others_go_on(fakes, make_checkpoint, data, tmp_path):
    fakes.fail = {2: UnsupportedModel("an activation is not finite")}
    made = run(make_checkpoint, data, tmp_path)
    assert [fold["state"] for fold in made.record["folds"]] == ["done", "failed", "done"]
    text = (made.run_dir / "report.md").read_text()
    assert "fold 2: failed: an activation is not finite" in text
    assert "| ours:int8 | 2 of 3 |" in text
    assert [line["map50_95_fold_2"] for line in cells(made.run_dir)] == ["", ""]


def test_a_full_disk_is_no_failure_of_a_fold(fakes, make_checkpoint, data, tmp_path):
    fakes.fail = {2: OutputError("no space left")}
    with pytest.raises(OutputError, match="no space left"):
        run(make_checkpoint, data, tmp_path)
    assert len(api.run(resume=tmp_path / "runs" / "few", progress=str).record["folds"]) == 3


def test_gates_hold_the_run_and_not_its_folds(fakes, make_checkpoint, data, tmp_path):
    """The given model, which they compare with, may know the images of a fold."""
    fakes.drop_in = {2}
    made = run(make_checkpoint, data, tmp_path, gates={"quantize": 5.0})
    assert [fold["state"] for fold in made.record["folds"]] == ["done"] * 3


def test_notes_and_refusals_of_folds_are_told(fakes, make_checkpoint, data, tmp_path):
    fakes.notes, fakes.refuse_in = ["layers stayed in float"], 3
    made = run(make_checkpoint, data, tmp_path)
    text = (made.run_dir / "report.md").read_text()
    assert "fold 1: stage quantize: layers stayed in float" in text
    assert "fold 2: ours:int8 has no part, since it detects nothing" in text
    assert "| ours:int8 | 2 of 3 |" in text


def test_a_gate_that_the_run_itself_does_not_meet_ends_it(fakes, make_checkpoint, data, tmp_path):
    fakes.drop_in = {0}
    with pytest.raises(GateNotMet):
        run(make_checkpoint, data, tmp_path, gates={"quantize": 5.0})
    assert not (tmp_path / "runs" / "few" / "folds").exists()


@pytest.mark.parametrize(
    ("folds", "changes", "message"),
    [
        (1, {}, "folds=1 cannot be made of the 12 images of"),
        (13, {}, "folds=13 cannot be made of the 12 images of"),
        (3, {"bench": None}, "folds= measures, and the recipe has no bench section; add one"),
        (3, {"quantize": {"calibration": "set.json"}}, "the recipe names a manifest, whose images are measured on"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_run(
    fakes, make_checkpoint, data, tmp_path, monkeypatch, folds, changes, message
):
    monkeypatch.setattr(pipeline, "inputs_of", lambda context, recipe: {})
    with pytest.raises(UsageError, match=message):
        run(make_checkpoint, data, tmp_path, folds=folds, **changes)
    assert not (tmp_path / "runs").exists()
    assert fakes.measured == []


def test_a_resumed_run_keeps_its_folds():
    with pytest.raises(UsageError, match="a resumed run keeps what it was started with; leave out folds"):
        api.run(resume="runs/few", folds=3)
