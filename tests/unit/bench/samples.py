# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Results of benchmarks that never ran, for tests of what reads them."""

from __future__ import annotations

from yolo_compress.bench.result import BenchResult, BenchRow, Energy


def row(label, **changes) -> BenchRow:
    """Return a complete row."""
    given = {
        "label": label,
        "path": f"/models/{label}",
        "origin": "native",
        "engine": "openvino",
        "precision": "fp32",
        "sha256": "ab" * 32,
        "size_bytes": 12 << 20,
        "params": None,
        "gflops": None,
        "map50_95": 0.3712,
        "map50": 0.5234,
        "yolo_val_map50_95": 0.3698,
        "stats": (0.3712, 0.5234, *[0.25] * 9, None),
        "class_map50_95": (0.4, 0.3424, None),
        "detections": 4000,
        "f1": 0.48,
        "f1_threshold": 0.31,
        "calibration_error": 0.06,
        "latency_ms_p50": 20.0,
        "latency_spread": 0.02,
        "latency_ratio_p50": 1.0,
        "latency_ratio_spread": (1.0, 1.0),
        "latency_ratio_interval": (1.0, 1.0),
        "latency_ms_samples": (19.8, 20.0, 20.2),
        "postprocess_ms_p50": 1.5,
        "throughput_images_per_s": 51.0,
        "peak_memory_mb": 210.0,
        "loaded_memory_mb": 180.0,
        "describe": {"precision": "fp32", "threads": 2},
    }
    return BenchRow(**{**given, **changes})


def energy(**changes) -> Energy:
    """Return a complete measurement of energy."""
    given = {
        "sensor": "rails",
        "measures": "VDD_IN, the module input",
        "seconds": 30.02,
        "images": 3002,
        "gross_j": 300.2,
        "net_j": 150.1,
        "gross_j_per_image": 0.1,
        "net_j_per_image": 0.05,
        "mean_w": 10.0,
        "idle_w": 5.0,
        "idle_seconds": 10.0,
        "samples": 600,
        "failed_reads": 0,
        "rate_hz": 19.98,
        "sensor_period_s": 0.036,
        "long_enough": True,
        "throttled": ("over-current event of oc3 counted 2 times",),
        "throttle_watched": ("over-current event",),
        "settings": {"samples_averaged": "16"},
    }
    return Energy(**{**given, **changes})


def refused(label, reason="nothing is detected on any image") -> BenchRow:
    """Return a row that was refused a latency."""
    timed = ("latency_ms_p50", "latency_spread", "latency_ratio_p50", "latency_ratio_spread", "latency_ratio_interval")
    timed += ("postprocess_ms_p50", "throughput_images_per_s", "peak_memory_mb", "loaded_memory_mb")
    nothing = {**dict.fromkeys(timed), "latency_ms_samples": ()}
    return row(label, map50_95=0.0, map50=0.0, detections=0, status="refused", reason=reason, **nothing)


def result(*rows: BenchRow, **changes) -> BenchResult:
    """Return a complete result."""
    given = {
        "rows": rows,
        "data": "/data/coco-mini.yaml",
        "names": ("disc", "box", "bar"),
        "images": 400,
        "images_available": 400,
        "objects": 2976,
        "imgsz": 320,
        "device": "cpu",
        "settings": {"rounds": 100, "warmup": 10, "threads": None, "settle_ms": 5.0, "min_accuracy_share": 0.5}
        | {"accuracy_conf": 0.001, "accuracy_iou": 0.7, "accuracy_max_det": 300, "postprocess_conf": 0.25},
        "preprocess_ms_p50": 2.5,
        "machine": {"cpu_model": "Example CPU", "governor": "unavailable: no such file"},
        "versions": {"ultralytics": "8.4.190"},
        "date": "2026-01-02T03:04:05+00:00",
    }
    return BenchResult(**{**given, **changes})
