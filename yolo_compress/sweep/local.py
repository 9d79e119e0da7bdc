# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Trials on this machine, one after the other, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from yolo_compress.artifacts import atomic_write
from yolo_compress.errors import CompressError
from yolo_compress.sweep.trial import RETRIES, Job, Outcome, died, read_outcome, run_trial

JOB = "job.json"


class LocalPool:
    """Runs trials in order; a process that dies, for want of memory for instance, costs its trial and nothing else."""

    workers = 1

    def run(self, jobs: Sequence[Job], ended: Callable[[Job, Outcome], None]) -> None:
        """Run jobs in order and tell of each when it has ended.

        Raises:
            CompressError: A folder cannot be written to.
        """
        for job in jobs:
            ended(job, _in_child(job))

    def quiet(self) -> AbstractContextManager[None]:
        """Do nothing: no trial runs beside what `run` is waited for."""
        return nullcontext()


def child(file: str) -> None:
    """Run the job in a file; ends when the process that began it does, so that no trial goes on unwatched."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run_trial(Job.from_json(Path(file).read_text(encoding="utf-8")))


def _in_child(job: Job) -> Outcome:
    folder = Path(job.folder)
    atomic_write(folder / JOB, job.to_json())
    # the package may be run from its source tree, which a child in another folder would not find
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if place)}
    command = [sys.executable, "-c", f"from yolo_compress.sweep.local import child; child({str(folder / JOB)!r})"]
    code = 0
    for _ in range(1 + RETRIES):
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
            code = process.wait()
        if (outcome := read_outcome(folder)) is not None:
            return outcome
        if code > 0:
            raise CompressError(
                f"the process of trial '{folder.name}' ended with exit code {code}; see what it printed"
            )
    return died(job, f"its process was ended by signal {-code}")


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the other end of the pipe is gone
    os._exit(1)
