# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The device record, read from files made for the purpose and from the machine that runs the tests."""

from __future__ import annotations

import json
import sys

import pytest

from yolo_compress.bench.machine import describe_machine, package_versions, steal_seconds

CPUINFO = """processor\t: 0
model name\t: Example CPU 9000
flags\t\t: fpu avx2 avx512f avx512_vnni hypervisor

processor\t: 1
model name\t: Another CPU
flags\t\t: fpu
"""


@pytest.fixture
def root(tmp_path):
    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("proc/cpuinfo", CPUINFO)
    write("proc/meminfo", "MemTotal:       2097152 kB\nMemFree: 1 kB\n")
    write("proc/stat", "cpu  1 2 3 4 5 6 7 250 0 0\ncpu0 1 2 3 4 5 6 7 250 0 0\n")
    write("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    write("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2400000\n")
    write("sys/class/thermal/thermal_zone0/temp", "41500\n")
    write("sys/class/thermal/thermal_zone1/temp", "63000\n")
    write("sys/fs/cgroup/cpu.max", "150000 100000\n")
    return tmp_path


def test_what_can_be_read_is_recorded(root):
    found = describe_machine(root=root)
    assert found["cpu_model"] == "Example CPU 9000"
    assert found["cpu_flags"] == ["avx2", "avx512f", "avx512_vnni"]
    assert found["memory_mb"] == 2048
    assert found["governor"] == "performance"
    assert found["clock_mhz"] == 2400
    assert found["temperature_c"] == 63
    assert found["cpu_quota"] == 1.5
    assert found["hypervisor"] == "yes"


def test_what_cannot_be_read_says_why(tmp_path):
    found = describe_machine(root=tmp_path)
    for key in (
        "cpu_model",
        "cpu_flags",
        "memory_mb",
        "governor",
        "clock_mhz",
        "temperature_c",
        "cpu_quota",
        "hypervisor",
    ):
        assert str(found[key]).startswith("unavailable: "), key
    assert "No such file" in found["governor"]
    assert steal_seconds(root=tmp_path) is None


def test_a_file_with_other_content_says_so(root):
    (root / "proc/meminfo").write_text("nothing of use\n")
    (root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").write_text("<unknown>\n")
    found = describe_machine(root=root)
    assert found["memory_mb"].startswith("unavailable: ")
    assert found["clock_mhz"].startswith("unavailable: ")


def test_stolen_time_is_in_seconds(root, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    assert steal_seconds(root=root) == 2.5


def test_torch_threads_are_told_only_where_torch_is_used(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert describe_machine()["torch_threads"] == "unavailable: torch was not used"


def test_this_machine_can_be_described():
    json.dumps(describe_machine(), allow_nan=False)


def test_versions_are_of_installed_packages_only():
    assert set(package_versions(("numpy", "no-such-package-here"))) == {"numpy"}
