# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What NVML tells, on a simulated driver, and what is said where it tells nothing."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from yolo_compress.bench.gpu_state import SLOWDOWNS, GpuState, read_state

PLACE = "0000:0a:00.0"


@pytest.fixture
def nvml(monkeypatch):
    """Return a pynvml whose `open` says whether it is between init and shutdown."""
    fake = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    class NVMLError_FunctionNotFound(NVMLError):
        pass

    fake.NVMLError, fake.NVMLError_FunctionNotFound = NVMLError, NVMLError_FunctionNotFound
    fake.NVML_CLOCK_SM, fake.NVML_TEMPERATURE_GPU, fake.open = 1, 0, False
    fake.nvmlInit = lambda: setattr(fake, "open", True)
    fake.nvmlShutdown = lambda: setattr(fake, "open", False)
    fake.nvmlDeviceGetHandleByPciBusId = lambda place: ("handle", place, fake.open)
    fake.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x01
    fake.nvmlDeviceGetClockInfo = lambda handle, kind: 1980
    fake.nvmlDeviceGetTemperature = lambda handle, kind: 41
    fake.nvmlDeviceGetTotalEnergyConsumption = lambda handle: 1_000_500
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def raising(error):
    def ask(*_):
        raise error

    return ask


def test_a_quiet_gpu(nvml):
    assert read_state(PLACE) == GpuState((), 1980, 41, 1000.5)
    assert nvml.open is False


def test_the_gpu_is_found_by_where_it_sits(nvml):
    nvml.nvmlDeviceGetClockInfo = lambda handle, kind: (handle == ("handle", PLACE, True)) * 7
    assert read_state(PLACE).sm_clock_mhz == 7


@pytest.mark.parametrize("bit", [*SLOWDOWNS, 0x01, 0x02, 0x10, 0x100])
def test_only_what_slows_a_gpu_counts(nvml, bit):
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: bit
    assert read_state(PLACE).slowed_by == ((SLOWDOWNS[bit],) if bit in SLOWDOWNS else ())


def test_several_reasons_are_all_told(nvml):
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x45
    assert read_state(PLACE).slowed_by == ("the power limit", "heat (hardware)")


def test_the_newer_name_of_the_call_is_used_where_the_older_is_gone(nvml):
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = raising(nvml.NVMLError_FunctionNotFound("no such function"))
    nvml.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: 0x20
    assert read_state(PLACE).slowed_by == ("heat (software)",)
    del nvml.nvmlDeviceGetCurrentClocksThrottleReasons
    assert read_state(PLACE).slowed_by == ("heat (software)",)


def test_a_sensor_that_is_not_there_leaves_the_others(nvml):
    nvml.nvmlDeviceGetTotalEnergyConsumption = raising(nvml.NVMLError("Not Supported"))
    assert read_state(PLACE) == GpuState((), 1980, 41, None)


@pytest.mark.parametrize(
    "call", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetCurrentClocksThrottleReasons"]
)
def test_what_fails_is_unavailable_and_leaves_nothing_open(nvml, call):
    setattr(nvml, call, raising(nvml.NVMLError("Driver Not Loaded")))
    assert read_state(PLACE) == "unavailable: Driver Not Loaded"
    assert nvml.open is False


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_state(PLACE) == (
        "unavailable: Clocks and throttling of NVIDIA GPUs need the 'pynvml' package, which is not installed: "
        "pip install 'yolo-compress[energy]'"
    )


def test_a_gpu_whose_place_is_not_known_is_not_looked_for(nvml):
    nvml.nvmlInit = raising(AssertionError("must not be asked"))
    assert read_state("unavailable: an old PyTorch") == "unavailable: an old PyTorch"


def test_the_genuine_package_has_every_name():
    pynvml = pytest.importorskip("pynvml")
    for name in (
        "nvmlInit",
        "nvmlShutdown",
        "nvmlDeviceGetHandleByPciBusId",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetTotalEnergyConsumption",
        "NVML_CLOCK_SM",
        "NVML_TEMPERATURE_GPU",
        "NVMLError_FunctionNotFound",
    ):
        assert hasattr(pynvml, name)
