# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which sensor is taken where, and what is said where there is none."""

from __future__ import annotations

import inspect
import sys

import pytest

from tests.boards import BOARDS, write_board
from yolo_compress.bench import power
from yolo_compress.bench.power import SENSORS, examine_sensors, find_sensor
from yolo_compress.bench.power.sensor import Sensor


@pytest.fixture
def no_commands(monkeypatch):
    """Hide what the machine that runs the tests may have."""
    monkeypatch.setattr("yolo_compress.bench.power.tegrastats.shutil.which", lambda name: None)
    monkeypatch.setitem(sys.modules, "jtop", None)
    monkeypatch.setattr("yolo_compress.bench.power.nvml.Nvml.unavailable", lambda self: "no driver")


@pytest.mark.parametrize("device", ["cpu", "0"])
@pytest.mark.parametrize("name", BOARDS)
def test_a_jetson_is_measured_by_its_rails(tmp_path, name, device):
    assert find_sensor(device, root=write_board(tmp_path, name)).name == "rails"


@pytest.mark.parametrize(
    ("device", "names"), [("cpu", "rails tegrastats jetson-stats rapl"), ("0", "rails tegrastats jetson-stats nvml")]
)
def test_without_any_every_reason_is_given(tmp_path, no_commands, device, names):
    found = find_sensor(device, root=tmp_path)
    assert found.startswith("unavailable: rails: no ina3221")
    assert [part.split(":")[0] for part in found.removeprefix("unavailable: ").split("; ")] == names.split()


def test_the_next_one_is_taken_where_the_first_cannot_be_read(tmp_path, no_commands, monkeypatch):
    root = write_board(tmp_path, "orin-nano")
    (root / "sys/class/hwmon/hwmon1/curr1_input").unlink()
    monkeypatch.setattr(power.Tegrastats, "unavailable", lambda self: None)
    assert find_sensor("0", root=root).name == "tegrastats"
    assert dict(examine_sensors(root=root))["rails"].startswith("unavailable: No such file or directory")


def test_each_is_examined(tmp_path, no_commands):
    found = dict(examine_sensors(root=write_board(tmp_path, "agx-orin")))
    assert list(found) == list(SENSORS)
    assert found["rails"] == ("ready: sum of VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0; the carrier board is not part of it")
    assert found["nvml"] == "unavailable: no driver"


@pytest.mark.parametrize("kind", SENSORS.values(), ids=SENSORS)
def test_each_keeps_to_the_protocol(kind, tmp_path):
    sensor = kind(device="cpu", root=tmp_path)
    for name in ("name", "counts", "measures", "period_s"):
        assert hasattr(sensor, name)
    for name, method in inspect.getmembers(Sensor, inspect.isfunction):
        if not name.startswith("_"):
            ours = inspect.signature(getattr(kind, name))
            assert list(ours.parameters) == list(inspect.signature(method).parameters)
    assert SENSORS[sensor.name] is kind
