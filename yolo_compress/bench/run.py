# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""One benchmark: load every candidate, measure accuracy, refuse what is broken, then time what is left alternately."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from yolo_compress.bench import accuracy, gpu_latency, latency, machine
from yolo_compress.bench.bootstrap import RESAMPLES, SEED
from yolo_compress.bench.energy import POWER_SECONDS, measure_energies
from yolo_compress.bench.loads import LOADS, Loaded, time_over_loads
from yolo_compress.bench.memory import measure_memory
from yolo_compress.bench.peaks import Peaks
from yolo_compress.bench.quiet import undisturbed_cores
from yolo_compress.bench.result import BenchResult, BenchRow, Candidate
from yolo_compress.bench.robustness import Conditions, under_corruption
from yolo_compress.bench.roofline import roofline
from yolo_compress.bench.rows import accuracy_rows
from yolo_compress.bench.streams import measure_streams
from yolo_compress.bench.verdict import check_classes, refusals
from yolo_compress.engines import engine_for
from yolo_compress.engines.protocol import Session
from yolo_compress.engines.timed import TimedSession
from yolo_compress.errors import CompressError, DataError, EngineError, UsageError
from yolo_compress.host.data import DataSpec, letterbox, read_image
from yolo_compress.host.detect import postprocess

TIMING_IMAGES = 32  # decoded validation images that the timed rounds go through in turn
SETTLE_MS = 5.0
LEAD_MS = 100.0
MIN_ACCURACY_SHARE = 0.5
MARGIN = 0.01  # that ratios of latencies are to be known within
PATIENCE = 1.0
DISTURBED_SHARE = 0.5  # of the rounds, from which rows say so


def run_bench(
    candidates: Sequence[Candidate],
    data: DataSpec,
    *,
    imgsz: int,
    device: str = "cpu",
    rounds: int = 50,
    warmup: int = 5,
    margin: float = MARGIN,
    patience: float = PATIENCE,
    threads: int | None = None,
    images: int | None = None,
    batch: int | None = None,
    streams: int | None = None,
    settle_ms: float = SETTLE_MS,
    lead_ms: float = LEAD_MS,
    min_accuracy_share: float = MIN_ACCURACY_SHARE,
    memory: bool = True,
    robustness: Conditions | None = None,
    power: bool = False,
    power_seconds: float = POWER_SECONDS,
    witness: Callable[[Sequence[Path], Sequence[accuracy.Detections]], None] | None = None,
    peaks: Peaks | None = None,
    progress: Callable[[str], None] = print,
) -> BenchResult:
    """Measure accuracy and speed of every candidate from the same file and session.

    Args:
        candidates: The first is what latency ratios and differences of accuracy refer to.
        data: Data set whose validation images are used.
        imgsz: Side of the square input in pixels.
        device: Where the engines run.
        rounds: Timed rounds, rounded up to a multiple of four; in each one every candidate runs once. They are spread
            over four loads of all candidates.
        warmup: Rounds before them that do not count.
        margin: Rounds are added, up to four times as many in all, until each ratio of latencies is known within this
            share; 0 adds none.
        patience: Most seconds to wait for undisturbed cores for each second that measuring latency takes; 0 does not
            look. On processors only.
        threads: Threads of each runtime; its own default when not given.
        images: Validation images to use, evenly spaced over all of them; all when not given.
        batch: Batch size of a second throughput measurement; not done when not given.
        streams: Streams of a third one, each with a session of its own; not done when not given.
        settle_ms: Least rest before each turn; it lasts until the process is idle.
        lead_ms: How long a candidate runs before its timed inference: at least once, and at most twenty times.
        min_accuracy_share: A candidate below this share of the best float one of the same weights is refused a latency.
        memory: Measure peak memory and how candidates start, in one process per candidate.
        robustness: Corruptions to measure accuracy under as well; not done when not given.
        power: Measure energy as well, one candidate after the other.
        power_seconds: How long each candidate runs for that.
        witness: Takes the images and what each candidate found on them, before anything is timed.
        peaks: Of this machine: the layers of each candidate are held to them as well; not done when not given.
        progress: Takes a line now and then.

    Raises:
        UsageError: No candidates, two of one label, a setting out of range, or candidates whose classes differ.
        DataError: No validation images, none with an object, or one that cannot be read.
        EngineError: A runtime refused a candidate, or the candidate was built for another size.
    """
    _check(
        candidates, rounds=rounds, warmup=warmup, images=images, batch=batch, streams=streams, share=min_accuracy_share
    )
    if not margin >= 0:
        raise UsageError(f"margin={margin} is no share of a ratio; give 0.01, or 0 to add no rounds")
    if not patience >= 0:
        raise UsageError(f"patience={patience} is no share of the time; give 1, or 0 not to wait for quiet")
    if power and not power_seconds > 0:
        raise UsageError(f"power_seconds={power_seconds} is no length of time; give 30 or more")
    chosen = evenly(data.val, images)
    if not chosen:
        raise DataError(
            f"data '{data.path}' has no val images, and accuracy cannot be measured without; add val: FOLDER"
        )
    stolen = machine.steal_seconds()
    record = machine.describe_machine()
    with ExitStack() as stack:
        progress(f"bench: loading {', '.join(candidate.label for candidate in candidates)}")
        engines = [engine_for(candidate.path) for candidate in candidates]
        loaded = Loaded(
            [
                partial(engine.load, candidate.path, device=device, threads=threads)
                for engine, candidate in zip(engines, candidates, strict=True)
            ]
        )
        stack.callback(loaded.close)
        for candidate, session in zip(candidates, loaded.sessions, strict=True):
            _try_out(candidate, session, imgsz)
        names = [engine.name for engine in engines]
        notes = check_classes(candidates, names, data)
        rows, objects = accuracy_rows(
            candidates,
            list(zip(names, loaded.sessions, strict=True)),
            data,
            chosen,
            imgsz=imgsz,
            witness=witness,
            progress=progress,
        )
        rows = refusals(rows, candidates, min_accuracy_share)
        for row in rows:
            progress(
                f"bench: {row.label}: mAP50-95 {100 * row.map50_95:.2f}" + (f", {row.reason}" if row.reason else "")
            )
        if robustness is not None:
            rows = under_corruption(
                rows,
                loaded.sessions,
                evenly(chosen, robustness.images),
                robustness,
                classes=len(data.names),
                imgsz=imgsz,
                progress=progress,
            )
        rows, preprocess_ms, told = _speeds(
            rows,
            loaded,
            chosen,
            imgsz=imgsz,
            rounds=rounds,
            warmup=warmup,
            margin=margin,
            patience=patience if device == "cpu" else 0.0,
            threads=threads,
            batch=batch,
            settle_ms=settle_ms,
            lead_ms=lead_ms,
            progress=progress,
        )
        if power:  # after the timed rounds, which the reading of a sensor would disturb
            pictures = [read_image(path) for path in evenly(chosen, TIMING_IMAGES)]
            rows, power_notes = measure_energies(
                rows,
                [session.infer for session in loaded.sessions],
                [accuracy.to_input(letterbox(picture, imgsz)[0]) for picture in pictures],
                device=device,
                seconds=power_seconds,
                progress=progress,
            )
            notes = (*notes, *power_notes)
    if memory:  # after the sessions are closed: what they hold must not compete with the measured processes
        rows = [_with_memory(row, imgsz=imgsz, device=device, threads=threads, progress=progress) for row in rows]
    if streams is not None:
        rows = [_with_streams(row, streams, progress, imgsz=imgsz, device=device, threads=threads) for row in rows]
    if peaks is not None:
        rows = [_with_roofline(row, peaks, imgsz=imgsz, threads=threads, progress=progress) for row in rows]
    stolen_now = machine.steal_seconds()
    record["steal_s"] = (
        stolen_now - stolen if stolen is not None and stolen_now is not None else "unavailable: no /proc/stat to read"
    )
    return BenchResult(
        rows=tuple(rows),
        data=str(data.path),
        names=data.names,
        images=len(chosen),
        images_available=len(data.val),
        objects=objects,
        imgsz=imgsz,
        device=device,
        settings={
            **told,
            "rounds_asked": rounds,
            "warmup": warmup,
            "margin": margin,
            "patience": patience,
            "threads": threads,
            "batch": batch,
            "streams": streams,
            "settle_ms": settle_ms,
            "lead_ms": lead_ms,
            "min_accuracy_share": min_accuracy_share,
            "accuracy_conf": accuracy.CONF,
            "accuracy_iou": accuracy.IOU,
            "accuracy_max_det": accuracy.MAX_DET,
            "postprocess_conf": accuracy.DEPLOYED_CONF,
            "noisy_spread": latency.NOISY_SPREAD,
            "bootstrap_resamples": RESAMPLES,
            "bootstrap_seed": SEED,
            **({} if robustness is None else {"robustness_images": len(evenly(chosen, robustness.images))}),
            **({"power_seconds": power_seconds} if power else {}),
        },
        preprocess_ms_p50=preprocess_ms,
        machine=record,
        versions=machine.package_versions(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        notes=notes,
    )


def evenly(images: Sequence[Path], limit: int | None) -> tuple[Path, ...]:
    """Return up to `limit` images, evenly spaced: the first ones of a sorted folder may all be of one kind."""
    if limit is None or limit >= len(images):
        return tuple(images)
    return tuple(images[index * len(images) // limit] for index in range(limit))


def _try_out(candidate: Candidate, session: Session, imgsz: int) -> None:
    """Run once, so that an engine of another size is told at once and not after the others have worked for minutes."""
    try:
        session.infer(np.zeros((1, 3, imgsz, imgsz), np.float32))
    except Exception as error:  # runtimes raise classes of their own
        reason = " ".join(str(error).split())[:300]
        raise EngineError(
            f"'{candidate.path}' does not take an image of {imgsz} x {imgsz} ({reason}); give the imgsz= of its build"
        ) from error


def _speeds(
    rows: list[BenchRow],
    loaded: Loaded,
    images: Sequence[Path],
    *,
    imgsz: int,
    rounds: int,
    warmup: int,
    margin: float,
    patience: float,
    threads: int | None,
    batch: int | None,
    settle_ms: float,
    lead_ms: float,
    progress: Callable[[str], None],
) -> tuple[list[BenchRow], float | None, dict[str, Any]]:
    """Time the rows that are not refused, the others come back as they are; return what is told of the rounds too."""
    kept = [index for index, row in enumerate(rows) if row.status == "ok"]
    if not kept:
        return rows, None, {"rounds": 0, "loads": 0}
    pictures = [read_image(path) for path in evenly(images, TIMING_IMAGES)]
    progress(f"bench: latency of {len(kept)} candidates in {rounds} rounds")
    with undisturbed_cores(patience, threads) as gate:
        timings = time_over_loads(
            loaded,
            kept,
            lambda index: accuracy.to_input(letterbox(pictures[index % len(pictures)], imgsz)[0]),
            finish=partial(postprocess, conf=accuracy.DEPLOYED_CONF, iou=accuracy.IOU, max_det=accuracy.MAX_DET),
            rounds=rounds,
            warmup=warmup,
            margin=margin,
            settle_ms=settle_ms,
            lead_s=lead_ms / 1000,
            gate=gate,
            progress=progress,
        )
    timed, disturbed = len(timings.inference), int(timings.disturbed.sum())
    told: dict[str, Any] = {"rounds": timed, "loads": timed // -(-rounds // LOADS)}
    if gate is not None:
        told |= {"rounds_disturbed": disturbed, "waited_s": round(gate.waited, 1)}
    inputs = [accuracy.to_input(letterbox(picture, imgsz)[0]) for picture in pictures]
    sessions = loaded.sessions
    infer = [sessions[index].infer for index in kept]
    progress(f"bench: throughput of {len(kept)} candidates")
    rates = latency.throughput(infer, inputs, images=max(rounds // 2, 2), settle_ms=settle_ms)
    unrest = (
        (f"in {timings.restless} of the pauses before a timed call the process did not come to rest",)
        if timings.restless
        else ()
    )
    if disturbed > DISTURBED_SHARE * timed:
        unrest += (f"in {disturbed} of {timed} rounds other work slowed the cores; run it again on a quiet machine",)
    rows = list(rows)
    paired = kept[0] == 0
    for column, (index, summary) in enumerate(
        zip(kept, latency.summarize(timings.inference, timings.quiet), strict=True)
    ):
        unpaired = () if paired else (f"no latency ratio: the first candidate, {rows[0].label}, is refused",)
        rows[index] = replace(
            rows[index],
            latency_ms_mean=summary.mean_ms,
            latency_ms_p50=summary.p50_ms,
            latency_ms_p90=summary.p90_ms,
            latency_ms_p95=summary.p95_ms,
            latency_ms_p99=summary.p99_ms,
            latency_spread=summary.spread,
            latency_ratio_p50=summary.ratio_p50 if paired else None,
            latency_ratio_spread=summary.ratio_spread if paired else None,
            latency_ratio_interval=summary.ratio_interval if paired else None,
            latency_ms_samples=summary.samples_ms,
            noisy=summary.noisy,
            postprocess_ms_p50=float(np.median(timings.postprocess[:, column])) * 1e3,
            throughput_images_per_s=rates[column],
            notes=(*rows[index].notes, *unpaired, *unrest),
        )
        if batch is not None:
            rows[index] = _with_batch(rows[index], sessions[index], inputs, batch=batch, images=rounds)
        session = sessions[index]
        if isinstance(session, TimedSession):
            progress(f"bench: GPU time of {rows[index].label}")
            rows[index] = replace(rows[index], gpu=gpu_latency.measure(session, inputs))
    return rows, float(np.median(timings.preprocess)) * 1e3, told


def _with_batch(row: BenchRow, session: Session, inputs: list[np.ndarray], *, batch: int, images: int) -> BenchRow:
    filled = np.concatenate([inputs[index % len(inputs)] for index in range(batch)])
    try:
        rate = latency.throughput([session.infer], [filled], images=max(images, 2 * batch))[0]
    except Exception as error:  # most exports have a fixed batch of 1, and runtimes raise classes of their own
        reason = " ".join(str(error).split())[:200]
        return replace(row, notes=(*row.notes, f"throughput at batch {batch} unavailable: {reason}"))
    return replace(row, batch_throughput_images_per_s=rate)


def _with_roofline(
    row: BenchRow, peaks: Peaks, *, imgsz: int, threads: int | None, progress: Callable[[str], None]
) -> BenchRow:
    if row.status != "ok":
        return row
    progress(f"bench: layer times of {row.label}")
    try:
        found = roofline(Path(row.path), peaks, precision=row.precision, imgsz=imgsz, threads=threads)
    except CompressError as error:  # a checkpoint has no profile, and some exports have no names
        return replace(row, notes=(*row.notes, f"no roofline: {error}"))
    return replace(row, roofline=found)


def _with_memory(
    row: BenchRow, *, imgsz: int, device: str, threads: int | None, progress: Callable[[str], None]
) -> BenchRow:
    if row.status != "ok":
        return row
    progress(f"bench: memory of {row.label}")
    found = measure_memory(Path(row.path), imgsz=imgsz, device=device, threads=threads)
    told = found.why or found.note
    return replace(
        row,
        peak_memory_mb=found.peak_mb,
        loaded_memory_mb=found.loaded_mb,
        load_ms=found.load_ms,
        first_inference_ms=found.first_inference_ms,
        notes=(*row.notes, f"peak memory {told}") if told else row.notes,
    )


def _with_streams(
    row: BenchRow,
    streams: int,
    progress: Callable[[str], None],
    *,
    imgsz: int,
    device: str,
    threads: int | None,
) -> BenchRow:
    if row.status != "ok":
        return row
    progress(f"bench: {streams} streams of {row.label}")
    found = measure_streams(Path(row.path), imgsz=imgsz, streams=streams, device=device, threads=threads)
    if isinstance(found, str):
        return replace(row, notes=(*row.notes, f"{streams} streams {found}"))
    return replace(row, streams=found)


def _check(candidates: Sequence[Candidate], *, share: float, **numbers: int | None) -> None:
    if not candidates:
        raise UsageError("no candidates are given; name at least one file, such as model=best.pt,best.onnx")
    labels = [candidate.label for candidate in candidates]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"two candidates are labelled '{label}'; give each a label of its own")
    least = {"rounds": 3, "warmup": 0, "images": 1, "batch": 1, "streams": 1}
    for name, value in numbers.items():
        if value is not None and value < least[name]:
            raise UsageError(f"{name}={value} is too small; give at least {least[name]}")
    if not 0 <= share <= 1:
        raise UsageError(f"min_accuracy_share={share} is not a share; give a number from 0 to 1")
