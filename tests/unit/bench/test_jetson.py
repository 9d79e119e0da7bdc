# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What is read of a Jetson, from trees modelled on published ones, whole and damaged."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.boards import BOARDS, board, write_board
from yolo_compress.bench import jetson
from yolo_compress.bench.jetson import RELEASES, describe_jetson, nvpmodel_query
from yolo_compress.bench.machine import describe_machine
from yolo_compress.bench.sysfs import is_unavailable, read
from yolo_compress.engines.tensorrt.capability import on_jetson

KEYS = ("board", "module", "l4t", "jetpack", "ships_tensorrt", "ships_cuda", "power_mode", "power_modes", "cpu_clocks")
KEYS += ("gpu_clocks", "emc_mhz", "clocks_fixed", "temperatures_c", "dla_cores")
DAMAGES = ("missing", "unreadable", "empty", "nonsense", "not text")


@pytest.fixture(params=BOARDS)
def tree(request, tmp_path):
    return SimpleNamespace(name=request.param, root=write_board(tmp_path, request.param), **board(request.param))


def test_every_board_has_a_tree():
    assert BOARDS == ("agx-orin", "orin-nano", "orin-nx", "thor")


def test_each_board_is_recognised(tree):
    found = describe_jetson(root=tree.root)
    assert on_jetson(tree.root)
    assert tuple(found) == KEYS
    assert found["board"] == tree.files["proc/device-tree/model"].rstrip("\0")
    for key in ("module", "l4t", "jetpack", "ships_tensorrt", "power_mode", "dla_cores"):
        assert found[key] == tree.expected[key], key
    assert list(found["gpu_clocks"]) == [tree.expected["gpu"]]  # Thor's video engines are no GPU
    assert all(set(clock) == {"now_mhz", "min_mhz", "max_mhz", "governor"} for clock in found["cpu_clocks"].values())
    json.dumps(found, allow_nan=False)


def test_a_zone_that_cannot_be_read_keeps_its_name_and_a_reason(tmp_path):
    found = describe_jetson(root=write_board(tmp_path, "thor"))["temperatures_c"]
    assert found["tj-thermal"] == 55.1
    assert found["gpu-thermal"].startswith("unavailable: Is a directory")
    assert set(found) == {"cpu-thermal", "gpu-thermal", "soc012-thermal", "soc345-thermal", "tj-thermal"}


def test_zones_of_one_type_are_kept_apart(tmp_path):
    for number, value in enumerate((40000, 41000)):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text("cpu-thermal\n")
        (zone / "temp").write_text(f"{value}\n")
    assert jetson.temperatures(tmp_path) == {"cpu-thermal": 40, "cpu-thermal (thermal_zone1)": 41}


def test_clocks_that_cannot_change_are_told_from_those_that_can(tmp_path):
    fixed = describe_jetson(root=write_board(tmp_path / "nx", "orin-nx"))
    assert fixed["clocks_fixed"] == "yes"
    loose = describe_jetson(root=write_board(tmp_path / "nano", "orin-nano"))
    assert loose["clocks_fixed"] == "no: policy0, policy4, 17000000.gpu"
    (tmp_path / "nx/sys/class/devfreq/17000000.gpu/max_freq").unlink()
    assert describe_jetson(root=tmp_path / "nx")["clocks_fixed"].startswith("unavailable: No such file")


def test_an_empty_tree_gives_a_reason_for_everything(tmp_path):
    found = describe_jetson(root=tmp_path)
    assert tuple(found) == KEYS
    assert [key for key, value in found.items() if not is_unavailable(value)] == []
    assert not on_jetson(tmp_path)
    assert "jetson" not in describe_machine(root=tmp_path)


def test_a_place_that_is_called_so_is_no_jetson(tmp_path):
    root = tmp_path / "jetson" / "nvidia,tegra"
    root.mkdir(parents=True)
    assert not on_jetson(root)


def test_each_file_may_be_missing_unreadable_or_nonsense(tree):
    """Whatever happens to one file, the rest is still told, and nothing is told that is not there."""
    whole = describe_jetson(root=tree.root)
    read_here = [path for path in tree.files if "hwmon" not in path and "cooling" not in path]
    for index, path in enumerate(read_here):
        place = tree.root / path
        before = place.read_bytes() if place.is_file() else None
        for damage in (DAMAGES[index % 5], DAMAGES[(index + 2) % 5]):
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
            if damage == "unreadable":
                place.mkdir()
            elif damage != "missing":
                place.write_bytes({"empty": b"", "nonsense": b"what?\n", "not text": b"\xff\xfe\x00"}[damage])
            found = describe_jetson(root=tree.root)
            json.dumps(found, allow_nan=False)
            changed = {key for key in KEYS if found[key] != whole[key]}
            assert len(changed) <= 4, (path, damage, changed)
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        place.mkdir() if before is None else place.write_bytes(before)
    assert describe_jetson(root=tree.root) == whole


@given(st.text(max_size=80))
def test_no_release_file_makes_it_stop(text):
    with contextlib.suppress(ValueError):
        assert jetson._l4t(text).replace(".", "").isdigit()


@pytest.mark.parametrize(
    ("line", "l4t", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic", "36.4.3", ("6.2", "10.3", "12.6")),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref", "35.4.1", ("5.1.2", "8.5.2", "11.4")),
        ("# R32 (release), REVISION: 7.1, GCID: 1, BOARD: t210ref", "32.7.1", ("4.6.1", "8.2.1", "10.2")),
        ("# R38 (release), REVISION: 4.0, GCID: 43443517", "38.4.0", ("7.1", "10.13.3", "13.0")),
        ("# R39 (release), REVISION: 2.0, GCID: 45755727", "39.2.0", ("7.2", "10.16.2", "13.2")),
    ],
)
def test_releases(tmp_path, line, l4t, release):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(line + "\n")
    found = describe_jetson(root=tmp_path)
    assert found["l4t"] == l4t
    assert (found["jetpack"], found["ships_tensorrt"], found["ships_cuda"]) == release
    assert on_jetson(tmp_path)


def test_a_release_that_is_not_in_the_table_is_not_guessed(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R40 (release), REVISION: 1.0, GCID: 1\n")
    found = describe_jetson(root=tmp_path)
    assert found["l4t"] == "40.1.0"
    assert found["jetpack"] == (
        "unavailable: Jetson Linux 40.1.0 is not in the table of this version; see: apt show nvidia-jetpack"
    )
    assert all(key.count(".") == 2 for key in RELEASES)


def test_what_a_release_ships_is_left_open_where_it_is_not_certain(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 3.0\n")
    found = describe_jetson(root=tmp_path)
    assert (found["jetpack"], found["ships_cuda"]) == ("6.0", "12.2")
    assert found["ships_tensorrt"] == "unavailable: not known for Jetson Linux 36.3.0"


def test_a_part_that_is_not_known_is_named(tmp_path):
    place = tmp_path / "proc/device-tree/compatible"
    place.parent.mkdir(parents=True)
    place.write_text("nvidia,p9999-0000+p8888-0001\0nvidia,tegra299\0")
    assert describe_jetson(root=tmp_path)["module"] == (
        "unavailable: no part among p9999-0000, p8888-0001 is in the table of this version"
    )
    assert on_jetson(tmp_path)  # by the chip, as in a container without the release file


def test_the_power_mode_is_a_number_where_its_name_is_not_told(tmp_path):
    root = write_board(tmp_path, "orin-nano")
    (root / "etc/nvpmodel.conf").write_text("< POWER_MODEL ID=0 NAME=15W >\n")
    assert describe_jetson(root=root)["power_mode"] == "mode 2"


@pytest.mark.parametrize(
    ("printed", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER (mode 2)"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: 15W\n0\n", "15W (mode 0)"),
        ("NV Power Mode: MAXN\n", "MAXN"),
    ],
)
def test_the_command_is_asked_where_the_file_cannot_be_read(tmp_path, printed, mode):
    assert describe_jetson(root=tmp_path, query=lambda: printed)["power_mode"] == mode


def test_both_reasons_are_given_where_neither_tells_the_mode(tmp_path):
    def fails():
        raise OSError("nvpmodel -q failed: must be root")

    found = describe_jetson(root=tmp_path, query=fails)["power_mode"]
    assert found.startswith("unavailable: No such file")
    assert found.endswith("; nvpmodel -q failed: must be root")
    assert describe_jetson(root=tmp_path, query=lambda: "?")["power_mode"].endswith(
        "; nvpmodel -q printed no power mode"
    )


def test_nvpmodel_is_only_asked(monkeypatch):
    asked = []

    def answer(command, **options):
        asked.append(command)
        return SimpleNamespace(returncode=0, stdout="NV Power Mode: 15W\n0\n", stderr="")

    monkeypatch.setattr(jetson.shutil, "which", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(jetson.subprocess, "run", answer)
    assert nvpmodel_query() == "NV Power Mode: 15W\n0\n"
    assert asked == [["/usr/sbin/nvpmodel", "-q"]]
    monkeypatch.setattr(
        jetson.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout="", stderr="no")
    )
    with pytest.raises(OSError, match="nvpmodel -q failed: no"):
        nvpmodel_query()

    def late(*_, **__):
        raise subprocess.TimeoutExpired("nvpmodel", 5)

    monkeypatch.setattr(jetson.subprocess, "run", late)
    with pytest.raises(OSError, match="did not answer within 5 s"):
        nvpmodel_query()
    monkeypatch.setattr(jetson.shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="not on the PATH"):
        nvpmodel_query()


def test_the_record_of_a_machine_holds_its_board(tree):
    found = describe_machine(root=tree.root)["jetson"]
    assert found["l4t"] == tree.expected["l4t"]


def test_a_reading_may_fail_in_any_way(tmp_path, monkeypatch):
    def again(self, **_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(Path, "read_text", again)  # what a thermal zone without power answers
    assert read(tmp_path / "temp", int) == f"unavailable: Resource temporarily unavailable: {tmp_path / 'temp'}"


def test_a_number_too_large_is_no_reading(tmp_path):
    (tmp_path / "rate").write_text("9" * 400)
    assert read(tmp_path / "rate", lambda text: int(text) / 1e6).endswith("does not hold what is expected")
