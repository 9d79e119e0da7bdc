# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Energy of some work: a sensor read in a thread while the work runs, integrated, less what the machine takes idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from yolo_compress.bench.power.sensor import Sensor
from yolo_compress.bench.result import Energy
from yolo_compress.bench.throttle import ThrottleWatch

RATE_HZ = 20.0
LEAST_S = 30.0  # recommended length of a measurement
LEAST_PERIODS = 100  # of the sensor, so that what its first and last value miss is about a hundredth
FAILED_SHARE = 0.1  # of the reads, from which nothing is given
LOOK_S = 1.0
FIRST_READ_S = 10.0  # longest that the first reading may take


class NotMeasured(Exception):
    """There are too few readings to integrate; the message says why."""


@dataclass
class Samples:
    """Readings of a sensor with their times in seconds."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Window:
    """What was read between two moments."""

    seconds: float
    joules: float
    samples: int
    failures: tuple[str, ...]
    rate_hz: float

    @property
    def watts(self) -> float:
        """Mean power."""
        return self.joules / self.seconds


class EnergyMeter:
    """Measures idle power, then work.

    Args:
        sensor: An open sensor.
        rate_hz: How often it is read.
        watch: What notices that the machine is slowed down; looked at about once a second.
        clock: Seconds since some moment.
        pause: Waits so many seconds.
    """

    def __init__(
        self,
        sensor: Sensor,
        *,
        rate_hz: float = RATE_HZ,
        watch: Callable[[], ThrottleWatch] = ThrottleWatch,
        clock: Callable[[], float] = time.perf_counter,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sensor, self._rate, self._watch, self._clock, self.pause = sensor, rate_hz, watch, clock, pause

    def measure(self, work: Callable[[], int], *, seconds: float, idle_seconds: float) -> Energy:
        """Return the energy of work that is repeated for so many seconds.

        Args:
            work: Does a piece of it and returns how many images that were; called at least once.
            seconds: Length of the measurement; the last piece is finished.
            idle_seconds: Time before it in which nothing is done.

        Raises:
            NotMeasured: The sensor failed too often, or gave fewer than two readings.
        """
        idle = self._window(lambda: self.pause(idle_seconds))
        warm_until = self._clock() + min(idle_seconds, seconds) / 5  # clocks rise before anything counts
        while self._clock() < warm_until:
            work()
        images = 0

        def repeat() -> None:
            nonlocal images
            until = self._clock() + seconds
            while True:
                images += work()
                if self._clock() >= until:
                    return

        watch = self._watch()
        signs: dict[str, int] = {}

        def look() -> None:
            watch.look()
            for sign in self._sensor.signs():
                signs[sign] = signs.get(sign, 0) + 1

        busy = self._window(repeat, look, min(LOOK_S, seconds / 4))
        net = busy.joules - idle.watts * busy.seconds
        period = self._sensor.period_s
        long_enough = busy.seconds >= max(LEAST_S, LEAST_PERIODS * (period or 0))
        return Energy(
            sensor=self._sensor.name,
            measures=self._sensor.measures,
            seconds=busy.seconds,
            images=images,
            gross_j=busy.joules,
            net_j=net,
            gross_j_per_image=busy.joules / images,
            net_j_per_image=net / images,
            mean_w=busy.watts,
            idle_w=idle.watts,
            idle_seconds=idle.seconds,
            samples=busy.samples,
            failed_reads=len(busy.failures),
            rate_hz=busy.rate_hz,
            sensor_period_s=period,
            long_enough=long_enough,
            throttled=(*watch.signs(), *(f"{sign}, in {count} looks" for sign, count in signs.items())),
            throttle_watched=watch.watched,
            notes=tuple(_notes(busy, net, period, long_enough)),
            settings=self._sensor.settings(),
        )

    def _window(self, do: Callable[[], None], look: Callable[[], None] = lambda: None, every: float = LOOK_S) -> Window:
        samples, stop, started = Samples(), threading.Event(), threading.Event()
        thread = threading.Thread(target=self._sample, args=(samples, stop, started, look, every), daemon=True)
        thread.start()
        started.wait(FIRST_READ_S)
        begin = self._clock()
        try:
            do()
            end = self._clock()
        finally:
            stop.set()
            thread.join()
        return window(samples, begin, end, counts=self._sensor.counts)

    def _sample(
        self,
        samples: Samples,
        stop: threading.Event,
        started: threading.Event,
        look: Callable[[], None],
        every: float,
    ) -> None:
        """Read at the rate until stopped, and once more then, so that the last moment is covered."""
        following = self._clock()
        next_look = following + every  # not at once: a GPU that waits for the first reading is not busy
        last = False
        while True:
            before = self._clock()
            try:
                value = self._sensor.read()
                samples.times.append((before + self._clock()) / 2)
                samples.values.append(value)
            except (OSError, ValueError) as error:
                samples.failures.append(str(error))
            started.set()
            if last:
                return
            if self._clock() >= next_look:
                look()
                next_look = self._clock() + every
            following = max(following + 1 / self._rate, self._clock())
            last = stop.wait(following - self._clock())


def window(samples: Samples, begin: float, end: float, *, counts: bool) -> Window:
    """Integrate readings between two moments.

    Watts are integrated by the trapezium rule, joules of a counter are subtracted; both are interpolated at the two
    moments, and taken as constant where the readings do not reach them.

    Raises:
        NotMeasured: Too many reads failed, or fewer than two did not.
    """
    good, bad = len(samples.times), len(samples.failures)
    if good < 2 or bad > FAILED_SHARE * (good + bad):
        raise NotMeasured(
            f"{bad} of {good + bad} reads failed" + (f": {samples.failures[-1]}" if bad else ", at least 2 are needed")
        )
    times, values = np.asarray(samples.times), np.asarray(samples.values, dtype=float)
    if counts:
        first, last = np.interp([begin, end], times, values)
        joules = float(last - first)
    else:
        joules = integrate(times, values, begin, end)
    rate = (good - 1) / (samples.times[-1] - samples.times[0])
    return Window(end - begin, joules, good, tuple(samples.failures), rate)


def integrate(times: np.ndarray, watts: np.ndarray, begin: float, end: float) -> float:
    """Return joules between two moments by the trapezium rule.

    Args:
        times: Seconds, rising, (N,).
        watts: Power at those times, (N,).
        begin: First moment.
        end: Last moment.
    """
    inside = (times > begin) & (times < end)
    at = np.concatenate([[begin], times[inside], [end]])
    power = np.interp(at, times, watts)
    return float(np.sum((power[1:] + power[:-1]) / 2 * np.diff(at)))


def _notes(busy: Window, net: float, period: float | None, long_enough: bool) -> Iterator[str]:
    if not long_enough:
        least = max(LEAST_S, LEAST_PERIODS * (period or 0))
        yield f"measured for {busy.seconds:.3g} s; at least {least:g} s are recommended for this sensor"
    if busy.failures:
        yield f"{len(busy.failures)} of {busy.samples + len(busy.failures)} reads failed: {busy.failures[-1]}"
    if net < 0:
        yield "net energy is below 0: the machine took more power before, idle, than while it ran"
