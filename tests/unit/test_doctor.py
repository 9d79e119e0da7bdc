# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The doctor: what it says of this machine and of machines that lack something."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from types import SimpleNamespace

import pytest

from tests.boards import BOARDS, board, write_board
from yolo_compress import doctor, engines
from yolo_compress.cli import main

CPUINFO = (
    "processor : 0\nmodel name : Some CPU\nflags : {flags}\n\nprocessor : 1\nmodel name : Some CPU\nflags : {flags}\n"
)


def machine(tmp_path, flags="avx2 fma"):
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("150000 100000")
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO.format(flags=flags))
    (tmp_path / "proc/meminfo").write_text("MemTotal:       8388608 kB\n")
    return tmp_path


def group(found, name):
    return next(rows for title, rows in found.groups.items() if title.startswith(name))


def test_it_prints_versions_machine_engines_and_disk(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in (
        "yolo-compress ",
        "ultralytics",
        "torch",
        "python",
        "cpu flags",
        "memory",
        "bfloat16 units",
        "GiB free in",
    ):
        assert word in out
    assert all(f"  {name} " in out for name in engines.ENGINES)


@pytest.mark.parametrize(
    ("flags", "int8", "bf16"),
    [
        ("avx2 fma", "none: INT8 gains less", "none: amp=bf16 and bf16 engines are refused"),
        ("avx2 avx_vnni", "avx_vnni", "none"),
        ("avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8", "amx_int8, avx512_vnni", "amx_bf16, avx512_bf16"),
        ("asimd asimddp i8mm bf16", "i8mm, asimddp", "bf16"),
    ],
)
def test_units_are_read_from_the_flags(tmp_path, flags, int8, bf16):
    found = doctor.examine(root=machine(tmp_path, flags))
    rows = group(found, "machine")
    assert rows["cores"].endswith(", of which 1.5 may be busy")
    assert ("bf16" in group(found, "engines")["pytorch"]) == (bf16 in rows["bfloat16 units"] and bf16[:4] != "none")
    assert rows["int8 units"].startswith(int8)
    assert rows["bfloat16 units"].startswith(bf16)
    assert rows["cpu"] == "Some CPU"
    assert rows["memory"] == "8.0 GiB"


def test_what_cannot_be_read_is_said_and_not_guessed(tmp_path):
    rows = group(doctor.examine(root=tmp_path), "machine")
    for name in ("cpu", "cpu flags", "int8 units", "bfloat16 units", "memory"):
        assert rows[name].startswith("unavailable: "), name


def test_packages_that_are_not_there_are_named_with_what_to_type(monkeypatch):
    version = importlib.metadata.version

    def without(name):
        if name in doctor.OPTIONAL:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    found = doctor.examine()
    assert group(found, "yolo-compress")["openvino"] == "not installed"
    assert "missing: openvino: pip install 'yolo-compress[openvino]'" in str(found)
    assert len(found.problems) == len(doctor.OPTIONAL)


def test_an_engine_that_cannot_run_says_why(monkeypatch):
    broken = SimpleNamespace(
        load=lambda: SimpleNamespace(unavailable=lambda: "OpenVINO engines need the 'openvino' package")
    )
    ready = SimpleNamespace(load=lambda: SimpleNamespace(unavailable=lambda: None))
    monkeypatch.setattr(engines, "ENGINES", {"openvino": broken, "pytorch": ready})
    rows = group(doctor.examine(), "engines")
    assert rows["openvino"] == "unavailable: OpenVINO engines need the 'openvino' package"
    assert rows["pytorch"].startswith("ready: fp32")


class FakeNvml:
    class NVMLError(Exception):
        pass

    def __init__(self, fails=""):
        self.fails = fails
        self.inits = self.shut = 0

    def __getattr__(self, name):
        if name == self.fails:
            raise FakeNvml.NVMLError(f"{name} failed")
        answers = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetName": "Some GPU",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=8 << 30),
            "nvmlSystemGetDriverVersion": "600.1",
            "nvmlDeviceGetTotalEnergyConsumption": 1000,
        }
        return lambda *_: answers.get(name)

    def nvmlInit(self):
        if self.fails == "nvmlInit":
            raise FakeNvml.NVMLError("nvmlInit failed")
        self.inits += 1

    def nvmlShutdown(self):
        self.shut += 1


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        ("", "Some GPU, 8 GiB; driver 600.1"),
        ("nvmlInit", "none that NVIDIA's driver knows (nvmlInit failed)"),
        ("nvmlDeviceGetMemoryInfo", "Some GPU; driver 600.1"),
        ("nvmlSystemGetDriverVersion", "unavailable: nvmlSystemGetDriverVersion failed"),
    ],
)
def test_the_gpu_is_asked_through_its_driver(monkeypatch, fails, expected):
    nvml = FakeNvml(fails)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert group(doctor.examine(), "machine")["gpu"] == expected
    assert nvml.shut == nvml.inits
    assert (nvml.inits == 0) == (fails == "nvmlInit")


def test_no_gpu_package_is_no_reason_to_stop(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert group(doctor.examine(), "machine")["gpu"] == "unavailable: nvidia-ml-py is not installed"


@pytest.fixture
def bare(monkeypatch):
    """Hide the sensors and packages of the machine that runs the tests."""
    monkeypatch.setattr("yolo_compress.bench.power.tegrastats.shutil.which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tensorrt" else find_spec(name, *rest)
    )


@pytest.mark.parametrize("name", BOARDS)
def test_a_jetson_is_described(tmp_path, bare, name):
    found = doctor.examine(root=write_board(tmp_path, name))
    rows, expected = group(found, "jetson"), board(name)["expected"]
    assert rows["module"] == expected["module"]
    assert rows["jetpack"] == f"{expected['jetpack']}, Jetson Linux {expected['l4t']}"
    assert rows["ships"].startswith(f"TensorRT {expected['ships_tensorrt']}, CUDA ")
    assert rows["power mode"] == expected["power_mode"]
    assert rows["gpu clocks"].startswith(expected["gpu"])
    assert rows["dla cores"] == str(expected["dla_cores"])
    assert "tj-thermal " in rows["temperatures"]
    assert rows["throttling"].startswith("watched through over-current event, cooling devices, clock of ")
    assert group(found, "power")["rails"] == f"ready: {expected['measures']}"
    assert [line.partition(":")[0] for line in found.problems if line.startswith(("tensorrt", "power"))] == ["tensorrt"]


def test_clocks_and_temperatures_of_a_jetson_are_one_line_each(tmp_path, bare):
    rows = group(doctor.examine(root=write_board(tmp_path, "thor")), "jetson")
    assert rows["cpu clocks"] == "policy0 972 of 2601 MHz, schedutil"
    assert rows["gpu clocks"] == "gpu-gpc-0 315 of 1575 MHz, nvhost_podgov"
    assert rows["temperatures"] == (
        "cpu-thermal 53.7 C, gpu-thermal unavailable: Is a directory, soc012-thermal 55.1 C, soc345-thermal 53.7 C, "
        "tj-thermal 55.1 C"
    )
    assert rows["memory clock"].startswith("unavailable: ")  # only root may read it
    assert rows["clocks fixed"] == "no: policy0, gpu-gpc-0"
    assert rows["rails"] == "VIN, VDD_GPU, VDD_CPU_SOC_MSS, VIN_SYS_5V0"


def test_what_a_jetson_in_a_container_lacks_is_listed(tmp_path, bare):
    place = tmp_path / "proc/device-tree/model"
    place.parent.mkdir(parents=True)
    place.write_text("NVIDIA Jetson Orin Nano Developer Kit\0")
    found = doctor.examine(root=tmp_path)
    rows = group(found, "jetson")
    assert rows["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    for key in ("module", "jetpack", "power mode", "cpu clocks", "gpu clocks", "temperatures", "dla cores", "rails"):
        assert rows[key].startswith("unavailable: "), key
    assert rows["throttling"] == "watched through nothing: no counter can be read"
    text = str(found)
    assert "missing: tensorrt: it comes with JetPack; sudo apt install python3-libnvinfer" in text
    assert (
        "missing: power: no rail can be read, so energies are unavailable; a container needs /sys of the host" in text
    )
    assert "missing: release: No such file or directory: " in text
    assert "missing: power mode: No such file or directory: " in text


def test_sensors_are_told_on_any_machine_and_a_jetson_only_on_one(tmp_path, bare):
    found = doctor.examine(root=machine(tmp_path))
    assert list(group(found, "power")) == ["rails", "tegrastats", "jetson-stats", "nvml", "rapl"]
    assert all(value.startswith("unavailable: ") for value in group(found, "power").values())
    assert "jetson" not in found.groups
    assert not any(line.startswith("power") for line in found.problems)


def test_a_folder_that_cannot_be_written_to_is_marked(monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert group(doctor.examine(), "disk")["here"].endswith(", not writable")
