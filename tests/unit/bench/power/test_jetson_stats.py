# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Power from jetson-stats, whose client is only played; readings are in the form that its version 7.2.2 documents."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from yolo_compress.bench.power.jetson_stats import INTERVAL_S, JetsonStats, rails_of


def rail(milliwatt, **more):
    return {
        "volt": 5000,
        "curr": milliwatt // 5,
        "power": milliwatt,
        "avg": 0,
        "online": True,
        "type": "INA3221",
        **more,
    }


ORIN_NANO = {
    "rail": {"VDD_CPU_GPU_CV": rail(803), "VDD_SOC": rail(1408)},
    "tot": {**rail(4012), "name": "VDD_IN"},
}
AGX_ORIN = {
    "rail": {
        "VDD_GPU_SOC": rail(3200),
        "VDD_CPU_CV": rail(800),
        "VIN_SYS_5V0": rail(4031),
        "VDDQ_VDD2_1V8AO": rail(600),
    }
    | {"usb0": rail(9000, type="SYSTEM"), "NC": rail(1)},
    "tot": {"power": 17632, "avg": 0},
}


class JtopException(Exception):
    pass


class Client:
    """Plays the client; `power` is what it answers, `fails` what it raises and where."""

    def __init__(self, power, fails):
        self.power, self.fails, self.called, self.interval = power, fails, [], None

    def start(self):
        self.called.append("start")
        if "start" in self.fails:
            raise self.fails["start"]
        self.interval = 1.0

    def ok(self):
        self.called.append("ok")
        if isinstance(self.fails.get("ok"), Exception):
            raise self.fails["ok"]
        return self.fails.get("ok", True)

    def close(self):
        self.called.append("close")


@pytest.fixture
def play(monkeypatch):
    def make(power, **fails):
        client, asked = Client(power, fails), []

        def jtop(interval):
            asked.append(interval)
            return client

        monkeypatch.setitem(sys.modules, "jtop", SimpleNamespace(jtop=jtop, JtopException=JtopException))
        client.asked = asked
        return client

    return make


@pytest.mark.parametrize(
    ("power", "watts", "measures"),
    [
        (ORIN_NANO, 4.012, "VDD_IN, the module input"),
        (
            AGX_ORIN,
            3.2 + 0.8 + 4.031,
            "sum of VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0; the carrier board is not part of it",
        ),
    ],
    ids=["orin-nano", "agx-orin"],
)
def test_the_total_is_that_of_the_rails_as_read_elsewhere(play, power, watts, measures):
    client, sensor = play(power), JetsonStats()
    assert sensor.unavailable() is None
    assert client.called == ["start", "ok", "close"]
    sensor.open()
    assert sensor.read() == pytest.approx(watts)
    assert sensor.measures == measures
    assert sensor.settings() == {"interval_s": 1.0}  # what the service does, not what was asked for
    assert (sensor.period_s, client.asked) == (1.0, [INTERVAL_S, INTERVAL_S])
    sensor.close()
    sensor.close()
    assert client.called.count("close") == 2


@pytest.mark.parametrize(
    ("power", "fails", "reason"),
    [
        (
            ORIN_NANO,
            {"start": JtopException("The jtop.service is not active. Please run:\nsudo jtop")},
            "not active. Please",
        ),
        (ORIN_NANO, {"start": PermissionError("no")}, "no"),
        (ORIN_NANO, {"ok": False}, "the service of jetson-stats has stopped answering"),
        (ORIN_NANO, {"ok": JtopException("Lost connection")}, "does not answer: Lost connection"),
        ({"rail": {}, "tot": {"power": 0}}, {}, "jetson-stats knows no power monitor of this board"),
        ({}, {}, r"a form that is not known \(KeyError\('rail'\)\)"),
        (({"cur": 1}, {}), {}, "a form that is not known"),  # before version 4
        ({"rail": {"VDD": {"cur": 1}}, "tot": {}}, {}, r"KeyError\('power'\)"),
    ],
)
def test_what_is_in_the_way_is_said(play, power, fails, reason):
    import re

    client = play(power, **fails)
    found = JetsonStats().unavailable()
    assert re.search(reason, found)
    assert "\n" not in found
    assert ("close" in client.called) == ("start" not in fails)


def test_without_the_package_it_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "jtop", None)
    monkeypatch.delitem(sys.modules, "jtop")
    monkeypatch.setattr(sys, "path", [])
    assert "it is optional, and goes with its service" in JetsonStats().unavailable()


def test_a_rail_that_goes_missing_is_no_zero(play):
    client, sensor = play(dict(ORIN_NANO)), JetsonStats()
    sensor.open()
    sensor.read()
    client.power = {"rail": ORIN_NANO["rail"], "tot": {"power": 2211}}
    with pytest.raises(ValueError, match="jetson-stats did not hand out VDD_IN"):
        sensor.read()


def test_supplies_and_unused_channels_are_no_rails():
    assert set(rails_of(AGX_ORIN)) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
