# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""INT8 without training: accuracy by target, range and repair, and time beside the native INT8 exports.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.quant_ptq [accuracy|latency ...] [openvino|onnxruntime|tensorrt ...]

Everything calibrates on the same images of the training set. Accuracy of the `tensorrt` form is that of ONNX Runtime
computing the quantizers as they are written. For the stand-ins, whose weights were rebuilt from INT8, only the
difference to their own float model is looked at. Rows that a call before has measured are kept; times of one processor
say nothing of another one's, so each has its own, and a claim on them is about the worst.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Experiment, claim, this_cpu
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.bench.machine import describe_machine
from yolo_compress.bench.result import Candidate
from yolo_compress.bench.run import run_bench
from yolo_compress.engines import engine_for, get_engine
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_native, export_onnx
from yolo_compress.quantize import quantize_onnx

NAME = "quant_ptq"
IMGSZ, IMAGES, ROUNDS = 640, 256, 130
RUNTIMES = ("openvino", "onnxruntime", "tensorrt")
GENUINE = ("yolov8n", "yolov8s")
STAND_INS = ("yolo11n-int8dq", "yolo26n-int8dq")
PLAIN: dict[str, Any] = {"range": "mse"}
REPAIRED: dict[str, Any] = {"range": "mse", "bias_correction": True}
BOTH: dict[str, Any] = {**REPAIRED, "rounding": "adaround"}
FOUR_BITS: dict[str, Any] = {**BOTH, "weight_bits": 4}
WAYS: dict[str, dict[str, Any]] = {
    "minmax": {"range": "minmax"},
    "entropy": {"range": "entropy"},
    "percentile": {"range": "percentile"},
    "mse": PLAIN,
    "auto": {"range": "auto"},
    "mse, bias": REPAIRED,
    "mse, bias, adaround": BOTH,
    "w4": {"range": "mse", "weight_bits": 4},
    "w4, bias, adaround": FOUR_BITS,
    "w4, bias, adaround, blocks of 32": {**FOUR_BITS, "weight_group": 32},
    "w4, bias, adaround, blocks of 32, foreground": {**FOUR_BITS, "weight_group": 32, "foreground": 0.5},
    "w4, bias, adaround, blocks of 32, 128 images": {**FOUR_BITS, "weight_group": 32, "repair_images": 128},
    "w4, auto, bias, adaround, blocks of 16, 128 images": {
        **FOUR_BITS,
        "range": "auto",
        "weight_group": 16,
        "repair_images": 128,
    },
    "w4, percentile, bias, adaround, blocks of 32": {**FOUR_BITS, "weight_group": 32, "range": "percentile"},
}
DEFAULT = (
    "mse"  # of WAYS, what `quantize` does when nothing is said; claims are about it, but for those with a way below
)
FOUR_BIT_WAY = "w4, bias, adaround, blocks of 32"  # named beforehand: the best of several would flatter itself
SIGNED_WAY = "auto"  # of the symmetric form, whose steps are twice as coarse; named beforehand as well
EIGHT_BITS = tuple(way for way in WAYS if not way.startswith("w4"))
NO_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
TARGETS = {
    "quant.openvino_drop": 0.2,
    "quant.openvino_latency": 0.97,
    "quant.ort_drop": 0.4,
    "quant.ort_speedup": 1.5,
    "quant.trt_scheme_drop": 0.4,
    "quant.w4a8_drop": 1.5,
}


def main(words: list[str]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ, calibration_images=IMAGES)
    parts = {"accuracy": (_settings, _accuracy), "latency": (_pairs, _latency)}
    chosen = [word for word in words if word in parts] or list(parts)
    targets = [word for word in words if word not in parts] or list(RUNTIMES)
    if unknown := sorted(set(targets).difference(RUNTIMES)):
        sys.exit(f"'{unknown[0]}' is nothing to measure; give {', '.join((*parts, *RUNTIMES))}")
    with tempfile.TemporaryDirectory() as place:
        files = _Files(made, Path(place))
        for settings, measure in (parts[part] for part in chosen):
            for setting in settings():
                if setting["target"] in targets and not made.has(**setting):
                    made.add({**setting, **measure(files, setting)})
    return made.finish(_claims(made.rows))


def _settings() -> list[dict[str, Any]]:
    """Return model, target and way of each row: `float` and `native` are what ours are compared with."""
    rows = [(model, "onnxruntime", "float") for model in (*GENUINE, *STAND_INS)]
    rows += [(model, "openvino", way) for model in GENUINE for way in ("native", DEFAULT)]
    rows += [("yolov8n", "onnxruntime", way) for way in ("native", DEFAULT, "mse, bias")]
    rows += [(model, "tensorrt", DEFAULT) for model in (*GENUINE, *STAND_INS)]
    rows += [(model, "tensorrt", way) for model in GENUINE for way in EIGHT_BITS if way != DEFAULT]
    rows += [("yolov8s", "tensorrt", way) for way in WAYS if way.startswith("w4")]
    rows += [(model, "tensorrt", way) for model in STAND_INS for way in ("minmax", "entropy", "mse, bias")]
    rows += [(model, "openvino", "mse, bias") for model in GENUINE]
    rows += [(model, "tensorrt", SIGNED_WAY) for model in STAND_INS]
    rows.sort(key=lambda row: (row[2] not in ("float", SIGNED_WAY), "adaround" in row[2]))  # the slow ones last
    return [{"model": model, "target": target, "way": way} for model, target, way in rows]


def _pairs() -> list[dict[str, Any]]:
    """Return what is timed against the native INT8 export, with the matrix unit where there is one, and without."""
    found = [("yolov8n", "openvino"), ("yolov8s", "openvino"), ("yolov8n", "onnxruntime")]
    units = (True, False) if _has_amx() else (False,)
    shared = {"way": "latency", "cpu": this_cpu()}
    return [{"model": model, "target": target, "amx": amx, **shared} for amx in units for model, target in found]


def _has_amx() -> bool:
    return "amx_int8" in describe_machine()["cpu_flags"]


class _Files:
    """Artifacts, made when they are asked for."""

    def __init__(self, made: Experiment, place: Path) -> None:
        self.made, self.place = made, place
        self.images = sample(made.data.train, IMAGES, seed=0)

    def floating(self, model: str) -> Path:
        return self._once(f"{model}.onnx", lambda out: export_onnx(self._weights(model), out, imgsz=IMGSZ))

    def native(self, model: str, target: str) -> Path:
        given: dict[str, Any] = {"quantize": 8, "imgsz": IMGSZ, "data": self.made.data.path}
        if target == "openvino":
            name, given["format"] = f"{model}_openvino_model", "openvino"
        else:
            name, given["format"] = f"{model}_native.onnx", "onnx"
        return self._once(name, lambda out: export_native(self._weights(model), out, **given))

    def ours(self, model: str, target: str, way: str) -> tuple[Path, float]:
        """Return the file that the target runs, and the seconds that quantizing took."""
        out = self.place / f"{model}-{target}-{way.replace(', ', '-').replace(' ', '')}.onnx"
        begin = time.perf_counter()
        if not out.is_file():
            quantize_onnx(
                self.floating(model), out, images=self.images, imgsz=IMGSZ, target=target, **WAYS[way], progress=print
            )
        seconds = time.perf_counter() - begin
        if target != "openvino":
            return out, seconds
        folder = self.place / out.stem
        return get_engine("openvino").build(out, folder, precision="int8", imgsz=IMGSZ).path, seconds

    def _weights(self, model: str) -> Path:
        return self.made.folder / "weights" / f"{model}.pt"

    def _once(self, name: str, make: Callable[[Path], Path]) -> Path:
        out = self.place / name
        return out if out.exists() else make(out)


class AsWritten:
    """ONNX Runtime computing quantizers as float operations, which no CPU's integer units can change."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return the raw output of images."""
        return self.session.run(None, {"images": images})[0]


def _accuracy(files: _Files, setting: dict[str, Any]) -> dict[str, Any]:
    model, target, way = setting["model"], setting["target"], setting["way"]
    found: dict[str, Any] = {}
    if way == "float":
        path = files.floating(model)
    elif way == "native":
        path = files.native(model, target)
    else:
        path, found["seconds"] = files.ours(model, target, way)
    session = AsWritten(path) if target == "tensorrt" else engine_for(path).load(path)
    data = files.made.data
    truth, seen = detect([session], data.val, imgsz=IMGSZ, progress=print)
    accuracy = evaluate(truth, seen[0], classes=len(data.names))
    return {**found, "map50_95_points": 100 * accuracy.map50_95}


def _latency(files: _Files, setting: dict[str, Any]) -> dict[str, Any]:
    model, target = setting["model"], setting["target"]
    native, ours = files.native(model, target), files.ours(model, target, DEFAULT)[0]
    if not setting["amx"] and _has_amx():  # read when the runtime is loaded, so it takes a process of its own
        call = [sys.executable, "-m", f"benchmarks.{NAME}", "pair", str(native), str(ours)]
        answer = subprocess.run(
            call, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **NO_AMX}
        ).stdout
        return dict(zip(("ratio", "low", "high"), map(float, answer.splitlines()[-1].split()), strict=True))
    return dict(zip(("ratio", "low", "high"), _ratio(files.made, native, ours), strict=True))


def _ratio(made: Experiment, native: Path, ours: Path) -> tuple[float, float, float]:
    """Return the median of our time over the native one's in the same round, and its confidence interval."""
    both = [Candidate("native", native, "native"), Candidate("ours", ours, "ours")]
    row = run_bench(both, made.data, imgsz=IMGSZ, rounds=ROUNDS, images=16, memory=False, min_accuracy_share=0).rows[1]
    return row.latency_ratio_p50, *row.latency_ratio_interval


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the rows at hand can show."""
    points = {(r["model"], r["target"], r["way"]): r["map50_95_points"] for r in rows if "map50_95_points" in r}

    def drop(model: str, target: str, way: str = DEFAULT) -> float:
        return points[model, "onnxruntime", "float"] - points[model, target, way]

    ratios = {(r["model"], r["target"], r["cpu"], r["amx"]): r["ratio"] for r in rows if "ratio" in r}
    wanted: list[tuple[str, str, Callable[[], float], bool, str]] = [
        (
            "quant.openvino_drop",
            "mAP",
            lambda: max(drop(m, "openvino") for m in GENUINE),
            False,
            _told(points, "openvino"),
        ),
        (
            "quant.openvino_latency",
            "of the native time",
            lambda: _slowest(ratios, "openvino", GENUINE),
            False,
            _timed(ratios, "openvino"),
        ),
        ("quant.ort_drop", "mAP", lambda: drop("yolov8n", "onnxruntime"), False, _told(points, "onnxruntime")),
        (
            "quant.ort_speedup",
            "x native",
            lambda: 1 / _slowest(ratios, "onnxruntime", ("yolov8n",)),
            True,
            _timed(ratios, "onnxruntime"),
        ),
        (
            "quant.trt_scheme_drop",
            "mAP",
            lambda: max(drop(m, "tensorrt", SIGNED_WAY) for m in (*GENUINE, *STAND_INS)),
            False,
            _told(points, "tensorrt", SIGNED_WAY),
        ),
        (
            "quant.w4a8_drop",
            "mAP",
            lambda: drop("yolov8s", "tensorrt", FOUR_BIT_WAY),
            False,
            _told(points, "tensorrt", FOUR_BIT_WAY),
        ),
    ]
    claims = []
    for name, unit, value, at_least, statement in wanted:
        try:
            found = value()
        except KeyError:  # a row that it speaks of is not measured yet
            continue
        limit = TARGETS[name]
        holds = found >= limit if at_least else found <= limit
        claims.append(claim(name, statement, found, unit, f"{'>=' if at_least else '<='} {limit}", holds=holds))
    return claims


def _slowest(ratios: dict[tuple[str, str, str, bool], float], target: str, models: tuple[str, ...]) -> float:
    """Return the worst ratio of a target; each of the models counts, on each processor, with and without AMX."""
    units = {(cpu, amx) for _, where, cpu, amx in ratios if where == target}
    found = [ratios[(model, target, *unit)] for model in models for unit in units]
    if not found:
        raise KeyError(target)  # not timed yet
    return max(found)


def _told(points: dict[tuple[str, str, str], float], target: str, claimed: str = DEFAULT) -> str:
    parts = [
        f"{model} {way} {found:.2f} of {points[model, 'onnxruntime', 'float']:.2f}"
        for (model, where, way), found in points.items()
        if where == target and way != "float"
    ]
    return f"mAP50-95 at {IMGSZ} px, target={target}, claimed of '{claimed}': " + "; ".join(parts)


def _timed(ratios: dict[tuple[str, str, str, bool], float], target: str) -> str:
    parts = [
        f"{model} {ratio:.3f} on {cpu.partition(':')[0]} {'with' if amx else 'without'} AMX"
        for (model, where, cpu, amx), ratio in ratios.items()
        if where == target
    ]
    return f"time of target={target}, default {DEFAULT}, over that of the native INT8 export, paired: " + "; ".join(
        parts
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pair"]:
        print(*_ratio(Experiment(NAME), Path(sys.argv[2]), Path(sys.argv[3])))
    else:
        sys.exit(main(sys.argv[1:]))
