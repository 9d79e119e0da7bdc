# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The power of an NVIDIA GPU board, as its driver tells it through NVML."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from yolo_compress.bench.gpu_state import slowdowns
from yolo_compress.errors import MissingDependency, require


class Nvml:
    """Joules that the driver counts (Volta and later), or else watts.

    `counts` says which; it is known once this is open.
    """

    name = "nvml"
    period_s: float | None = None

    def __init__(self, *, device: str = "0", root: Path = Path("/")) -> None:
        self._device = device
        self._nvml: Any = None
        self._handle: Any = None
        self._board = ""
        self.counts = False

    @staticmethod
    def covers(device: str) -> bool:
        """Return whether engines run on a GPU."""
        return device != "cpu"

    @property
    def measures(self) -> str:
        """The board that is measured."""
        return f"GPU board {self._board}; the rest of the machine is not part of it".replace("  ", " ")

    def unavailable(self) -> str | None:
        """Return why the driver does not tell."""
        try:
            self.open()
            self.read()
        except (MissingDependency, OSError, ValueError) as error:
            return str(error)
        finally:
            self.close()
        return None

    def settings(self) -> dict[str, Any]:
        """Return what is read."""
        return {"reads": "energy counter" if self.counts else "power", "board": self._board}

    def open(self) -> None:
        """Find the board; MissingDependency when nvidia-ml-py is not installed."""
        nvml = require("pynvml", extra="energy", purpose="Energies of NVIDIA GPUs")
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise OSError(f"NVIDIA's driver does not answer: {error}") from error
        self._nvml = nvml
        try:
            self._handle = self._find(nvml)
            self._board = str(nvml.nvmlDeviceGetName(self._handle))
        except nvml.NVMLError as error:
            raise OSError(str(error)) from error
        try:
            nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
            self.counts = True
        except nvml.NVMLError:  # before Volta, and on some boards
            self.counts = False

    def read(self) -> float:
        """Return joules, or watts where the driver does not count."""
        nvml = self._nvml
        call = nvml.nvmlDeviceGetTotalEnergyConsumption if self.counts else nvml.nvmlDeviceGetPowerUsage
        try:
            return int(call(self._handle)) / 1e3  # millijoule or milliwatt
        except nvml.NVMLError as error:
            raise OSError(str(error)) from error

    def signs(self) -> tuple[str, ...]:
        """Return the driver's reasons for a lower clock."""
        try:
            found = slowdowns(self._nvml, self._handle)
        except self._nvml.NVMLError:
            return ()
        return tuple(f"the driver slows the GPU down: {name}" for name in found)

    def close(self) -> None:
        """Let go of the driver."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = self._handle = None

    def _find(self, nvml: Any) -> Any:
        """Return the board that CUDA calls by this number; the driver's own numbers are in another order."""
        if nvml.nvmlDeviceGetCount() == 1:
            return nvml.nvmlDeviceGetHandleByIndex(0)
        torch = sys.modules.get("torch")  # a sensor does not import what the measurement does not use
        if torch is None or not torch.cuda.is_available():
            raise OSError(f"several GPUs, and without torch nothing tells which one CUDA calls {self._device}")
        index = int(self._device.rpartition(":")[2] or 0) if self._device != "cuda" else 0
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
