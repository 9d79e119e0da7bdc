# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What an installed TensorRT can do, read from what its module has and never from its version number."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from yolo_compress.errors import MissingDependency, require

Mode = Literal["calibrate", "qdq", "float"]

# name of an algorithm: its base class, and what the legacy class has to be told
CALIBRATORS = {
    "entropy": "IInt8EntropyCalibrator2",
    "minmax": "IInt8MinMaxCalibrator",
    "percentile": "IInt8LegacyCalibrator",
    "legacy": "IInt8LegacyCalibrator",
}
JETSON_FILE = "etc/nv_tegra_release"
ADVICE = {
    "tensorrt": "install the one that fits your driver and CUDA, such as pip install tensorrt-cu12 or tensorrt-cu13; "
    "it is yours to choose, so no extra of yolo-compress does",
    "tensorrt_rtx": "pip install tensorrt-rtx",
}
JETSON_ADVICE = (
    "it comes with JetPack: sudo apt install python3-libnvinfer, then a virtual environment made with "
    "python3 -m venv --system-site-packages; never pip install tensorrt on a Jetson"
)


@dataclass(frozen=True)
class Capabilities:
    """What one module offers.

    Attributes:
        module: Its name.
        version: For records and messages only; nothing is decided by it.
        calibrators: Algorithms of its own calibrator, by the names of `CALIBRATORS`; empty where that is gone.
        precision_flags: Which of FP16 and INT8 a builder can be told, empty where types come from the graph alone.
        strongly_typed: A network can be made to compute in exactly the types of its graph.
        implicit_batch: Networks without a batch axis still exist, so the other kind has to be asked for, and a
            calibration with dynamic shapes needs a profile of its own.
        obey: Flag that makes precisions of single layers binding, None where layers have none.
        dla: A layer can be sent to a DLA; whether there is one, only a builder on the device knows.
        compute: Compute capabilities that a build can be aimed at without such a GPU, oldest first.
    """

    module: str
    version: str
    calibrators: tuple[str, ...]
    precision_flags: tuple[str, ...]
    strongly_typed: bool
    implicit_batch: bool
    obey: str | None
    dla: bool
    compute: tuple[str, ...]

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Return the ways to INT8: every module takes Q/DQ graphs, some also calibrate."""
        return ("calibrate", "qdq") if self.calibrators else ("qdq",)


def capabilities(trt: ModuleType | Any) -> Capabilities:
    """Read what a module has."""
    flags, network = trt.BuilderFlag, _members(trt.NetworkDefinitionCreationFlag)
    precision = tuple(name for name in ("FP16", "INT8") if hasattr(flags, name))
    calibrates = "INT8" in precision and hasattr(trt.IBuilderConfig, "int8_calibrator")
    binding = next((name for name in ("OBEY_PRECISION_CONSTRAINTS", "STRICT_TYPES") if hasattr(flags, name)), None)
    aimed = hasattr(trt.IBuilderConfig, "num_compute_capabilities") and hasattr(trt, "ComputeCapability")
    return Capabilities(
        module=trt.__name__,
        version=str(trt.__version__),
        calibrators=tuple(name for name, base in CALIBRATORS.items() if calibrates and hasattr(trt, base)),
        precision_flags=precision,
        strongly_typed="STRONGLY_TYPED" in network or not precision,
        implicit_batch="EXPLICIT_BATCH" in network and hasattr(trt.Builder, "max_batch_size"),
        obey=binding if hasattr(trt.ILayer, "precision") else None,
        dla=hasattr(trt.IBuilderConfig, "DLA_core") and hasattr(flags, "GPU_FALLBACK"),
        compute=_compute(trt.ComputeCapability) if aimed else (),
    )


def load_module(name: Literal["tensorrt", "tensorrt_rtx"], *, root: Path = Path("/")) -> ModuleType:
    """Import TensorRT or TensorRT-RTX.

    Args:
        name: Which of them.
        root: Where `etc` and `proc` lie, which tell a Jetson.

    Raises:
        MissingDependency: It is not installed, or its libraries cannot be loaded.
    """
    advice = JETSON_ADVICE if name == "tensorrt" and on_jetson(root) else ADVICE[name]
    purpose = "TensorRT engines" if name == "tensorrt" else "TensorRT-RTX engines"
    try:
        return require(name, extra="", purpose=purpose, advice=advice)
    except ImportError as error:  # bindings without the libraries that they bind, or those of another version
        reason = " ".join(str(error).split())
        raise MissingDependency(
            f"{purpose} need the '{name}' package, whose import failed ({reason}); {advice}"
        ) from error


def on_jetson(root: Path = Path("/")) -> bool:
    """Tell a Jetson by its release file, device tree or kernel; of these a container may have only the last two."""
    tree = root / "proc/device-tree"
    named = "jetson" in _text(tree / "model").lower() or "nvidia,tegra" in _text(tree / "compatible")
    kernel = root == Path("/") and platform.release().endswith("tegra")
    return named or kernel or (root / JETSON_FILE).is_file()


def _text(path: Path) -> str:
    """Return what a file of the device tree says, nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _members(enumeration: Any) -> frozenset[str]:
    return frozenset(enumeration.__members__)


def _compute(enumeration: Any) -> tuple[str, ...]:
    names = [name for name in _members(enumeration) if name.startswith("SM") and name[2:].isdigit()]
    return tuple(sorted(names, key=lambda name: int(name[2:])))
