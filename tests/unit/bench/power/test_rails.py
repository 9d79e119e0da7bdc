# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Rails of power monitors, from trees modelled on published ones, whole and damaged."""

from __future__ import annotations

import re

import pytest

from tests.boards import BOARDS, board, write_board
from yolo_compress.bench.power.rails import Rails
from yolo_compress.bench.power.sensor import connected, meaning_of_total, rails_of_total


@pytest.fixture(params=BOARDS)
def name(request):
    return request.param


def test_the_total_of_each_board(tmp_path, name):
    expected = board(name)["expected"]
    sensor = Rails(root=write_board(tmp_path, name))
    assert sensor.unavailable() is None
    sensor.open()
    assert sensor.read() == pytest.approx(expected["watts"], rel=1e-12)
    assert sensor.measures == expected["measures"]
    assert sensor.period_s == expected["period_s"]
    assert not sensor.counts
    assert sensor.signs() == ()
    sensor.close()


def test_labels_that_are_no_rails_are_left_out(tmp_path):
    sensor = Rails(root=write_board(tmp_path, "agx-orin"))
    assert sensor.settings() == {
        "rails_found": "VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0, VDDQ_VDD2_1V8AO",
        "update_interval_ms": "36",
        "samples_averaged": "16",
    }
    assert not connected("NC")
    assert not connected("NC_2")
    assert not connected("sum of shunt voltages")
    assert not connected("")
    assert connected("VDD_SYNC")


def test_the_channel_that_sums_up_is_left_out_whatever_its_label_says(tmp_path):
    root = write_board(tmp_path, "agx-orin")
    (root / "sys/class/hwmon/hwmon3/in7_label").write_text("VDD_ALL\n")
    (root / "sys/class/hwmon/hwmon3/curr7_input").write_text("999\n")
    assert Rails(root=root).read() == pytest.approx(board("agx-orin")["expected"]["watts"])


@pytest.mark.parametrize(
    ("rails", "total"),
    [
        (["VDD_CPU_GPU_CV", "VDD_IN", "VDD_SOC"], ("VDD_IN",)),
        (["POM_5V_GPU", "POM_5V_IN", "POM_5V_CPU"], ("POM_5V_IN",)),
        (["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"], ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
        (["VDD_GPU_SOC", "VDDQ_VDD2_1V8AO"], ("VDD_GPU_SOC", "VDDQ_VDD2_1V8AO")),  # nothing here counts it already
        (["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"], ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")),
        (["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"], ("VIN",)),
        (["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"], ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")),
        (["VDD_SYS_GPU", "VDD_MUX", "VDD_IN"], ("VDD_IN",)),
        ([], ()),
    ],
)
def test_the_input_is_the_total_or_else_the_sum(rails, total):
    assert rails_of_total(rails) == total


def test_what_a_total_covers_is_said():
    assert meaning_of_total(("POM_5V_IN",)) == "POM_5V_IN, the module input"
    assert meaning_of_total(("GPU",)) == "sum of GPU; the carrier board is not part of it"


def test_thor_without_the_monitor_of_its_carrier_board_sums_the_module(tmp_path):
    root = write_board(tmp_path, "thor")
    (root / "sys/class/hwmon/hwmon4/power1_input").unlink()
    sensor = Rails(root=root)
    assert sensor.read() == pytest.approx(19.864 * 0.020 + 19.856 * 0.300 + 4.968 * 1.300)
    assert sensor.period_s == 0.036
    assert sensor.measures.startswith("sum of VDD_GPU, VDD_CPU_SOC_MSS, VIN_SYS_5V0;")


def test_a_rail_that_cannot_be_read_makes_the_sum_unreadable(tmp_path):
    root = write_board(tmp_path, "agx-orin")
    current = root / "sys/class/hwmon/hwmon3/curr2_input"
    current.unlink()
    assert Rails(root=root).unavailable() == f"No such file or directory: {current}"
    current.write_text("n/a\n")
    sensor = Rails(root=root)
    assert sensor.unavailable() == f"{current} does not hold a number"
    with pytest.raises(ValueError, match="does not hold a number"):
        sensor.read()
    current.write_text("40\n")
    assert sensor.unavailable() is None


def test_a_rail_that_is_no_part_of_the_total_may_be_unreadable(tmp_path):
    root = write_board(tmp_path, "orin-nx")
    (root / "sys/class/hwmon/hwmon1/curr3_input").unlink()
    assert Rails(root=root).read() == pytest.approx(5.160 * 0.891)


def test_labels_that_cannot_be_read_are_no_rails(tmp_path):
    root = write_board(tmp_path, "orin-nano")
    label = root / "sys/class/hwmon/hwmon1/in1_label"
    label.unlink()
    label.mkdir()
    assert Rails(root=root).measures == "sum of VDD_CPU_GPU_CV, VDD_SOC; the carrier board is not part of it"


def test_without_a_monitor_it_says_where_it_looked(tmp_path):
    reason = Rails(root=tmp_path).unavailable()
    assert re.fullmatch(
        r"no ina3221 or ina238 with a named rail below .*/sys/class/hwmon or .*/sys/bus/i2c/drivers/ina3221", reason
    )


def test_a_chip_seen_in_both_places_counts_once(tmp_path):
    root = write_board(tmp_path, "agx-orin")
    place = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    place.parent.mkdir(parents=True)
    place.symlink_to(root / "sys/class/hwmon/hwmon3")
    assert Rails(root=root).read() == pytest.approx(board("agx-orin")["expected"]["watts"])


def test_a_chip_that_is_only_found_through_its_driver_counts(tmp_path):
    root = write_board(tmp_path, "orin-nano")
    place = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon"
    place.mkdir(parents=True)
    (root / "sys/class/hwmon/hwmon1").rename(place / "hwmon1")
    assert Rails(root=root).read() == pytest.approx(5.016 * 1.904)


def test_a_period_is_not_invented(tmp_path):
    root = write_board(tmp_path, "orin-nano")
    (root / "sys/class/hwmon/hwmon1/update_interval").write_text("often\n")
    assert Rails(root=root).period_s is None
