# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Two tools held against each other in slices: one goes on while the other is stopped."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from benchmarks import bench_measure

# works for some processor time and tells when it did
WORKER = """
import time
end, seen = time.process_time() + 0.3, []
while time.process_time() < end:
    seen.append(time.monotonic())
print(" ".join(f"{moment:.6f}" for moment in seen[::50]))
"""


def test_one_goes_on_while_the_other_is_stopped(monkeypatch):
    monkeypatch.setattr(bench_measure, "SLICE_S", 0.05)
    told = bench_measure.in_slices({name: [sys.executable, "-c", WORKER] for name in "ab"})
    moments = sorted((float(word), name) for name, text in told.items() for word in text.split())
    slices = [name for name, _ in itertools.groupby(name for _, name in moments)]
    assert set(told) == {"a", "b"}
    # side by side they would alternate from moment to moment, of which there are thousands
    assert 4 <= len(slices) < 60 < len(moments)


def test_one_that_fails_is_told_and_none_is_left():
    call = [sys.executable, "-c", "print('no model'); raise SystemExit(3)"]
    with pytest.raises(subprocess.CalledProcessError) as error:
        bench_measure.in_slices({"good": [sys.executable, "-c", "print(1)"], "bad": call})
    assert error.value.returncode == 3
    assert "no model" in error.value.output
