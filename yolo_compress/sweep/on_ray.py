# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Trials on a Ray cluster, as many at once as there are workers; timing takes a host that Ray gives nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from yolo_compress.errors import CompressError, UsageError, require
from yolo_compress.sweep.trial import RETRIES, Job, Outcome, died, run_trial

LOCAL = "local"


class RayPool:
    """Hands trials to Ray; one whose worker dies is begun again, where it goes on with what was finished.

    Every host has to see the sweep's folder, the model and the data under the same paths.
    """

    def __init__(self, address: str, *, workers: int, device: str) -> None:
        """Connect to a cluster, or start one on this machine alone.

        Args:
            address: local for one on this machine, auto for the one that runs here, or where it is.
            workers: Trials at once.
            device: Where a trial trains; anything but cpu takes a GPU of the cluster for each trial.

        Raises:
            MissingDependency: ray is not installed.
            UsageError: There is no such cluster, or a trial is to use several GPUs.
        """
        if "," in device:
            raise UsageError(f"device={device} names several GPUs and a trial on Ray gets one; give device=0")
        self.ray = require("ray", extra="ray", purpose="sweeps on a cluster")
        self.workers, self.gpus = workers, 0 if device == "cpu" else 1
        self.ours = not self.ray.is_initialized()
        if self.ours:
            self._connect(address)

    def __enter__(self) -> RayPool:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster, which ends trials that still run."""
        if self.ours:
            self.ray.shutdown()

    def run(self, jobs: Sequence[Job], ended: Callable[[Job, Outcome], None]) -> None:
        """Run jobs in any order and tell of each as soon as it has ended.

        Raises:
            CompressError: A host does not see the sweep's folder, or cannot write to it.
        """
        # a process for each trial: what one leaves behind in Ultralytics and torch must not reach the next
        once = self.ray.remote(max_calls=1, max_retries=RETRIES, num_cpus=1, num_gpus=self.gpus)
        task = once(_task).options(scheduling_strategy="SPREAD")
        waiting, running = list(reversed(jobs)), {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    job = waiting.pop()
                    running[task.remote(job.to_json())] = job
                (ready,), _ = self.ray.wait(list(running), num_returns=1)
                job = running.pop(ready)
                ended(job, self._outcome(job, ready))
        except BaseException:
            for reference in running:
                self.ray.cancel(reference, force=True)
            raise

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Take every processor and GPU of this host from Ray, once they are free, and give them back at the end."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = self.ray.get_runtime_context().get_node_id()
        owned = next(node["Resources"] for node in self.ray.nodes() if node["NodeID"] == here)
        holder = self.ray.remote(_Holder).options(
            num_cpus=owned.get("CPU", 0),
            num_gpus=owned.get("GPU", 0),
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=here, soft=False),
        )
        held = holder.remote()
        try:
            self.ray.get(held.ready.remote())
            yield
        finally:
            self.ray.kill(held)

    def _connect(self, address: str) -> None:
        known: dict[str, Any] = {}
        if address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere, unless the user says so
            known = {"num_cpus": self.workers, "include_dashboard": False}
        try:
            self.ray.init(address=address, **known)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"ray={address} is not a cluster that can be reached ({reason}); start one with `ray start --head`, or "
                "give ray=local"
            ) from error

    def _outcome(self, job: Job, reference: Any) -> Outcome:
        try:
            return Outcome(**self.ray.get(reference))
        except (self.ray.exceptions.WorkerCrashedError, self.ray.exceptions.OutOfMemoryError) as error:
            return died(job, f"its worker died ({type(error).__name__})")
        except self.ray.exceptions.RayTaskError as error:
            raise CompressError(
                f"a worker cannot do trial '{job.folder}': {error.cause}; every host has to see that folder, the model "
                "and the data, and needs the same yolo-compress"
            ) from error


def _task(text: str) -> dict[str, Any]:
    # what the command line sets for itself, and a worker of a cluster has not seen: nothing is installed
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    return vars(run_trial(Job.from_json(text)))


class _Holder:
    def ready(self) -> bool:
        return True
