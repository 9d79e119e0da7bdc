# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a benchmark returns and writes: frozen dataclasses with units in their names, as JSON and back."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from yolo_compress.artifacts import atomic_write
from yolo_compress.bench.gpu_latency import GpuLatency
from yolo_compress.bench.roof_layers import Roofline
from yolo_compress.bench.streams import Streams
from yolo_compress.errors import DataError, UsageError

SCHEMA_VERSION = 1
STAT_NAMES = (
    "map50_95",
    "map50",
    "map75",
    "map_small",
    "map_medium",
    "map_large",
    "recall_1",
    "recall_10",
    "recall_100",
    "recall_small",
    "recall_medium",
    "recall_large",
)
ERROR_KINDS = ("localisation", "classification", "both", "duplicate", "background", "missed")

Origin = Literal["native", "yolo_compress", "user"]


@dataclass(frozen=True)
class Candidate:
    """A file to be measured.

    `weights` names what the file was made from: candidates with an equal value are versions of one model, so that one
    far worse than another is broken. When not given it is taken from the file name. `float_map50_95`, 0 to 1, is what
    the float model is known to reach on the same images, for a candidate whose float model is not measured beside it.
    """

    label: str
    path: Path
    origin: Origin = "user"
    weights: str | None = None
    float_map50_95: float | None = None


@dataclass(frozen=True)
class Energy:
    """Energy of one candidate that ran without a pause for `seconds`, one image at a time.

    `gross` is all that the sensor saw; `net` is gross less the idle power, measured for `idle_seconds` before, times
    `seconds`. What the sensor covers is in `measures`. `rate_hz` is how often it really was read; `sensor_period_s` how
    often it has a new value, None where it does not tell. `throttled` holds the signs of being slowed down that were
    seen by watching `throttle_watched`; where nothing could be watched, that is empty.
    """

    sensor: str
    measures: str
    seconds: float
    images: int
    gross_j: float
    net_j: float
    gross_j_per_image: float
    net_j_per_image: float
    mean_w: float
    idle_w: float
    idle_seconds: float
    samples: int
    failed_reads: int
    rate_hz: float
    sensor_period_s: float | None
    long_enough: bool
    throttled: tuple[str, ...] = ()
    throttle_watched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class BenchRow:
    """One candidate, accuracy and speed from the same file.

    Accuracies are shares in 0 to 1; `None` means that the validation images hold no object of that kind.
    `yolo_val_map50_95` is what `yolo val` prints for the same detections; see `bench.yolo_val`. `f1`, `f1_threshold`
    and `calibration_error` say what scores mean; see `bench.confidence`. Latencies are those of one image. A ratio is
    this candidate's time over the first candidate's in the same round: `spread` holds its quartiles, `interval` the
    95 % confidence interval of its median. `map50_95_difference` is to the first candidate on the same images, with its
    95 % interval over resampled images and the share of resamples in which this candidate is worse; see
    `bench.bootstrap`. `map50_95_intervals` holds (label, low, high) of the difference to every candidate before it.
    `error_gains` and `error_counts` are in `ERROR_KINDS` order; see `bench.error_kinds`.
    `corrupted_map50_95` holds (corruption, severity, mAP50-95) and `corruption_drops` (corruption, mean relative drop)
    from `clean_map50_95`, that of the same images as they are; see `bench.robustness`. Percentiles are `None` below 64,
    130 and 662 rounds. Whatever is `None` for another reason has that reason in `notes`, or in `reason` where the row
    is refused. `load_ms` and `first_inference_ms` are those of a fresh process; see `bench.memory`. `streams` is there
    where several at once were asked for; see `bench.streams`. `energy` is `None` where it was not asked for, and
    "unavailable: " with the reason where it could not be measured. `gpu` is what a session on a GPU tells beyond that;
    see `bench.gpu_latency`.
    `roofline` is there where it was asked for; see `bench.roofline`.
    """

    label: str
    path: str
    origin: Origin
    engine: str
    precision: str
    sha256: str
    size_bytes: int
    params: int | None
    gflops: float | None
    map50_95: float
    map50: float
    yolo_val_map50_95: float
    stats: tuple[float | None, ...]
    class_map50_95: tuple[float | None, ...]
    detections: int
    images_not_finite: int = 0
    f1: float | None = None
    f1_threshold: float | None = None
    calibration_error: float | None = None
    map50_95_difference: float | None = None
    map50_95_difference_interval: tuple[float, float] | None = None
    map50_95_difference_below_zero: float | None = None
    map50_95_intervals: tuple[tuple[str, float, float], ...] = ()
    error_gains: tuple[float | None, ...] = ()
    error_counts: tuple[int, ...] = ()
    clean_map50_95: float | None = None
    corrupted_map50_95: tuple[tuple[str, int, float], ...] = ()
    corruption_drops: tuple[tuple[str, float | None], ...] = ()
    latency_ms_mean: float | None = None
    latency_ms_p50: float | None = None
    latency_ms_p90: float | None = None
    latency_ms_p95: float | None = None
    latency_ms_p99: float | None = None
    latency_spread: float | None = None
    latency_ratio_p50: float | None = None
    latency_ratio_spread: tuple[float, float] | None = None
    latency_ratio_interval: tuple[float, float] | None = None
    latency_ms_samples: tuple[float, ...] = ()
    noisy: bool = False
    postprocess_ms_p50: float | None = None
    throughput_images_per_s: float | None = None
    batch_throughput_images_per_s: float | None = None
    peak_memory_mb: float | None = None
    loaded_memory_mb: float | None = None
    load_ms: float | None = None
    first_inference_ms: float | None = None
    streams: Streams | None = None
    energy: Energy | str | None = None
    status: Literal["ok", "refused"] = "ok"
    reason: str = ""
    notes: tuple[str, ...] = ()
    gpu: GpuLatency | None = None
    roofline: Roofline | None = None
    describe: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class BenchResult:
    """Everything that one benchmark measured, and what it was measured with."""

    rows: tuple[BenchRow, ...]
    data: str
    names: tuple[str, ...]
    images: int
    images_available: int
    objects: int
    imgsz: int
    device: str
    settings: dict[str, Any]
    preprocess_ms_p50: float | None
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `report.write_report` takes it."""
        return json.loads(self.to_json())

    def to_json(self) -> str:
        """Return the content of `bench.json`."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write `bench.json`, whole or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        atomic_write(path, self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> BenchResult:
        """Read a `bench.json`.

        Raises:
            DataError: There is none, or it is damaged.
            UsageError: A newer yolo_compress wrote it.
        """
        file = Path(path)
        if not file.is_file():
            raise DataError(f"'{file}' does not exist; measure first with: yolo-compress bench model=... data=...")
        return cls.from_json(file.read_text(encoding="utf-8"), source=str(file))

    @classmethod
    def from_json(cls, text: str, *, source: str = "bench.json") -> BenchResult:
        """Read what `to_json` returned.

        Args:
            text: The JSON.
            source: Where it came from, for messages.

        Raises:
            DataError: It is not the JSON of a benchmark.
            UsageError: A newer yolo_compress wrote it.
        """
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"'{source}' is not JSON ({error}); give the bench.json that a benchmark wrote") from error
        version = tree.get("schema_version") if isinstance(tree, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UsageError(
                f"'{source}' has schema_version {version} and this yolo_compress reads up to {SCHEMA_VERSION}; "
                "upgrade with: pip install -U yolo-compress"
            )
        try:
            rows = tuple(_row(row) for row in tree["rows"])
            return _build(cls, {**tree, "rows": rows})
        except (KeyError, TypeError) as error:
            raise DataError(
                f"'{source}' is not the result of a benchmark ({error}); run the benchmark again"
            ) from error


def finite_or_none(value: float) -> float | None:
    """Return a number, or None for the -1 and NaN that say that there was nothing to average."""
    return None if value < 0 or math.isnan(value) else float(value)


def _row(tree: dict[str, Any]) -> BenchRow:
    energy, gpu = tree.get("energy"), tree.get("gpu")  # files of before they were measured have none
    energy = _build(Energy, energy) if isinstance(energy, dict) else energy
    gpu = None if gpu is None else GpuLatency.from_dict(gpu)
    roof = None if tree.get("roofline") is None else Roofline.from_dict(tree["roofline"])
    streams = None if tree.get("streams") is None else _build(Streams, tree["streams"])
    return _build(BenchRow, {**tree, "energy": energy, "gpu": gpu, "roofline": roof, "streams": streams})


def _build(cls: Any, tree: dict[str, Any]) -> Any:
    return cls(
        **{key: tuple(_tuples(v) for v in value) if isinstance(value, list) else value for key, value in tree.items()}
    )


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
