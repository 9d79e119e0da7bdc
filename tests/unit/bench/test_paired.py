# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Two artifacts in turns: which is loaded first, what is run, and that nothing stays open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yolo_compress.bench import paired
from yolo_compress.bench.latency import LEAD
from yolo_compress.bench.paired import SESSIONS, WARMUP, noise_image, paired_seconds


class Runtime:
    """Counts what is loaded, run and closed; the second artifact can be made to fail."""

    def __init__(self, fails: bool = False) -> None:
        self.loaded: list[str] = []
        self.runs: dict[str, int] = {}
        self.open, self.fails = 0, fails

    def load(self, path, *, threads):
        assert threads == 3
        self.loaded.append(path.name)
        self.open += 1
        return Loaded(self, path.name)


class Loaded:
    def __init__(self, runtime, name):
        self.runtime, self.name = runtime, name

    def infer(self, image):
        assert image.shape == (1, 3, 32, 32)
        if self.runtime.fails and self.name == "b":
            raise RuntimeError("out of memory")
        self.runtime.runs[self.name] = self.runtime.runs.get(self.name, 0) + 1
        return image

    def close(self):
        self.runtime.open -= 1


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(paired, "SETTLE_MS", 0.0)


def test_each_is_loaded_first_every_other_time_and_runs_as_often():
    runtime = Runtime()
    seconds = paired_seconds(runtime, Path("a"), Path("b"), noise_image(32), rounds=10, threads=3)
    assert seconds.shape == (12, 2)  # rounded up to a multiple of the sessions
    assert (seconds > 0).all()
    assert runtime.loaded == ["a", "b", "b", "a"] * (SESSIONS // 2)
    assert runtime.runs == dict.fromkeys("ab", (1 + LEAD) * (12 + SESSIONS * WARMUP))
    assert runtime.open == 0


def test_sessions_are_closed_when_a_run_fails():
    runtime = Runtime(fails=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        paired_seconds(runtime, Path("a"), Path("b"), noise_image(32), rounds=4, threads=3)
    assert runtime.open == 0


def test_the_image_is_the_same_each_time():
    image = noise_image(32)
    assert (image.dtype, image.min() >= 0, image.max() <= 1) == (np.float32, True, True)
    np.testing.assert_array_equal(image, noise_image(32))
