# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Counters of processor energy, from files that count, start again and cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_compress.bench.power.rapl import Rapl, elapsed
from yolo_compress.bench.sysfs import whole_number

RANGE = 262_143_328_850


def zone(root, name, label, energy):
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return folder


@pytest.fixture
def root(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 400_000)  # a part of the package
    zone(tmp_path, "intel-rapl:1", "package-1", RANGE - 500_000)
    zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)  # the whole board
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)  # the same package by another way
    return tmp_path


def test_packages_are_summed_and_wrap(root):
    sensor = Rapl(root=root)
    assert sensor.unavailable() is None
    assert sensor.counts
    sensor.open()
    assert sensor.read() == 0
    zone(root, "intel-rapl:0", "package-0", 3_000_000)
    assert sensor.read() == pytest.approx(2)
    zone(root, "intel-rapl:1", "package-1", 1_500_000)  # half a joule to its end, and from 0 on
    assert sensor.read() == pytest.approx(4)
    assert sensor.settings() == {"packages": "package-0, package-1"}
    assert sensor.measures == "2 processor packages; memory and the rest of the machine are not part"
    assert sensor.signs() == ()
    assert Rapl.covers("cpu")
    assert not Rapl.covers("0")


@given(st.lists(st.integers(0, RANGE - 1), max_size=20), st.integers(0, RANGE - 1))
def test_any_number_of_wraps_adds_up(steps, start):
    """The sum of steps comes out however often the counter starts again between two readings."""
    total, counted = start, 0
    for step in steps:
        last, total = total % RANGE, total + step
        counted += elapsed(total % RANGE, last, RANGE)
    assert counted == sum(steps)


def test_opened_again_it_starts_from_0(root):
    sensor = Rapl(root=root)
    sensor.open()
    zone(root, "intel-rapl:0", "package-0", 3_000_000)
    assert sensor.read() > 0
    sensor.open()
    assert sensor.read() == 0


def test_a_machine_without_counters_says_so(tmp_path):
    reason = Rapl(root=tmp_path).unavailable()
    assert reason.startswith("no intel-rapl:* package in ")
    assert reason.endswith("not such a processor, a virtual machine, or no driver")


def test_a_counter_that_only_root_may_read_says_so(root, monkeypatch):
    read_text = Path.read_text

    def refuse(self, *args, **options):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    place = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    assert Rapl(root=root).unavailable() == f"Permission denied: {place}; only root may read it since kernel 5.10"


def test_a_counter_that_is_no_number_says_so(root):
    place = root / "sys/class/powercap/intel-rapl:1/energy_uj"
    place.write_text("many\n")
    assert Rapl(root=root).unavailable() == f"{place} does not hold a number"
    place.unlink()
    with pytest.raises(FileNotFoundError, match="No such file or directory: "):
        whole_number(place)
