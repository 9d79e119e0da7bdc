# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Lines of tegrastats, published and invented, and a command that prints them."""

from __future__ import annotations

import math
import re
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.boards import published_lines
from yolo_compress.bench.power import tegrastats
from yolo_compress.bench.power.tegrastats import Tegrastats, parse

OLD = (  # JetPack 4: TX2, AGX Xavier and Nano, as users printed them
    (
        "RAM 3276/7859MB (lfb 5x4MB) SWAP 1626/12122MB (cached 181MB) CPU [44%@1421,49%@2031] EMC_FREQ 1%@1866 "
        "GR3D_FREQ 0%@114 APE 150 MTS fg 1% bg 1% PLL@42.5C Tdiode@39.25C VDD_SYS_GPU 182/182 VDD_SYS_SOC 730/730 "
        "VDD_4V0_WIFI 0/0 VDD_IN 5297/5297 VDD_SYS_CPU 1917/1917 VDD_SYS_DDR 1241/1241",
        {"VDD_SYS_GPU": 0.182, "VDD_SYS_SOC": 0.73, "VDD_4V0_WIFI": 0.0, "VDD_IN": 5.297}
        | {"VDD_SYS_CPU": 1.917, "VDD_SYS_DDR": 1.241},
    ),
    (
        "RAM 14700/15692MB (lfb 3x2MB) SWAP 898/8192MB (cached 23MB) CPU [0%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% "
        "AO@30C thermal@30.8C PMIC@100C GPU 463/463 CPU 618/618 SOC 2936/2936 CV 0/0 VDDRQ 309/309 SYS5V 3306/3306",
        {"GPU": 0.463, "CPU": 0.618, "SOC": 2.936, "CV": 0.0, "VDDRQ": 0.309, "SYS5V": 3.306},
    ),
    (
        "RAM 1276/3956MB (lfb 108x4MB) SWAP 0/1978MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [31%@1479] APE 25 "
        "PLL@21C PMIC@100C thermal@22.5C POM_5V_IN 3478/3201 POM_5V_GPU 812/740 POM_5V_CPU 623/588",
        {"POM_5V_IN": 3.478, "POM_5V_GPU": 0.812, "POM_5V_CPU": 0.623},
    ),
)
FORMATS = ("{} {}mW/1mW", "{} {}/1", "{} {}mW", "{} {}mW/1mW/2mW")


@pytest.mark.parametrize(("line", "watts"), [*published_lines(), *OLD])
def test_lines_of_each_board_and_release(line, watts):
    assert parse(line) == pytest.approx(watts)
    assert parse(line + "\n") == pytest.approx(watts)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "RAM 4832/7620MB",
        "APE 174",
        "VDD_IN",
        "VDD_IN mW",
        "VDD_IN 12V/3V",
        "VDD_IN 4012mW/3990",
        "xVDD 1mW!",
        "NC 3mW",
    ],
)
def test_what_is_no_rail_gives_nothing(line):
    assert parse(line) == {}


def test_a_power_below_zero_is_kept():
    assert parse("VDD_GPU -392mW/-392mW") == {"VDD_GPU": -0.392}  # the offset of a rail without load


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("utf-8", "replace")))
def test_no_line_makes_it_stop(line):
    assert all(math.isfinite(watts) for watts in parse(line).values())


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"V[A-Z0-9]{1,6}(_[A-Z0-9]{1,3}[Z])?", fullmatch=True),
            st.integers(0, 10**6),
            st.sampled_from(FORMATS),
        ),
        max_size=6,
        unique_by=lambda rail: rail[0],
    ),
    st.text("abc @%[],.0123456789", max_size=30).filter(lambda text: "/" not in text),
)
def test_every_rail_is_found_among_other_words(rails, noise):
    line = f"RAM 1/2MB {noise} x@3C " + " ".join(form.format(name, value) for name, value, form in rails)
    assert parse(line) == {name: value / 1e3 for name, value, _ in rails}


@pytest.fixture
def command(tmp_path):
    """Return a function that writes a command which runs this Python code and takes tegrastats' arguments."""

    def write(code):
        path = tmp_path / "tegrastats"
        path.write_text(f"#!{sys.executable} -S\nimport sys, time\nassert sys.argv[1] == '--interval'\n{code}\n")
        path.chmod(0o755)
        return str(path)

    return write


def test_it_waits_for_lines_and_stops_the_command(command):
    sensor = Tegrastats(
        command=command(
            "i = 0\nwhile True:\n    i += 1\n    print(f'RAM 1/2MB VDD_IN {1000 * i}mW VDD_SOC 5mW', flush=True)\n"
            "    time.sleep(0.01)"
        )
    )
    sensor.open()
    process = sensor._process
    readings = [sensor.read() for _ in range(3)]
    assert readings == sorted(set(readings))  # a new line each time
    assert all(watts == int(watts) for watts in readings)  # VDD_SOC is part of VDD_IN
    assert sensor.measures == "VDD_IN, the module input"
    assert sensor.settings() == {"interval_ms": 100}
    before = threading.active_count()
    sensor.close()
    assert process.poll() is not None
    assert threading.active_count() == before - 1
    sensor.close()  # twice is no mistake


def test_a_command_that_does_not_mind_being_asked_is_killed(command, monkeypatch):
    sensor = Tegrastats(
        command=command(
            "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('VDD_IN 1mW', flush=True)\n"
            "time.sleep(60)"
        )
    )
    sensor.open()
    sensor.read()
    process = sensor._process
    wait = process.wait
    monkeypatch.setattr(process, "wait", lambda timeout=None: wait(timeout=timeout and 0.05))
    sensor.close()
    assert process.returncode == -9


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('RAM 1/2MB CPU [1%@2]', flush=True)\ntime.sleep(60)", "prints no power: RAM 1/2MB"),
        ("sys.exit('permission denied')", "ended|prints no power: permission denied"),
        ("pass", "ended: "),
    ],
)
def test_a_command_without_power_says_what_it_printed(command, code, reason):
    assert re.search(reason, Tegrastats(command=command(code)).unavailable())


def test_a_command_that_prints_nothing_is_given_up(command, monkeypatch):
    monkeypatch.setattr(tegrastats, "PATIENCE_S", 0.05)
    assert Tegrastats(command=command("time.sleep(60)")).unavailable().endswith("printed nothing for 0.05 s")


def test_a_rail_that_goes_missing_makes_a_line_unreadable(command):
    sensor = Tegrastats(
        command=command(
            "for rails in ('GPU 1/1 CPU 2/2', 'GPU 1/1'):\n    print(rails, flush=True)\n    time.sleep(0.3)"
        )
    )
    try:
        sensor.open()
        assert sensor.read() == pytest.approx(0.003)
        with pytest.raises(ValueError, match="did not print CPU"):
            sensor.read()
    finally:
        sensor.close()


def test_without_the_command_it_says_so():
    assert Tegrastats(command="no-such-tegrastats").unavailable() == "no command no-such-tegrastats on the PATH"
