# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The power of a GPU, from a driver that is only played; its functions are checked against the genuine bindings."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from yolo_compress.bench.gpu_state import SLOWDOWNS
from yolo_compress.bench.power.nvml import Nvml


class Driver:
    """Answers as the driver of so many GPUs; calls named in `fails` raise."""

    class NVMLError(Exception):
        pass

    class NVMLError_FunctionNotFound(NVMLError):
        pass

    def __init__(self, gpus=1, fails=()):
        self.gpus, self.fails, self.called, self.reasons = gpus, fails, [], 0

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments):
            self.called.append(name)
            if name in self.fails:
                raise Driver.NVMLError("Not Supported")
            return {
                "nvmlDeviceGetCount": self.gpus,
                "nvmlDeviceGetName": "Some GPU",
                "nvmlDeviceGetTotalEnergyConsumption": 12_345_678,
                "nvmlDeviceGetPowerUsage": 71_500,
                "nvmlDeviceGetCurrentClocksThrottleReasons": self.reasons,
                "nvmlDeviceGetHandleByIndex": ("index", *arguments),
                "nvmlDeviceGetHandleByUUID": ("uuid", *arguments),
            }.get(name)

        return call


@pytest.fixture
def driver(monkeypatch):
    def play(**options):
        found = Driver(**options)
        monkeypatch.setitem(sys.modules, "pynvml", found)
        return found

    return play


def test_the_counter_is_taken_where_there_is_one(driver):
    nvml = driver()
    sensor = Nvml(device="0")
    sensor.open()
    assert sensor.counts
    assert sensor.read() == 12_345.678
    assert sensor.settings() == {"reads": "energy counter", "board": "Some GPU"}
    assert sensor.measures == "GPU board Some GPU; the rest of the machine is not part of it"
    sensor.close()
    assert (nvml.called.count("nvmlInit"), nvml.called.count("nvmlShutdown")) == (1, 1)
    sensor.close()
    assert nvml.called.count("nvmlShutdown") == 1


def test_power_is_taken_where_energy_is_not_counted(driver):
    driver(fails=("nvmlDeviceGetTotalEnergyConsumption",))
    sensor = Nvml(device="0")
    assert sensor.unavailable() is None
    sensor.open()
    assert not sensor.counts
    assert sensor.read() == 71.5
    assert sensor.settings()["reads"] == "power"


def test_a_board_that_tells_neither_is_unavailable(driver):
    nvml = driver(fails=("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"))
    assert Nvml(device="0").unavailable() == "Not Supported"
    assert nvml.called[-1] == "nvmlShutdown"


def test_without_a_driver_or_its_package_it_says_so(driver, monkeypatch):
    driver(fails=("nvmlInit",))
    assert Nvml(device="0").unavailable() == "NVIDIA's driver does not answer: Not Supported"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml(device="0").unavailable().endswith("is not installed: pip install 'yolo-compress[energy]'")


def test_the_drivers_reasons_are_signs(driver):
    nvml = driver()
    sensor = Nvml(device="0")
    sensor.open()
    assert sensor.signs() == ()
    nvml.reasons = 0x1 | 0x4 | 0x20  # idle is no sign
    assert sensor.signs() == (
        "the driver slows the GPU down: the power limit",
        "the driver slows the GPU down: heat (software)",
    )
    nvml.fails = ("nvmlDeviceGetCurrentClocksThrottleReasons",)
    assert sensor.signs() == ()


def test_of_several_gpus_the_one_of_cuda_is_taken(driver, monkeypatch):
    driver(gpus=2)
    properties = {0: SimpleNamespace(uuid="aaaa"), 1: SimpleNamespace(uuid="bbbb")}
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True, get_device_properties=properties.get))
    monkeypatch.setitem(sys.modules, "torch", torch)
    for device, uuid in (("1", "bbbb"), ("cuda:1", "bbbb"), ("cuda", "aaaa"), ("0", "aaaa")):
        sensor = Nvml(device=device)
        sensor.open()
        assert sensor._handle == ("uuid", f"GPU-{uuid}")
    monkeypatch.delitem(sys.modules, "torch")
    assert Nvml(device="1").unavailable().startswith("several GPUs, and without torch nothing tells which")


def test_it_covers_what_runs_on_gpus():
    assert Nvml.covers("0")
    assert Nvml.covers("cuda:0")
    assert not Nvml.covers("cpu")


def test_the_genuine_bindings_have_what_is_called():
    pynvml = pytest.importorskip("pynvml")
    for name in (
        "Init",
        "Shutdown",
        "DeviceGetCount",
        "DeviceGetName",
        "DeviceGetHandleByIndex",
        "DeviceGetPowerUsage",
    ):
        assert callable(getattr(pynvml, f"nvml{name}"))
    for name in ("HandleByUUID", "TotalEnergyConsumption", "CurrentClocksThrottleReasons"):
        assert callable(getattr(pynvml, f"nvmlDeviceGet{name}"))
    named = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert [getattr(pynvml, f"nvmlClocksThrottleReason{name}") for name in named] == list(SLOWDOWNS)
    assert issubclass(pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError)
    assert issubclass(pynvml.NVMLError, Exception)


@pytest.mark.gpu
def test_a_real_gpu_is_read():
    sensor = Nvml(device="0")
    reason = sensor.unavailable()
    if reason:
        pytest.skip(f"no NVIDIA GPU whose power can be read: {reason}")
    sensor.open()
    try:
        first = sensor.read()
        time.sleep(0.3)
        second = sensor.read()
        watts = (second - first) / 0.3 if sensor.counts else second
        assert 1 < watts < 2000
    finally:
        sensor.close()
