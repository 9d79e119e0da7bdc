# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Where trials run: a process that dies is begun again and costs one trial, here and on Ray."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yolo_compress.errors import CompressError, MissingDependency, UsageError
from yolo_compress.sweep import local
from yolo_compress.sweep.local import LocalPool
from yolo_compress.sweep.on_ray import RayPool
from yolo_compress.sweep.run import pool_for
from yolo_compress.sweep.trial import ATTEMPTS, RETRIES, Job, Outcome, write_outcome

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


def job(tmp_path, number=1) -> Job:
    return Job(str(tmp_path / f"{number}-abc"), {}, "a.pt", "d.yaml", 64, "cpu")


def child_that(monkeypatch, code: str) -> None:
    """Let the child process do something else; it finds its folder in `folder`."""
    begin = subprocess.Popen

    def popen(command, **given):
        place = command[-1].partition("child(")[2][:-1]
        return begin(
            [sys.executable, "-c", f"from pathlib import Path\nfolder = Path({place}).parent\n{code}"], **given
        )

    monkeypatch.setattr(local.subprocess, "Popen", popen)


def outcomes(pool, jobs):
    found = []
    pool.run(jobs, lambda job, outcome: found.append((Path(job.folder).name, outcome.state, outcome.error)))
    return found


def test_a_child_that_dies_is_begun_again_and_then_given_up(tmp_path, monkeypatch):
    count = f"open(folder / '{ATTEMPTS}', 'a').write('{{}}\\n')\n"
    child_that(monkeypatch, count + "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    found = outcomes(LocalPool(), [job(tmp_path), job(tmp_path, 2)])
    error = "its process was ended by signal 9, 3 times; was there enough memory? run it alone, or with fewer workers"
    assert found == [("1-abc", "failed", error), ("2-abc", "failed", error)]
    assert len((tmp_path / "1-abc" / ATTEMPTS).read_text().splitlines()) == 1 + RETRIES
    assert json.loads((tmp_path / "1-abc" / "outcome.json").read_text())["attempts"] == 1 + RETRIES


def test_what_a_child_wrote_is_how_the_trial_ended(tmp_path, monkeypatch):
    child_that(monkeypatch, """(folder / "outcome.json").write_text('{"state": "done", "seconds": 2}')""")
    assert outcomes(LocalPool(), [job(tmp_path)]) == [("1-abc", "done", "")]


def test_a_child_that_cannot_say_how_it_ended_ends_the_sweep(tmp_path, monkeypatch):
    child_that(monkeypatch, "raise SystemExit(1)")
    with pytest.raises(CompressError, match="the process of trial '1-abc' ended with exit code 1"):
        LocalPool().run([job(tmp_path)], lambda job, outcome: None)


def test_a_child_ends_with_its_parent(tmp_path):
    watching = inspect.getsource(local._end_with_parent)  # alone, since the package takes seconds to import
    code = f"import os, sys, threading, time\n{watching}\n"
    code += "threading.Thread(target=_end_with_parent, daemon=True).start(); print('up', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(timeout=60) == 1


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr("importlib.import_module", absent)
    with (
        pytest.raises(MissingDependency, match=r"sweeps on a cluster need the 'ray' package.*'yolo-compress\[ray\]'"),
        pool_for("local", workers=2, device="cpu"),
    ):
        pass


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="ray is not installed")
    with RayPool("local", workers=2, device="cpu") as pool:
        yield pool


@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_back_what_trials_have_ended_as(cluster, tmp_path):
    jobs = [job(tmp_path, number) for number in range(1, 4)]
    for each in jobs:
        Path(each.folder).mkdir()
        write_outcome(Path(each.folder), Outcome("done", 1.0, artifacts={"checkpoint": "x"}))
    assert sorted(outcomes(cluster, jobs)) == [(f"{number}-abc", "done", "") for number in range(1, 4)]


@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_timing_waits_until_ray_has_nothing_else_here(cluster):
    import ray

    @ray.remote(num_cpus=1)
    def work():
        time.sleep(2.0)
        return time.time()

    running = work.remote()
    ray.wait([running], timeout=0.5)
    with cluster.quiet():
        began = time.time()
        waiting = work.remote()
        ready, _ = ray.wait([waiting], timeout=3.0)
        assert ready == []
    assert ray.get(running) <= began
    assert ray.get(waiting) > began


@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_there_is_no_cluster_at_an_address():
    import ray

    ray.shutdown()
    with pytest.raises(UsageError, match=r"ray=auto is not a cluster that can be reached .*ray start --head"):
        RayPool("auto", workers=1, device="cpu")
