# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Latency on a GPU the way trtexec measures it: the device's clock for compute and copies, the host's for queueing.

Warm-up, duration, coefficient of variation and the three warnings follow NVIDIA's trtexec (samples/common of TensorRT);
`docs/gpu-latency.md` names what differs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolo_compress.bench.gpu_state import GpuState, read_state
from yolo_compress.bench.latency import no_garbage_collection, percentile_ms
from yolo_compress.engines.timed import QueryTimes, TimedSession
from yolo_compress.errors import UsageError

WARMUP_MS = 200.0
DURATION_S = 3.0
LEAST_QUERIES = 10
ENQUEUE_BOUND = 0.8  # median enqueue over median compute from which the host decides
UNSTABLE = 0.025  # coefficient of variation of compute from which clocks are not steady
QUEUED_S = 1.0  # of work that the throughput is measured on
MOST_QUEUED = 10_000
PARTS = ("latency", "compute", "enqueue", "upload", "download")


@dataclass(frozen=True)
class Spread:
    """Milliseconds of one part of a query. Percentiles are None below 64, 130 and 662 queries.

    `variation` is the standard deviation over the mean.
    """

    median_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    variation: float
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class GpuLatency:
    """What one engine took, query by query, each waited for.

    `compute` is the engine alone, `upload` and `download` its copies, all by events on the device; `latency` is their
    sum. `enqueue` is what the host needs to queue the compute, by its own clock. `queued_images_per_s` comes from
    queries that were queued without waiting and without copies. `state_before` and `state_after` are a `GpuState` as
    plain data, or "unavailable: " and the reason. Preparing an image and post-processing are in none of these.
    """

    queries: int
    queries_warmup: int
    measured_s: float
    batch: int
    graph: bool
    latency: Spread
    compute: Spread
    enqueue: Spread
    upload: Spread
    download: Spread
    queued_images_per_s: float
    compute_ms_samples: tuple[float, ...]
    warnings: tuple[str, ...]
    state_before: dict[str, Any] | str
    state_after: dict[str, Any] | str
    warmup_ms: float = WARMUP_MS
    duration_s: float = DURATION_S

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> GpuLatency:
        """Return what `dataclasses.asdict` and JSON made of one.

        Raises:
            KeyError: A part is missing.
            TypeError: It is not one.
        """
        parts = {part: Spread(**tree[part]) for part in PARTS}
        lists = {key: tuple(tree[key]) for key in ("compute_ms_samples", "warnings")}
        return cls(**{**tree, **parts, **lists})


def measure(
    session: TimedSession,
    inputs: Sequence[np.ndarray],
    *,
    warmup_ms: float = WARMUP_MS,
    duration_s: float = DURATION_S,
    least_queries: int = LEAST_QUERIES,
    state: Callable[[str], GpuState | str] = read_state,
    clock: Callable[[], float] = time.perf_counter,
) -> GpuLatency:
    """Run an engine for a while, one query after the other.

    Args:
        session: The engine.
        inputs: Prepared images (N, 3, H, W), float32, used in turn; all of one shape.
        warmup_ms: Queries that start earlier than this after the first one do not count.
        duration_s: How long the ones that count go on.
        least_queries: How many of them there are at least.
        state: Reads clocks and throttling of the GPU at a PCI address.
        clock: Seconds since some moment.

    Raises:
        UsageError: No inputs, or a setting out of range.
        EngineError: The engine refused an input.
    """
    if not inputs or least_queries < 1 or warmup_ms < 0 or duration_s < 0:
        raise UsageError("give at least one input and one query, and no negative time")
    place = str(session.describe().get("pci_bus_id", "unavailable: the session does not tell where its GPU sits"))
    session.timed_infer(inputs[0])  # memory and graph of this shape, which are no part of any query
    before = _plain(state(place))
    with no_garbage_collection():
        samples, warmups, measured_s = _run(session, inputs, warmup_ms / 1e3, duration_s, least_queries, clock)
        after = _plain(state(place))  # at once: a GPU is back at its resting clocks within a moment
        queries = math.ceil(QUEUED_S * 1e3 / max(float(np.median([one.compute_ms for one in samples])), 1e-3))
        queries = min(max(queries, least_queries), MOST_QUEUED)
        queued_s = session.queued_infer(inputs[0], queries)
    batch = len(inputs[0])
    columns = {part: np.array([getattr(one, f"{part}_ms") for one in samples]) for part in PARTS if part != "latency"}
    columns["latency"] = columns["upload"] + columns["compute"] + columns["download"]
    spreads = {part: spread(values) for part, values in columns.items()}
    graph = bool(session.describe().get("graph"))
    return GpuLatency(
        queries=len(samples),
        queries_warmup=warmups,
        measured_s=measured_s,
        batch=batch,
        graph=graph,
        **spreads,
        queued_images_per_s=queries * batch / queued_s,
        compute_ms_samples=tuple(round(float(value), 4) for value in columns["compute"]),
        warnings=(*warnings(**{part: spreads[part] for part in PARTS[1:]}, graph=graph), *_throttled(before, after)),
        state_before=before,
        state_after=after,
        warmup_ms=warmup_ms,
        duration_s=duration_s,
    )


def spread(values_ms: np.ndarray) -> Spread:
    """Reduce the milliseconds of at least one query."""
    mean = float(values_ms.mean())
    percentiles = {f"p{percent}_ms": percentile_ms(values_ms / 1e3, percent) for percent in (90, 95, 99)}
    return Spread(
        median_ms=float(np.median(values_ms)),
        mean_ms=mean,
        min_ms=float(values_ms.min()),
        max_ms=float(values_ms.max()),
        variation=float(values_ms.std()) / mean if mean else 0.0,
        **percentiles,
    )


def warnings(*, compute: Spread, enqueue: Spread, upload: Spread, download: Spread, graph: bool) -> tuple[str, ...]:
    """Say what else than the GPU's work decided: the host, the copies, or clocks that moved."""
    found = []
    if enqueue.median_ms > ENQUEUE_BOUND * compute.median_ms:
        remedy = "a larger batch" if graph else "a CUDA graph"
        found.append(
            f"enqueue-bound: queueing takes {enqueue.median_ms:.3f} ms of host time and the work "
            f"{compute.median_ms:.3f} ms (medians), so the GPU waits for the host; {remedy} would help"
        )
    for part, way, tensors in ((upload, "to", "inputs"), (download, "from", "outputs")):
        if part.median_ms >= compute.median_ms:
            found.append(
                f"transfer-bound: copying the {tensors} {way} the GPU takes {part.median_ms:.3f} ms and the work "
                f"{compute.median_ms:.3f} ms (medians)"
            )
    if compute.variation > UNSTABLE:
        found.append(
            f"unstable: GPU compute varies by {100 * compute.variation:.1f} % of its mean, over {100 * UNSTABLE:g} %; "
            "lock the clocks and measure again"
        )
    return tuple(found)


def _run(
    session: TimedSession,
    inputs: Sequence[np.ndarray],
    warmup_s: float,
    duration_s: float,
    least: int,
    clock: Callable[[], float],
) -> tuple[list[QueryTimes], int, float]:
    samples: list[QueryTimes] = []
    warmups = 0
    begin = counting = clock()
    while True:
        now = clock()
        warm = now - begin >= warmup_s
        if not samples:
            counting = now
        if warm and len(samples) >= least and now - counting >= duration_s:
            return samples, warmups, now - counting
        times = session.timed_infer(inputs[(warmups + len(samples)) % len(inputs)])
        if warm:
            samples.append(times)
        else:
            warmups += 1


def _throttled(before: dict[str, Any] | str, after: dict[str, Any] | str) -> tuple[str, ...]:
    slowed = [set(found["slowed_by"]) for found in (before, after) if not isinstance(found, str)]
    reasons = sorted(set().union(*slowed))
    return (f"throttled: the driver held clocks down for {', '.join(reasons)}",) if reasons else ()


def _plain(state: GpuState | str) -> dict[str, Any] | str:
    return state if isinstance(state, str) else {**vars(state), "slowed_by": list(state.slowed_by)}
