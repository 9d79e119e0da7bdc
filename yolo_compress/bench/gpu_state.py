# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Clocks, temperature, throttling and energy of an NVIDIA GPU, as its driver tells them through NVML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yolo_compress.bench.sysfs import is_unavailable, unavailable
from yolo_compress.errors import MissingDependency, require

# bits of NVML's clock event reasons that mean less speed than the chip has; an idle GPU and clocks that were set by
# hand are also reasons there, and no fault
SLOWDOWNS = {
    0x04: "the power limit",
    0x08: "a hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "the power brake",
}


@dataclass(frozen=True)
class GpuState:
    """One reading; what a device does not tell is None.

    `energy_j` counts from when the driver was loaded, so only differences mean something.
    """

    slowed_by: tuple[str, ...]
    sm_clock_mhz: int | None
    temperature_c: int | None
    energy_j: float | None


def read_state(pci_bus_id: str) -> GpuState | str:
    """Read a GPU by where it sits ("0000:65:00.0").

    Returns:
        The reading, or "unavailable: " and the reason.
    """
    if is_unavailable(pci_bus_id):
        return pci_bus_id
    try:
        nvml = require("pynvml", extra="energy", purpose="Clocks and throttling of NVIDIA GPUs")
    except MissingDependency as error:
        return unavailable(str(error))
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return unavailable(str(error))
    try:
        handle = nvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)
        return GpuState(
            slowed_by=slowdowns(nvml, handle),
            sm_clock_mhz=_read(nvml, lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            temperature_c=_read(nvml, lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            energy_j=_read(nvml, lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3),
        )
    except nvml.NVMLError as error:
        return unavailable(str(error))
    finally:
        nvml.nvmlShutdown()


def slowdowns(nvml: Any, handle: Any) -> tuple[str, ...]:
    """Return what makes a GPU slower than it is, in words; NVML's own error where the driver does not tell."""
    try:
        bits = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    except (AttributeError, nvml.NVMLError_FunctionNotFound):  # its name since driver 535, and one day its only one
        bits = int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    return tuple(name for bit, name in SLOWDOWNS.items() if bits & bit)


def _read(nvml: Any, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except nvml.NVMLError:  # a sensor that this model does not have; the others still tell something
        return None
