# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Signs of a machine that is slowed down, from trees whose files change while they are watched."""

from __future__ import annotations

import pytest

from tests.boards import BOARDS, write_board
from yolo_compress.bench.throttle import ThrottleWatch

CPU_COUNT = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"


def put(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{text}\n")


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_at_rest_shows_no_sign(tmp_path, name):
    watch = ThrottleWatch(write_board(tmp_path, name))
    watch.look()
    assert watch.signs() == ()
    assert watch.watched == ("over-current event", "cooling devices")


def test_what_happened_before_is_no_sign(tmp_path):
    root = write_board(tmp_path, "orin-nano")
    put(root, "sys/class/hwmon/hwmon3/oc3_event_cnt", 27390)
    watch = ThrottleWatch(root)
    assert watch.signs() == ()
    put(root, "sys/class/hwmon/hwmon3/oc3_event_cnt", 27402)
    assert watch.signs() == ("over-current event of oc3 counted 12 times",)


def test_a_counter_that_turns_up_later_is_no_sign(tmp_path):
    watch = ThrottleWatch(tmp_path)
    put(tmp_path, "sys/class/hwmon/hwmon3/oc1_event_cnt", 5)
    assert watch.signs() == ()


def test_cooling_devices_at_work_are_named_and_fans_are_not(tmp_path):
    root = write_board(tmp_path, "thor")
    watch = ThrottleWatch(root)
    watch.look()
    put(root, "sys/class/thermal/cooling_device0/cur_state", 3)  # the fan
    put(root, "sys/class/thermal/cooling_device2/cur_state", 1)
    watch.look()
    assert watch.signs() == ("gpu-throttle-alert (cooling_device2) active in 1 of 2 looks",)


def test_a_busy_gpu_below_its_clock_is_a_sign(tmp_path):
    root = write_board(tmp_path, "orin-nano")
    clock = "sys/class/devfreq/17000000.gpu/cur_freq"
    watch = ThrottleWatch(root, gpu=True)
    for hertz in (1020000000, 612000000, 800000000, 1000000000):
        put(root, clock, hertz)
        watch.look()
    assert watch.signs() == ("clock of 17000000.gpu below its maximum in 2 of 4 looks, lowest 612 of 1020 MHz",)
    assert "clock of 17000000.gpu" in watch.watched
    unwatched = ThrottleWatch(root)  # engines on the processor leave the GPU idle
    unwatched.look()
    assert unwatched.signs() == ()


def test_thermal_trips_and_processors_are_counted(tmp_path):
    trip = "sys/devices/platform/gpu-throttle-alert/thermal_trip_event"
    put(tmp_path, trip, 0)
    for core in range(2):
        put(tmp_path, CPU_COUNT.format(core), 5)
    watch = ThrottleWatch(tmp_path)
    put(tmp_path, trip, 2)
    for core in range(2):
        put(tmp_path, CPU_COUNT.format(core), 6)
    assert watch.signs() == ("thermal trip of gpu counted 2 times", "slowed by heat of processor counted 2 times")


def test_a_cooling_device_without_a_type_is_not_watched(tmp_path):
    root = tmp_path / "devfreq"
    put(root, "sys/class/thermal/cooling_device0/cur_state", 1)
    assert ThrottleWatch(root).watched == ()


def test_where_nothing_can_be_watched_it_says_so(tmp_path):
    watch = ThrottleWatch(tmp_path, gpu=True)
    watch.look()
    assert watch.watched == ()
    assert watch.signs() == ()


def test_files_that_break_while_they_are_watched_are_no_sign(tmp_path):
    root = write_board(tmp_path, "thor")
    watch = ThrottleWatch(root, gpu=True)
    for path in ("sys/class/hwmon/hwmon6/oc1_event_cnt", "sys/class/thermal/cooling_device2/cur_state"):
        (root / path).write_text("nonsense")
    (root / "sys/class/devfreq/gpu-gpc-0/max_freq").unlink()
    watch.look()
    assert watch.signs() == ()
