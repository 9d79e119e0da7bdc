# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A whole run on tiny data: every stage, killed and resumed, gated, and refused with a reason."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from tests.tiny import tiny_model, write_data
from yolo_compress import api, pipeline, run_record, stages
from yolo_compress import recipe as recipes
from yolo_compress.context import context_for
from yolo_compress.errors import DataError, GateNotMet, OutputError, RecipeError, ResumeMismatch, UsageError
from yolo_compress.host import checkpoint

RECIPE = """
schema_version: 1
name: tiny
prune: {ratio: 0.2, importance: l2, images: 8}
distill: {teacher: self}
train:
  settings: {epochs: 2, batch: 4, nbs: 4, optimizer: SGD, lr0: 0.001, warmup_epochs: 0, plots: false, workers: 0}
quantize: {images: 8, range: minmax}
build: {engines: [openvino:fp32, openvino:int8]}
bench: {candidates: [native:fp32], rounds: 5, warmup: 1}
"""
STAGES = ["baseline", "prune", "train", "quantize", "build", "native", "bench"]

# A run in which a stage that was not killed before does not end by itself: a fast machine is done with some at once.
HOLDING = """
import sys, time
from yolo_compress import cli, pipeline

planned, before = pipeline.planned, sys.argv.pop(1).split(",")


def held(name, stage):
    def run(*given):
        found = stage(*given)
        time.sleep(0 if name in before else 300)
        return found

    return run


pipeline.planned = lambda recipe: {name: held(name, stage) for name, stage in planned(recipe).items()}
raise SystemExit(cli.main())
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Return a folder with a checkpoint, data and a recipe."""
    folder = tmp_path_factory.mktemp("inputs")
    checkpoint.save_model(tiny_model(), folder / "model.pt")
    write_data(folder / "data")
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def killed_run(inputs, tmp_path_factory) -> tuple[Path, list[str]]:
    """Run the recipe, killed once in every stage and resumed; return the run folder and where it was killed."""
    project = tmp_path_factory.mktemp("runs")
    arguments = [f"recipe={inputs / 'tiny.yaml'}", f"model={inputs / 'model.pt'}", f"data={inputs / 'data/data.yaml'}"]
    arguments += ["imgsz=64", f"project={project}", "name=run"]
    killed: list[str] = []
    for _ in range(len(STAGES) + 2):
        stage = _run_until_killed(arguments, killed)
        if stage is None:
            return project / "run", killed
        killed.append(stage)
        arguments = [f"resume={project / 'run'}"]
    raise AssertionError(f"the run did not end; killed in {killed}")


def _run_until_killed(arguments: list[str], before: list[str]) -> str | None:
    command = [sys.executable, "-c", HOLDING, ",".join(before), "run", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    lines: list[str] = []
    stage: list[str] = []

    def watch() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.append(line)
                if line.startswith("stage "):
                    stage.append(line.rpartition(": ")[2].strip())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    limit = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < limit:
        if stage and stage[-1] not in before:
            time.sleep(0.3)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            thread.join(timeout=10)
            return stage[-1]
        time.sleep(0.02)
    thread.join(timeout=10)
    assert process.returncode == 0, "".join(lines[-40:])
    return None


def test_killed_in_every_stage_each_is_done_once(killed_run):
    run_dir, killed = killed_run
    record = json.loads((run_dir / "run.json").read_text())
    assert killed == STAGES
    assert record["status"] == "done"
    assert [stage["name"] for stage in record["stages"]] == STAGES
    assert [path.name for path in run_dir.iterdir() if path.name.endswith(".part")] == []


def test_the_report_holds_every_candidate_with_accuracy_and_ratio(killed_run):
    run_dir, _ = killed_run
    record = run_record.read_record(run_dir)
    bench = json.loads((run_dir / record["stages"][-1]["outputs"]["bench"]["path"]).read_text())
    assert [row["label"] for row in bench["rows"]] == ["native:fp32", "ours:openvino:fp32", "ours:openvino:int8"]
    html = (run_dir / "report.html").read_text()
    for row in bench["rows"]:
        assert 0 <= row["map50_95"] <= 1
        assert row["label"] in html


def test_the_trained_checkpoint_is_pruned_and_stock(killed_run, inputs):
    run_dir, _ = killed_run
    record = run_record.read_record(run_dir)
    metrics = {stage["name"]: stage["metrics"] for stage in record["stages"]}
    assert metrics["train"]["params"] == metrics["prune"]["params"] < 0.85 * metrics["baseline"]["params"]
    code = (
        "import sys; sys.modules['yolo_compress'] = None\n"
        "from ultralytics import YOLO; YOLO(sys.argv[1]).predict(sys.argv[2], imgsz=64)"
    )
    best = run_dir / next(s["outputs"]["checkpoint"]["path"] for s in record["stages"] if s["name"] == "train")
    image = next((inputs / "data/images/val").iterdir())
    run = subprocess.run(
        [sys.executable, "-c", code, str(best), str(image)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_resuming_a_finished_run_does_nothing_again(killed_run):
    run_dir, _ = killed_run
    before = (run_dir / "run.json").read_text()
    lines: list[str] = []
    result = pipeline.resume(run_dir, progress=lines.append)
    assert result.status == "done"
    assert not [line for line in lines if line.startswith("stage ")]
    assert json.loads(before)["stages"] == run_record.read_record(run_dir)["stages"]


def test_a_report_can_be_written_anew(killed_run):
    run_dir, _ = killed_run
    (run_dir / "report.html").unlink()
    assert api.report(run=run_dir).html.is_file()


@pytest.mark.parametrize("what", ["model", "data", "image list", "output"])
def test_changed_inputs_are_named(killed_run, inputs, tmp_path, what):
    run_dir, folder = tmp_path / "run", tmp_path / "inputs"
    shutil.copytree(killed_run[0], run_dir)
    shutil.copytree(inputs, folder)
    text = (run_dir / "run.json").read_text().replace(str(inputs), str(folder))
    record = json.loads(text)
    data = recipes_data(folder)
    record["inputs"]["image list"]["sha256"] = data
    (run_dir / "run.json").write_text(json.dumps(record))
    pipeline.resume(run_dir, progress=str)  # the copy itself is whole
    if what == "model":
        checkpoint.save_model(tiny_model(seed=5), folder / "model.pt")
    elif what == "data":
        (folder / "data/data.yaml").write_text((folder / "data/data.yaml").read_text() + "# changed\n")
    elif what == "image list":
        next((folder / "data/images/train").iterdir()).unlink()
    else:
        (run_dir / "2-prune/pruned.pt").write_bytes(b"changed")
    with pytest.raises(ResumeMismatch, match="stage prune" if what == "output" else what):
        pipeline.resume(run_dir, progress=str)


def recipes_data(folder: Path) -> str:
    """Return the hash that a run keeps of the image list in a folder."""
    context = context_for(
        folder / "model.pt", folder / "data/data.yaml", imgsz=64, device="cpu", run_dir=folder, recipe=recipes.Recipe()
    )
    return pipeline.inputs_of(context, recipes.Recipe())["image list"]["sha256"]


def _start(inputs: Path, tmp_path: Path, text: str, **options):
    return pipeline.run(
        recipes.validate(yaml.safe_load(text), source="the test"),
        model=inputs / "model.pt",
        data=inputs / "data/data.yaml",
        imgsz=64,
        project=tmp_path / "runs",
        progress=str,
        **options,
    )


SHORT = (
    "schema_version: 1\nname: short\nprune: {ratio: 0.2, importance: l2, images: 4}\ntrain: {settings: {epochs: 1}}\n"
)


@pytest.fixture
def figures(monkeypatch):
    """Let stages report accuracies from a list instead of measuring them, and skip training."""
    values: list[float] = []
    monkeypatch.setattr(stages, "accuracy_of", lambda context, path: values.pop(0))

    def no_training(model, *, recipe=None, project, name, **settings):
        target = Path(project) / name / "weights" / "best.pt"
        target.parent.mkdir(parents=True)
        shutil.copyfile(model, target)

    monkeypatch.setattr(stages, "train", no_training)
    return values


def test_a_gate_that_is_not_met_stops_and_says_what_was_spent(inputs, tmp_path, figures):
    figures += [0.5, 0.1, 0.45]
    with pytest.raises(
        GateNotMet, match=r"stage train is 5\.00 mAP points below the given model, and the gate allows 2"
    ):
        _start(inputs, tmp_path, SHORT + "gates: {train: 2}\n")
    record = run_record.read_record(tmp_path / "runs/short")
    assert record["status"] == "gate not met"
    assert GateNotMet.exit_code == 3


def test_a_gate_that_is_met_passes(inputs, tmp_path, figures):
    figures += [0.5, 0.1, 0.49]
    assert _start(inputs, tmp_path, SHORT + "gates: {train: 2}\n").status == "done"


def test_stepping_back_returns_to_the_given_model(inputs, tmp_path, figures):
    figures += [0.5, 0.1, 0.3]
    result = _start(inputs, tmp_path, SHORT + "gates: {train: 2, on_fail: step_back}\n")
    assert run_record.files_of(result.run_dir, result.record)["checkpoint"] == inputs / "model.pt"
    assert "the run went on from what was there before" in result.record["stages"][-1]["notes"][-1]


def test_a_schedule_prunes_in_the_training_stage(inputs, tmp_path):
    """As the shipped recipe `joint` does: no stage prunes at once, and what was pruned is told all the same."""
    shipped = recipes.load("joint")
    small = {"epochs": 4, "batch": 4, "nbs": 4, "workers": 0, "patience": 1, "warmup_epochs": 0}
    recipe = shipped.model_copy(
        update={
            "prune": shipped.prune.model_copy(update={"flops": 0.3, "importance": "l2", "images": 8, "round_to": 2}),
            "train": shipped.train.model_copy(update={"settings": {**shipped.train.settings, **small}}),
            "quantize": shipped.quantize.model_copy(update={"images": 8}),
            "bench": shipped.bench.model_copy(update={"rounds": 3, "warmup": 0, "candidates": ("native:fp32",)}),
        }
    )
    given = {"model": inputs / "model.pt", "data": inputs / "data/data.yaml", "imgsz": 64}
    result = pipeline.run(recipe, **given, project=tmp_path / "runs", progress=str)
    stages_ = {stage["name"]: stage for stage in result.record["stages"]}
    assert list(stages_) == ["baseline", "train", "quantize", "build", "native", "bench"]
    assert stages_["train"]["metrics"]["gflops_before"] == stages_["baseline"]["metrics"]["gflops"]
    left = stages_["train"]["metrics"]["gflops"] / stages_["baseline"]["metrics"]["gflops"]
    assert left == pytest.approx(0.7, rel=0.03)
    rows = stages_["train"]["tables"]["prune"]
    assert any(row["width_after"] < row["width_before"] for row in rows)
    assert {row["method"] for row in stages_["quantize"]["tables"]["quantize"] if row["precision"] == "int8"} == {
        "learned"
    }
    text = (result.run_dir / "report.md").read_text(encoding="utf-8")
    assert "Scheduled pruning, distillation, quantization-aware" in text


def test_a_schedule_is_refused_where_nothing_trains(inputs, tmp_path):
    with pytest.raises(UsageError) as caught:
        api.prune(
            inputs / "model.pt", data=inputs / "data/data.yaml", flops=0.2, schedule="gradual", project=tmp_path / "p"
        )
    assert str(caught.value) == (
        "schedule=gradual prunes while a model trains, and this command does not train; leave it out, or give "
        "prune_schedule=gradual to: yolo-compress train"
    )
    assert not (tmp_path / "p").exists()


def test_interrupted_run_says_how_to_go_on_and_resumes(inputs, tmp_path, figures, monkeypatch):
    figures += [0.5]

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "prune_checkpoint", interrupt)
        with pytest.raises(KeyboardInterrupt, match=f"yolo-compress run resume={tmp_path / 'runs/short'}"):
            _start(inputs, tmp_path, SHORT)
    figures += [0.1, 0.4]
    result = pipeline.resume(tmp_path / "runs/short", progress=str)
    assert [stage["name"] for stage in result.record["stages"]] == ["baseline", "prune", "train"]


def test_a_full_disk_leaves_a_run_that_goes_on(inputs, tmp_path, figures, monkeypatch):
    import torch

    figures += [0.5]

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OutputError, match="the disk is full"):
            _start(inputs, tmp_path, SHORT)
    run_dir = tmp_path / "runs/short"
    assert [path.name for path in (run_dir / "2-prune").iterdir()] == []
    figures += [0.1, 0.4]
    assert pipeline.resume(run_dir, progress=str).status == "done"


def test_runs_of_one_name_are_numbered(inputs, tmp_path, figures):
    figures += [0.5, 0.1, 0.4] * 2
    first, second = _start(inputs, tmp_path, SHORT), _start(inputs, tmp_path, SHORT)
    assert (first.run_dir.name, second.run_dir.name) == ("short", "short2")


def test_resume_of_no_run(tmp_path):
    with pytest.raises(DataError, match=r"holds no run\.json"):
        pipeline.resume(tmp_path)


def test_resume_of_a_newer_run(killed_run, tmp_path):
    (tmp_path / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(DataError, match=r"schema_version 99"):
        pipeline.resume(tmp_path)


def test_project_that_is_a_file(inputs, tmp_path):
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write to"):
        _start(inputs, tmp_path, SHORT)


def test_other_number_of_classes(tmp_path, inputs):
    checkpoint.save_model(tiny_model(nc=5), tmp_path / "five.pt")
    with pytest.raises(UsageError, match=r"knows 5 classes and .* has 3"):
        api.run("ptq-int8", model=tmp_path / "five.pt", data=inputs / "data/data.yaml", project=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_recipe_that_does_not_exist(inputs):
    with pytest.raises(RecipeError, match=r"did you mean edge-cpu"):
        api.run("edge-cpuu", model=inputs / "model.pt", data=inputs / "data/data.yaml")


def test_settings_without_training(inputs, tmp_path):
    with pytest.raises(UsageError, match=r"recipe 'ptq-int8' does not train, so epochs would have no effect"):
        api.run("ptq-int8", model=inputs / "model.pt", data=inputs / "data/data.yaml", project=tmp_path, epochs=3)


def test_resume_takes_nothing_else(tmp_path):
    with pytest.raises(UsageError, match=r"leave out model"):
        api.run(resume=tmp_path, model="best.pt")


def test_missing_teacher(inputs, tmp_path):
    with pytest.raises(DataError, match=r"teacher 'no\.pt' does not exist"):
        api.run(
            "edge-cpu",
            model=inputs / "model.pt",
            data=inputs / "data/data.yaml",
            teacher="no.pt",
            project=tmp_path / "r",
        )
    assert not (tmp_path / "r").exists()
