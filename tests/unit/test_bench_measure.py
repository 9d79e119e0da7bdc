# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Two tools held against each other in slices: one goes on while the other is stopped."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from benchmarks import bench_measure

# gets ready in its own time, then works for some processor time and tells when it did
WORKER = """
import sys, time
end = time.process_time() + float(sys.argv[1])
while time.process_time() < end:
    pass
print("begins", flush=True)
end, seen = time.process_time() + 0.3, []
while time.process_time() < end:
    seen.append(time.monotonic())
print(" ".join(f"{moment:.6f}" for moment in seen[::50]))
"""


def test_one_goes_on_while_the_other_is_stopped(monkeypatch):
    monkeypatch.setattr(bench_measure, "SLICE_S", 0.05)
    needs = {"a": "0.02", "b": "0.5"}
    calls = {name: ([sys.executable, "-c", WORKER, seconds], "begins") for name, seconds in needs.items()}
    asked = []
    told = bench_measure.in_slices(calls, lambda: asked.append(1) or True)
    moments = sorted((float(word), name) for name, text in told.items() for word in text.split()[1:])
    slices = [name for name, _ in itertools.groupby(name for _, name in moments)]
    assert set(told) == {"a", "b"}
    begins = next(moment for moment, name in moments if name == "b")
    sooner = [moment < begins for moment, name in moments if name == "a"]
    assert sum(sooner) < len(sooner) / 2  # the one that is ready sooner waits for the other
    # side by side they would alternate from moment to moment, of which there are thousands
    assert 4 <= len(slices) < 60 < len(moments)
    assert len(asked) >= len(slices) - 2  # before each slice, but while they got ready


def test_one_that_fails_is_told_and_none_is_left():
    call = [sys.executable, "-c", "print('no model'); raise SystemExit(3)"]
    with pytest.raises(subprocess.CalledProcessError) as error:
        bench_measure.in_slices({"good": ([sys.executable, "-c", "print(1)"], "1"), "bad": (call, "begins")})
    assert error.value.returncode == 3
    assert "no model" in error.value.output


def test_one_that_never_says_that_it_begins_is_not_taken_for_measured():
    call = [sys.executable, "-c", "print('started')"]
    with pytest.raises(ValueError, match=r"never printed 'begins'"):
        bench_measure.in_slices({"changed": (call, "begins")})
