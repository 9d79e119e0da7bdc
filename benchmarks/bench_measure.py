# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether `bench` says the same twice, agrees with the runtimes' own instruments, and what it adds to an inference.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.bench_measure [overhead|reference|repeat ...]

`repeat` runs one command line three times: float, native INT8 and ours of two models, on all validation images.
`reference` times a file with OpenVINO's benchmark_app and with ours, each in a process of its own, of which one
goes on while the other is stopped, half a second in turn, which begins when no neighbour slows the cores; and a
session of ONNX Runtime in a bare loop and with ours, in turns within one process, since the same file can be a fifth
slower in the next one. `overhead` takes turns between a session of ours and the runtime's own call with an image, in
the form that copies nothing, and times a session that does nothing. Rows that a call before has measured are kept.
"""

from __future__ import annotations

import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import bench_rows
from benchmarks.record import Experiment, claim
from yolo_compress.bench.latency import no_garbage_collection, time_alternately
from yolo_compress.bench.paired import noise_image
from yolo_compress.bench.quiet import undisturbed_cores
from yolo_compress.bench.run import LEAD_MS, PATIENCE, SETTLE_MS
from yolo_compress.engines import engine_for, get_engine
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_native, export_onnx
from yolo_compress.quantize import quantize_onnx

NAME = "bench_measure"
IMGSZ, CALIBRATION, THREADS = 320, 128, 2
MODELS, FORMS = ("yolov8n", "yolov8s"), ("fp32", "native_int8", "int8")
REPEATS, ROUNDS = 3, 130
TURNS, SINGLE_ROUNDS, WARMUP = 11, 60, 6
APP_S, SLICE_S, POLL_S = 16, 0.5, 0.01  # about as long as our rounds, half of that time stopped
READY = "ready"
SHORT_TURNS, SHORT_ROUNDS = 40, 10
REFERENCES = (("openvino", "yolov8n", "fp32"), ("openvino", "yolov8n", "int8"), ("onnxruntime", "yolov8n", "fp32"))
REPEATABILITY, GAP, OVERHEAD = 0.03, 0.05, 2.0
PARTS = ("overhead", "reference", "repeat")


def main(parts: Sequence[str]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    if unknown := sorted(set(parts).difference(PARTS)):
        sys.exit(f"'{unknown[0]}' is nothing to measure; give {', '.join(PARTS)}")
    made = Experiment(NAME, imgsz=IMGSZ, calibration_images=CALIBRATION, threads=THREADS)
    with tempfile.TemporaryDirectory() as place:
        files = _Files(made, Path(place))
        for runtime, model, form in REFERENCES if "overhead" in parts else ():
            setting = {"part": "overhead", "runtime": runtime, "model": model, "form": form}
            if not made.has(**setting):
                path = str(files.of(runtime, model, form))
                made.add({**setting, **json.loads(_alone("overhead", path).splitlines()[-1])})
        for runtime, model, form in REFERENCES if "reference" in parts else ():
            setting = {"part": "reference", "runtime": runtime, "model": model, "form": form}
            if not made.has(**setting):
                path = files.of(runtime, model, form)
                found = (
                    _beside_app(path)
                    if runtime == "openvino"
                    else json.loads(_alone("loop", str(path)).splitlines()[-1])
                )
                made.add({**setting, **found})
        for turn in range(REPEATS) if "repeat" in parts else ():
            if not made.has(part="repeat", turn=turn):
                for row in _bench(files, Path(place) / f"bench-{turn}"):
                    made.add({"part": "repeat", "turn": turn, **row})
    return made.finish(_claims(made.rows))


class _Files:
    """Artifacts, made when they are asked for."""

    def __init__(self, made: Experiment, place: Path) -> None:
        self.made, self.place = made, place

    def of(self, runtime: str, model: str, form: str) -> Path:
        """Return the file or folder that a runtime loads; the native INT8 form is for OpenVINO only."""
        weights = self.made.folder / "weights" / f"{model}.pt"
        graph = self._once(f"{model}.onnx", lambda out: export_onnx(weights, out, imgsz=IMGSZ))
        if form == "native_int8":
            given: dict[str, Any] = {"format": "openvino", "quantize": 8, "imgsz": IMGSZ, "data": self.made.data.path}
            return self._once(f"{model}_native_openvino_model", lambda out: export_native(weights, out, **given))
        if form == "int8":
            images = sample(self.made.data.train, CALIBRATION, seed=0)
            graph = self._once(
                f"{model}_{runtime}_int8.onnx",
                lambda out: quantize_onnx(graph, out, images=images, imgsz=IMGSZ, target=runtime).path,
            )
        if runtime == "onnxruntime":
            return graph
        built = self.place / f"{graph.stem}_openvino_model"
        if not built.exists():
            get_engine("openvino").build(graph, self.place, precision=form, imgsz=IMGSZ)
        return built

    def _once(self, name: str, make: Callable[[Path], Path]) -> Path:
        out = self.place / name
        return out if out.exists() else make(out)


def _call(*words: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{NAME}", *words]


def _alone(*words: str) -> str:
    return subprocess.run(_call(*words), check=True, stdout=subprocess.PIPE, text=True).stdout


def _beside_app(path: Path) -> dict[str, list[float]]:
    """Return ms of one inference per turn, by ours and by benchmark_app, which goes first in every other turn."""
    found: dict[str, list[float]] = {"ours_ms": [], "reference_ms": []}
    calls = {
        "ours_ms": (_call("ours", str(path)), READY),
        "reference_ms": (_benchmark_app(path), "Measuring performance"),
    }
    with undisturbed_cores(PATIENCE, THREADS) as gate:
        for turn in range(TURNS):
            told = in_slices(calls if turn % 2 else dict(reversed(calls.items())), gate)
            found["ours_ms"].append(float(told["ours_ms"].split()[-1]))
            median = re.search(r"Median:\s+([\d.]+) ms", told["reference_ms"])
            assert median is not None, told["reference_ms"]
            found["reference_ms"].append(float(median[1]))
    return found


def in_slices(calls: Mapping[str, tuple[Sequence[str], str]], gate: Callable[[], bool] | None = None) -> dict[str, str]:
    """Run commands until each is ready, then one at a time, half a second in turn, until all have ended.

    A neighbour comes and goes within seconds: commands one after the other would find different machines. The one
    inference that a slice cuts in two does not move a median.

    Args:
        calls: By name, a command and what it prints when it begins to measure.
        gate: Waits before each slice until the cores are undisturbed, while all are stopped.

    Returns:
        What each printed.

    Raises:
        CalledProcessError: One failed.
        ValueError: One ended and never said that it was ready.
    """
    with ExitStack() as stack:
        running: dict[str, subprocess.Popen[bytes]] = {}
        files: dict[str, Path] = {}
        for name, (call, ready) in calls.items():
            file = stack.enter_context(tempfile.NamedTemporaryFile())  # a pipe that nobody reads holds up who fills it
            files[name] = Path(file.name)
            running[name] = process = stack.enter_context(subprocess.Popen(call, stdout=file))
            stack.callback(process.kill)
            while process.poll() is None and ready not in files[name].read_text():
                time.sleep(POLL_S)
            process.send_signal(signal.SIGSTOP)
        _take_turns(list(running.values()), gate)
        printed = {name: file.read_text() for name, file in files.items()}
    for name, (call, ready) in calls.items():
        if running[name].returncode:
            raise subprocess.CalledProcessError(running[name].returncode, call, printed[name])
        if ready not in printed[name]:
            raise ValueError(f"'{' '.join(call)}' never printed '{ready}', so its measuring was not found")
    return printed


def _take_turns(processes: Sequence[subprocess.Popen[bytes]], gate: Callable[[], bool] | None) -> None:
    """Let stopped processes go on, one at a time, until all have ended."""
    while any(process.poll() is None for process in processes):
        for process in processes:
            if process.poll() is None:
                if gate is not None:
                    gate()
                process.send_signal(signal.SIGCONT)
                try:
                    process.wait(SLICE_S)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGSTOP)


def beside_loop(path: Path) -> dict[str, list[float]]:
    """Return ms of one inference per turn, by ours and by a bare loop over the same session of ONNX Runtime.

    Turns are short, and the loop runs before and after ours: the machine changes its pace within seconds.
    """
    session, image = engine_for(path).load(path, threads=THREADS), noise_image(IMGSZ)
    found: dict[str, list[float]] = {"ours_ms": [], "reference_ms": []}
    for _ in range(SHORT_TURNS):
        around = []
        for who in ("reference", "ours", "reference"):
            if who == "ours":
                seconds = float(np.median(_timed([session.infer], image, rounds=SHORT_ROUNDS, warmup=1)[:, 0]))
                found["ours_ms"].append(1e3 * seconds)
            else:
                around.append(_looped(lambda: session.session.run(None, {session.input: image})))
        found["reference_ms"].append(1e3 * statistics.mean(around))
    return found


def _benchmark_app(path: Path) -> list[str]:
    """Return the command with which OpenVINO's own tool times one stream of single inferences."""
    tool, model = Path(sys.executable).with_name("benchmark_app"), next(path.glob("*.xml"))
    options = f"-d CPU -hint none -nstreams 1 -nthreads {THREADS} -infer_precision f32 -api sync -t {APP_S}"
    return [str(tool), "-m", str(model), *options.split()]


def ours(path: Path) -> float:
    """Say when a file is loaded, and return its median by the protocol of `bench`, in ms."""
    session, image = engine_for(path).load(path, threads=THREADS), noise_image(IMGSZ)
    print(READY, flush=True)
    with undisturbed_cores(PATIENCE, THREADS) as gate:
        return 1e3 * float(np.median(_timed([session.infer], image, gate=gate)[:, 0]))


def _looped(call: Callable[[], Any]) -> float:
    """Return the median of calls one after the other, in seconds; the first one is not counted."""
    samples = []
    with no_garbage_collection():
        for _ in range(1 + SHORT_ROUNDS):
            begin = time.perf_counter()
            call()
            samples.append(time.perf_counter() - begin)
    return statistics.median(samples[1:])


def overhead(path: Path) -> dict[str, float]:
    """Return what a session costs beyond the runtime's own call, paired, and what timing costs where nothing is run."""
    session, image = engine_for(path).load(path, threads=THREADS), noise_image(IMGSZ)
    below = session.compiled.create_infer_request().infer if path.is_dir() else session.session.run
    call = (
        (lambda x: below([x], share_inputs=True, share_outputs=True))
        if path.is_dir()
        else (lambda x: below(None, {session.input: x}))
    )
    wrapped, bare = _timed([session.infer, call], image).T
    nothing = _timed([lambda x: x], image)[:, 0]
    adds = float(np.median(wrapped - bare)) + float(np.median(nothing))
    return {"inference_ms": 1e3 * float(np.median(bare)), "adds_us": 1e6 * adds,
            "timer_us": 1e6 * float(np.median(nothing))}  # fmt: skip


def _timed(
    infer: Sequence[Callable[[np.ndarray], Any]],
    image: np.ndarray,
    *,
    rounds: int = SINGLE_ROUNDS,
    warmup: int = WARMUP,
    gate: Callable[[], bool] | None = None,
) -> np.ndarray:
    given: dict[str, Any] = {"finish": lambda raw: None, "rounds": rounds, "warmup": warmup, "gate": gate}
    given |= {"settle_ms": SETTLE_MS, "lead_s": LEAD_MS / 1000}
    return time_alternately(infer, lambda index: image, **given).inference


def _bench(files: _Files, out: Path) -> list[dict[str, Any]]:
    """Run the command line; return each candidate's accuracy, latency and ratio."""
    models = [files.of("openvino", model, form) for model in MODELS for form in FORMS]
    begin = time.perf_counter()
    rows = bench_rows(models, files.made.data.path, out, imgsz=IMGSZ, rounds=ROUNDS, threads=THREADS)
    seconds = time.perf_counter() - begin
    settings = json.loads((out / "bench.json").read_text(encoding="utf-8"))["settings"]
    told = {key: settings[key] for key in ("rounds", "rounds_disturbed", "waited_s")}
    kept = ("label", "latency_ms_p50", "latency_ratio_p50", "latency_ratio_interval", "noisy")
    return [
        {
            **{key: row[key] for key in kept},
            "map50_95_points": 100 * row["map50_95"],
            "command_seconds": seconds,
            **told,
        }
        for row in rows
    ]


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the rows at hand can show."""
    claims = []
    added = [row for row in rows if row["part"] == "overhead"]
    if len(added) == len(REFERENCES):
        share = {_named(row): row["adds_us"] / (10 * row["inference_ms"]) for row in added}
        worst = max(added, key=lambda row: row["adds_us"] / row["inference_ms"])
        told = "; ".join(f"{_named(r)} {r['adds_us']:.0f} us to {r['inference_ms']:.2f} ms" for r in added)
        claims.append(
            claim(
                "measure.overhead",
                f"what bench adds to one inference at {IMGSZ} px, paired, worst of: {told}",
                share[_named(worst)],
                "percent of the inference",
                f"<= {OVERHEAD:g}",
                holds=share[_named(worst)] <= OVERHEAD,
            )
        )
    beside = [row for row in rows if row["part"] == "reference"]
    if len(beside) == len(REFERENCES):
        ratios = {_named(row): _median_ratio(row["ours_ms"], row["reference_ms"]) for row in beside}
        gap = max(abs(ratio - 1) for ratio in ratios.values())
        told = "; ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items())
        claims.append(
            claim(
                "measure.reference_gap",
                f"median latency of bench over that of OpenVINO's benchmark_app, or of a bare loop of ONNX Runtime, on "
                f"the same file with {THREADS} threads at {IMGSZ} px, median of turns: {told}",
                gap,
                "of the reference",
                f"<= {GAP}",
                holds=gap <= GAP,
            )
        )
    repeated: dict[str, list[float]] = {}
    for row in rows:
        if row["part"] == "repeat":
            repeated.setdefault(row["label"], []).append(row["latency_ratio_p50"])
    if repeated and all(len(ratios) == REPEATS for ratios in repeated.values()):
        apart = {label: (max(r) - min(r)) / statistics.median(r) for label, r in repeated.items()}
        told = "; ".join(f"{label} {', '.join(f'{r:.3f}' for r in ratios)}" for label, ratios in repeated.items())
        claims.append(
            claim(
                "measure.repeatability",
                f"farthest that paired latency ratios of {REPEATS} runs of the same command lie apart, at {IMGSZ} px: "
                f"{told}",
                max(apart.values()),
                "of the ratio",
                f"<= {REPEATABILITY}",
                holds=max(apart.values()) <= REPEATABILITY,
            )
        )
    return claims


def _median_ratio(ours: Sequence[float], reference: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, reference, strict=True))


def _named(row: dict[str, Any]) -> str:
    return f"{row['model']} {row['form']} {row['runtime']}"


if __name__ == "__main__":
    words = sys.argv[1:]
    alone = {"ours": ours, "loop": beside_loop, "overhead": overhead}
    if len(words) == 2 and words[0] in alone and Path(words[1]).exists():
        print(json.dumps(alone[words[0]](Path(words[1]))))
    else:
        sys.exit(main(words or PARTS))
