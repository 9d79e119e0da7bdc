# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Energy in a whole benchmark of a small model: from a sensor that is played, from rails of a tree, and from none."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from tests.boards import write_board
from tests.unit.bench.samples import refused, row
from yolo_compress import api
from yolo_compress.bench import BenchResult, energy, run
from yolo_compress.bench.energy import measure_energies
from yolo_compress.bench.memory import Memory
from yolo_compress.bench.power.rails import Rails
from yolo_compress.bench.result import Energy


class Steady:
    """Takes 12 W while it is open, whatever happens."""

    name, measures, counts, period_s = "steady", "what is played", False, 0.001

    def __init__(self, fails=""):
        self.fails, self.open_now = fails, False

    def open(self):
        if self.fails == "open":
            raise OSError("it does not start")
        self.open_now = True

    def read(self):
        assert self.open_now
        if self.fails == "read":
            raise OSError("it does not answer")
        return 12.0

    def signs(self):
        return ()

    def settings(self):
        return {"interval_ms": 1}

    def close(self):
        self.open_now = False


@pytest.fixture
def played(monkeypatch):
    """Return a function that puts a sensor in the place of those of the machine, and takes no rest."""
    monkeypatch.setattr(energy, "SETTLE_S", 0)

    def play(sensor):
        monkeypatch.setattr(energy, "find_sensor", lambda device, root: sensor)
        return sensor

    return play


@pytest.fixture
def measure(tmp_path):
    """Return a function that measures two candidates which do next to nothing."""

    def run_two(*, seconds=0.2, device="cpu", progress=lambda line: None):
        images = [np.zeros((1, 3, 8, 8), np.float32)] * 2
        infer = [lambda image: time.sleep(0.002)] * 2
        rows = [row("a"), row("b")]
        options = {"device": device, "seconds": seconds, "progress": progress, "root": tmp_path}
        return measure_energies(rows, infer, images, **options)

    return run_two


def test_each_candidate_is_measured(played, measure):
    sensor, lines = played(Steady()), []
    rows, notes = measure(progress=lines.append)
    for found in rows:
        assert isinstance(found.energy, Energy)
        assert found.energy.gross_j == pytest.approx(12 * found.energy.seconds)
        assert found.energy.net_j == pytest.approx(0, abs=1e-9)
        assert found.energy.gross_j_per_image == pytest.approx(12 * found.energy.seconds / found.energy.images)
        assert found.energy.mean_w == pytest.approx(12)
        assert found.energy.seconds >= 0.2
        assert found.energy.throttle_watched == ()
        assert found.notes[-1].startswith("energy: measured for 0.")
    assert notes == ()
    assert not sensor.open_now
    assert lines == [f"bench: energy of {label}: 0.0666667 s idle, then 0.2 s at work" for label in "ab"]


def test_a_machine_without_a_sensor_gives_the_reason_and_no_number(played, measure):
    played("unavailable: rapl: no such counter")
    rows, notes = measure()
    assert [found.energy for found in rows] == ["unavailable: rapl: no such counter"] * 2
    assert notes == ("energy unavailable: rapl: no such counter",)
    assert rows[0].notes == ()


def test_a_sensor_that_does_not_start_gives_the_reason(played, measure):
    played(Steady("open"))
    rows, notes = measure()
    assert [found.energy for found in rows] == ["unavailable: steady: it does not start"] * 2
    assert notes == ("energy unavailable: steady: it does not start",)


def test_a_sensor_that_breaks_gives_the_reason_where_it_broke(played, measure):
    sensor = played(Steady("read"))
    rows, notes = measure()
    assert all(found.energy.startswith("unavailable: steady: ") for found in rows)
    assert rows[1].notes[-1].endswith("reads failed: it does not answer")
    assert notes == ()
    assert not sensor.open_now


def test_rails_of_a_board_are_read_and_its_throttling_is_watched(played, measure, tmp_path):
    played(Rails(root=write_board(tmp_path, "orin-nano")))
    found = measure(device="0")[0][0].energy
    assert found.mean_w == pytest.approx(5.016 * 1.904)
    assert found.sensor_period_s == 0.43
    assert found.settings["samples_averaged"] == "512"
    assert found.measures == "VDD_IN, the module input"
    assert not found.long_enough
    assert found.throttle_watched == ("over-current event", "cooling devices", "clock of 17000000.gpu")
    assert found.throttled[0].startswith("clock of 17000000.gpu below its maximum in ")  # the tree stays at 306 MHz
    assert len(found.throttled) == 1


def test_what_is_refused_is_not_run(played):
    played(Steady())
    rows, notes = measure_energies(
        [refused("broken")], [lambda image: pytest.fail("it ran")], [None], device="cpu", seconds=0.1
    )
    assert rows == [refused("broken")]
    assert notes == ()


def test_results_from_before_are_read():
    tree = json.loads(
        BenchResult.to_json(
            BenchResult((row("a"),), "d", (), 1, 1, 1, 64, "cpu", {}, None, {}, {}, "2026-01-01T00:00:00+00:00")
        )
    )
    del tree["rows"][0]["energy"]
    assert BenchResult.from_json(json.dumps(tree)).rows[0].energy is None


def test_the_command_reports_it(played, make_checkpoint, tiny_data, tmp_path, monkeypatch):
    """From `power=True` to the table, the JSON and the page."""
    played(Steady())
    monkeypatch.setattr(run, "measure_memory", lambda path, **_: Memory(20, 80, 123.5))
    monkeypatch.setattr("yolo_compress.report.picture", lambda *given: b"png")  # drawn in tests of the report
    report = api.bench(
        [make_checkpoint()],
        data=tiny_data,
        imgsz=64,
        rounds=3,
        warmup=0,
        power=True,
        power_seconds=1,
        project=tmp_path / "out",
        progress=lambda line: None,
    )
    table = str(report)
    assert "## Energy" in table
    assert "| 12.00 | 12.00 |" in table
    tree = json.loads((tmp_path / "out/bench/bench.json").read_text())
    assert tree["rows"][0]["energy"]["mean_w"] == pytest.approx(12)
    assert tree["settings"]["power_seconds"] == 1
    assert BenchResult.from_json(json.dumps(tree)) == report.result
    page = report.files.html.read_text()
    assert "<h2>Energy</h2>" in page
    assert "what is played" in page
