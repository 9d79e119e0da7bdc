# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Latency of several candidates in one process, taken in turns so that what slows the machine slows them all."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

# fewest samples for a percentile: below, the slowest sample alone would decide it at 99 % confidence (MLPerf's rule)
SAMPLES_FOR = {90: 64, 95: 130, 99: 662}
NOISY_SPREAD = 0.10  # quartile distance over median from which a latency is called noisy
CONFIDENCE = 0.95
# Thread pools spin for a while after a run: ONNX Runtime's burnt 75 ms of processor time on two cores of a Zen 3, which
# would be charged to whichever candidate comes next. Each timed call therefore waits until this process is idle.
IDLE_SHARE = 0.2  # processor time over time, below which the process counts as idle
LONGEST_REST_S = 0.5
# After a rest, and after other candidates, threads sleep and weights are out of the caches, and the first inference is
# slower than those that follow; where neighbours share the cores, the next ones are too. A device that keeps running
# one model, and the runtimes' own tools, do not see that.
LEAD = 1
MOST_LEAD = 20  # inferences, so that a model of a fraction of a millisecond does not run hundreds of times a turn
# A neighbour on the same machine slows all candidates, and small ones more than large ones. Ratios are therefore those
# of the rounds that were disturbed least.
QUIET_SHARE = 0.25

Infer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Watch:
    """Where time comes from: seconds since some moment, seconds of processor time used, and a way to wait."""

    clock: Callable[[], float]
    processor: Callable[[], float]
    pause: Callable[[float], None]


SYSTEM = Watch(time.perf_counter, time.process_time, time.sleep)


@dataclass(frozen=True)
class Timings:
    """Seconds of each part of a round.

    Attributes:
        preprocess: (rounds,).
        inference: (rounds, candidates).
        postprocess: (rounds, candidates).
        disturbed: (rounds,), whether a turn began while the cores were found disturbed; no turn where nobody looked.
        restless: Rests that were cut short.
        quiet: Numbers of the rounds that were disturbed least, where that was looked at; ratios are taken of them.
    """

    preprocess: np.ndarray
    inference: np.ndarray
    postprocess: np.ndarray
    disturbed: np.ndarray
    restless: int = 0
    quiet: np.ndarray | None = None


@dataclass(frozen=True)
class LatencySummary:
    """What a report says about one candidate's samples; see `BenchRow` for the fields."""

    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    spread: float
    noisy: bool
    ratio_p50: float
    ratio_spread: tuple[float, float]
    ratio_interval: tuple[float, float] | None
    samples_ms: tuple[float, ...]


def time_alternately(
    infer: Sequence[Infer],
    prepare: Callable[[int], np.ndarray],
    *,
    finish: Callable[[np.ndarray], Any],
    rounds: int,
    warmup: int,
    first: int = 0,
    settle_ms: float = 0.0,
    lead: int = LEAD,
    lead_s: float = 0.0,
    gate: Callable[[], bool] | None = None,
    watch: Watch = SYSTEM,
    progress: Callable[[str], None] = lambda _: None,
) -> Timings:
    """Time every candidate once per round, in an order that changes from round to round.

    Args:
        infer: One function per candidate, from a prepared input to its raw output.
        prepare: From the number of the round to the input that all candidates get in it.
        finish: Post-processing of a raw output.
        rounds: Rounds that count.
        warmup: Rounds before them that do not.
        first: Number of the first round, where earlier calls have timed some: inputs and orders go on from there.
        settle_ms: Least rest before a candidate's turn; it lasts until the process is idle.
        lead: Fewest inferences of the candidate between that rest and the one that is timed.
        lead_s: More of them precede it until they have taken this long or are twenty.
        gate: Waits after the rest until the cores are undisturbed, and returns whether they are.
        watch: What tells the time.
        progress: Takes a line now and then.
    """
    preprocess = np.zeros(rounds)
    inference = np.zeros((rounds, len(infer)))
    postprocess = np.zeros((rounds, len(infer)))
    disturbed = np.zeros(rounds, bool)
    clock = watch.clock
    restless = 0
    next_line = clock() + 10
    with no_garbage_collection():
        for index in range(-warmup, rounds):
            restless += not rest(settle_ms, watch)
            begin = clock()
            image = prepare(first + index + warmup)
            if index >= 0:
                preprocess[index] = clock() - begin
            for candidate in order(first + index + warmup, len(infer)):
                restless += not rest(settle_ms, watch)
                undisturbed = gate is None or gate()
                _lead(infer[candidate], image, lead, lead_s, clock)
                begin = clock()
                raw = infer[candidate](image)
                middle = clock()
                finish(raw)
                end = clock()
                if index >= 0:
                    inference[index, candidate] = middle - begin
                    postprocess[index, candidate] = end - middle
                    disturbed[index] |= not undisturbed
            if clock() > next_line:
                progress(f"latency: round {first + max(index + 1, 0)}/{first + rounds}")
                next_line = clock() + 10
    return Timings(preprocess, inference, postprocess, disturbed, restless)


def _lead(infer: Infer, image: np.ndarray, fewest: int, seconds: float, clock: Callable[[], float]) -> None:
    begin, done = clock(), 0
    while done < fewest or (done < MOST_LEAD and clock() - begin < seconds):
        infer(image)
        done += 1


def quiet_rounds(inference: np.ndarray, fewest: int = 0, disturbed: np.ndarray | None = None) -> np.ndarray:
    """Return the numbers of the quarter of the rounds that were disturbed least, in order.

    How much a round was disturbed is the mean over its candidates of time over median time, so that all count alike.

    Args:
        inference: Seconds (rounds, candidates), all of one load: else the loads in which candidates happen to be fast
            would be chosen, not the rounds.
        fewest: Return at least as many, or all where there are fewer.
        disturbed: (rounds,), those that come last whatever they took.
    """
    slow = (inference / np.median(inference, axis=0)).mean(axis=1)
    count = max(math.ceil(QUIET_SHARE * len(inference)), min(fewest, len(inference)))
    found = np.zeros(len(inference), bool) if disturbed is None else disturbed
    return np.sort(np.lexsort((slow, found))[:count])


def widest_margin(inference: np.ndarray) -> float:
    """Return how far the interval of a ratio to the first candidate reaches from its median, as a share of it.

    Args:
        inference: Seconds (rounds, candidates).

    Returns:
        The widest of all candidates; 0 for one alone, infinite for too few rounds.
    """
    widest = 0.0
    for samples in inference.T[1:]:
        ratios = samples / inference[:, 0]
        middle, interval = float(np.median(ratios)), median_interval(ratios)
        reach = math.inf if interval is None else max(middle - interval[0], interval[1] - middle) / middle
        widest = max(widest, reach)
    return widest


def rest(least_ms: float, watch: Watch = SYSTEM) -> bool:
    """Wait until this process uses hardly any processor time; return False when it did not stop within half a second.

    Args:
        least_ms: Length of the slices that are waited; 0 does not wait at all.
        watch: What tells the time.
    """
    if not least_ms:
        return True
    begin = watch.clock()
    while watch.clock() - begin < LONGEST_REST_S:
        used, started = watch.processor(), watch.clock()
        watch.pause(least_ms / 1000)
        if watch.processor() - used < IDLE_SHARE * (watch.clock() - started):
            return True
    return False


def order(index: int, count: int) -> list[int]:
    """Return the order of the candidates in a round.

    Rotation gives each candidate every place; turning every other cycle round gives it different predecessors too.
    """
    rotated = [(index + offset) % count for offset in range(count)]
    return rotated[::-1] if (index // count) % 2 else rotated


def summarize(inference: np.ndarray, quiet: np.ndarray | None = None) -> list[LatencySummary]:
    """Reduce seconds (rounds, candidates) to medians, percentiles and paired ratios to the first candidate.

    Args:
        inference: Seconds (rounds, candidates).
        quiet: Numbers of the rounds that ratios are taken of; all when not given.
    """
    rows, chosen = [], slice(None) if quiet is None else quiet
    for samples in inference.T:
        ratios = samples[chosen] / inference[chosen, 0]
        low, middle, high = np.quantile(samples, [0.25, 0.5, 0.75])
        spread = float((high - low) / middle)
        rows.append(
            LatencySummary(
                mean_ms=float(samples.mean()) * 1e3,
                p50_ms=float(middle) * 1e3,
                p90_ms=percentile_ms(samples, 90),
                p95_ms=percentile_ms(samples, 95),
                p99_ms=percentile_ms(samples, 99),
                spread=spread,
                noisy=spread > NOISY_SPREAD,
                ratio_p50=float(np.median(ratios)),
                ratio_spread=(float(np.quantile(ratios, 0.25)), float(np.quantile(ratios, 0.75))),
                ratio_interval=median_interval(ratios),
                samples_ms=tuple(round(float(sample) * 1e3, 4) for sample in samples),
            )
        )
    return rows


def percentile_ms(samples: np.ndarray, percent: int) -> float | None:
    """Return the smallest sample that `percent` of them do not exceed, in ms, or None from too few samples."""
    if len(samples) < SAMPLES_FOR[percent]:
        return None
    return float(np.sort(samples)[math.ceil(len(samples) * percent / 100) - 1]) * 1e3


def median_interval(samples: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Return the confidence interval of a median, without assuming a distribution.

    The k-th smallest and the k-th largest of n samples enclose the median with probability 1 - 2 P(X < k), where X is
    binomial with n trials of 1/2; k is the largest for which that is at least `confidence`. None where there is none:
    for 95 %, below six samples.
    """
    count = len(samples)
    tail, k = 0.0, 0
    while k <= count:
        tail += math.comb(count, k) / 2**count  # integer over integer: exact enough for any count of rounds
        if 1 - 2 * tail < confidence:
            break
        k += 1
    if k == 0:
        return None
    ordered = np.sort(samples)
    return float(ordered[k - 1]), float(ordered[count - k])


def throughput(
    infer: Sequence[Infer],
    inputs: Sequence[np.ndarray],
    *,
    images: int,
    blocks: int = 3,
    settle_ms: float = 0.0,
    watch: Watch = SYSTEM,
) -> list[float]:
    """Return images per second of each candidate fed without a pause, as the median of alternating blocks.

    Args:
        infer: One function per candidate.
        inputs: Prepared inputs (N, 3, H, W), used in turn.
        images: Images that a block holds at least.
        blocks: Blocks per candidate.
        settle_ms: Least rest before each block.
        watch: What tells the time.
    """
    rates = np.zeros((blocks, len(infer)))
    with no_garbage_collection():
        for block in range(blocks):
            for candidate in order(block, len(infer)):
                rest(settle_ms, watch)
                infer[candidate](inputs[0])  # brings the candidate's weights and threads back before the clock starts
                done = 0
                begin = watch.clock()
                while done < images:
                    batch = inputs[(done // len(inputs[0])) % len(inputs)]
                    infer[candidate](batch)
                    done += len(batch)
                rates[block, candidate] = done / (watch.clock() - begin)
    return [float(rate) for rate in np.median(rates, axis=0)]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector from pausing a timed call."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
