# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether the cores are left to this process right now, and waiting until they are.

A guest of a shared machine does not see its neighbours: on a core whose sibling thread is busy arithmetic takes two to
three times as long, and the system tells neither load nor stolen time. So it is measured, in half a millisecond.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import numpy as np

from yolo_compress.bench.latency import SYSTEM, Watch

DISTURBED = 1.2  # times as long as undisturbed; two Zen 4 threads of a guest took 1.05 or 2 to 3, and little between
VALUES = 4096  # float32, so that two arrays stay in the caches of a core
SLICES = 10  # of a reading, whose median counts: single interrupts do not
SLICE_S = 40e-6
MOST_CORES = 16  # that are read; a reading would itself be a load on a container with a small share of many cores
GRACE_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.25


class CoreProbe:
    """Runs the same arithmetic on every core at once, and compares with the least that each core has ever taken.

    A neighbour pauses now and then for a moment, so that even on a busy machine the least is soon that of an idle one.
    Close it after use.

    Args:
        threads: How many cores have to be undisturbed, since that many compute; all when not given.
    """

    def __init__(self, threads: int | None = None) -> None:
        pinned = hasattr(os, "sched_setaffinity")  # elsewhere threads go where the system puts them
        cores = sorted(os.sched_getaffinity(0)) if pinned else list(range(os.cpu_count() or 1))
        cores = cores[:: math.ceil(len(cores) / MOST_CORES)]
        self.needed = min(threads or len(cores), len(cores))
        self._least = np.full(len(cores), np.inf)
        self._barrier = Barrier(len(cores))
        self._pools = [
            ThreadPoolExecutor(1, initializer=_pin if pinned else None, initargs=(core,) if pinned else ())
            for core in cores
        ]
        self._sweeps = 1
        try:
            fastest = self._run().min()
            self._sweeps = max(1, round(SLICE_S / fastest))
            self._least[:] = np.inf
        except BaseException:
            self.close()
            raise

    def __call__(self) -> float:
        """Return how many times as long as undisturbed the arithmetic takes, on the worst of the cores needed."""
        seconds = self._run()
        self._least = np.minimum(self._least, seconds.min(axis=1))
        return slowdown(seconds, self._least, self.needed)

    def close(self) -> None:
        """End the threads."""
        for pool in self._pools:
            pool.shutdown()

    def _run(self) -> np.ndarray:
        """Return seconds (cores, SLICES)."""
        try:
            tasks = [pool.submit(_slices, self._barrier, self._sweeps) for pool in self._pools]
            return np.array([task.result() for task in tasks])
        except BaseException:  # no thread for a core: the others would wait for it for ever
            self._barrier.abort()
            raise


def slowdown(seconds: np.ndarray, least: np.ndarray, needed: int) -> float:
    """Return the median of each core's slices over the least it ever took, of the core that is `needed`-th in order.

    Args:
        seconds: (cores, slices).
        least: (cores,).
        needed: Cores that compute; the system puts threads on those that are free, so the others may be busy.
    """
    return float(np.sort(np.median(seconds, axis=1) / least)[needed - 1])


class Gate:
    """Waits before a measurement until a probe finds the cores undisturbed, within bounds.

    Args:
        probe: Returns how many times as long as undisturbed something takes.
        patience: Most seconds of waiting for each second that passes otherwise; a few seconds are free.
        watch: What tells the time.

    Attributes:
        waited: Seconds so far.
    """

    def __init__(self, probe: Callable[[], float], *, patience: float, watch: Watch = SYSTEM) -> None:
        self.probe, self.patience, self.watch = probe, patience, watch
        self.waited = 0.0
        self._begin = watch.clock()

    def __call__(self) -> bool:
        """Wait, with pauses that grow; return whether the cores are undisturbed at the end."""
        pause = FIRST_PAUSE_S
        while self.probe() > DISTURBED:
            begin = self.watch.clock()
            if self.waited >= GRACE_S + self.patience * (begin - self._begin - self.waited):
                return False
            self.watch.pause(pause)
            self.waited += self.watch.clock() - begin
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return True


@contextmanager
def undisturbed_cores(patience: float, threads: int | None = None) -> Iterator[Gate | None]:
    """Yield what waits for them, or None where `patience` is 0."""
    if not patience:
        yield None
        return
    probe = CoreProbe(threads)
    try:
        yield Gate(probe, patience=patience)
    finally:
        probe.close()


def _pin(core: int) -> None:
    os.sched_setaffinity(0, {core})  # of the calling thread alone


def _slices(barrier: Barrier, sweeps: int) -> list[float]:
    """Return seconds of each slice; all cores begin together, since siblings disturb each other."""
    values = np.linspace(0, 1, VALUES, dtype=np.float32)
    result = np.empty_like(values)
    barrier.wait()
    seconds = []
    for _ in range(SLICES):
        begin = time.perf_counter()
        for _ in range(sweeps):
            np.sin(values, out=result)  # releases the interpreter's lock
        seconds.append(time.perf_counter() - begin)
    return seconds
