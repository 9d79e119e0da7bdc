# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Stand-ins for what a sweep takes minutes over: runs, exports and benchmarks."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from tests.unit.bench.samples import result, row
from yolo_compress.errors import DataError
from yolo_compress.sweep import trial
from yolo_compress.sweep.trial import Job, Outcome


class Killed(BaseException):
    """Ends a sweep the way that a signal does: nothing of ours runs any more."""


class FakePool:
    """Runs nothing and answers at once: a trial that prunes more is less accurate.

    Attributes:
        ran: Folders of the trials that were begun, in order.
        busy: Whether a trial runs now, or this host is being kept quiet.
    """

    def __init__(self, *, workers: int = 1, kill_at: int | None = None) -> None:
        self.workers, self.kill_at = workers, kill_at
        self.ran: list[str] = []
        self.waves: list[int] = []
        self.busy = ""

    def run(self, jobs, ended):
        self.waves.append(len(jobs))
        for job in jobs:
            folder = Path(job.folder)
            known = trial.read_outcome(folder)
            if known is not None:
                ended(job, known)
                continue
            self.busy = "trial"
            self.ran.append(folder.name.partition("-")[0])
            if len(self.ran) == self.kill_at:
                raise Killed
            outcome = answer(job)
            folder.mkdir(parents=True, exist_ok=True)
            trial.write_outcome(folder, outcome)
            self.busy = ""
            ended(job, outcome)

    @contextmanager
    def quiet(self):
        assert self.busy == ""
        self.busy = "quiet"
        yield
        self.busy = ""


def answer(job: Job) -> Outcome:
    ratio = (job.recipe.get("prune") or {}).get("ratio") or 0.0
    if ratio == 0.9:
        return Outcome("failed", 1.0, "nothing is left at 0.9", 1)
    made = Path(job.folder) / "run" / "engine"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_bytes(b"x" * round(1000 * (1 - ratio)))
    figures = {"map50_95": 0.4 - 0.2 * ratio, "params": round(1e6 * (1 - ratio)), "float_map50_95": 0.4}
    return Outcome("done", 10.0 * (1 + ratio), "", 1, figures, {"openvino:int8": "run/engine"}, ("a note",))


def fake_everything(monkeypatch, tmp_path: Path) -> SimpleNamespace:
    """Replace what reads weights, exports and times; return model, data and the labels of each benchmark."""
    model, data = tmp_path / "model.pt", tmp_path / "data.yaml"
    model.write_bytes(b"weights")
    data.write_text("names: {0: disc}\n")
    seen = SimpleNamespace(model=model, data=data, benches=[], exports=0)

    def context_for(model, data, **given):
        return SimpleNamespace(
            model=Path(model), data=SimpleNamespace(path=Path(data)), **{k: given[k] for k in ("imgsz", "device")}
        )

    def inputs_of(context, recipe):
        files = {"model": context.model, "data": context.data.path}
        for index, teacher in enumerate(recipe.distill.teacher if recipe.distill else ()):
            files[f"teacher {index}"] = Path(teacher.path)
        for name, file in files.items():
            if not file.is_file():
                raise DataError(f"{name} '{file}' does not exist")
        return {
            name: {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            for name, file in files.items()
        }

    def references(context, bench, folder):
        seen.exports += 1
        return {"native:fp32": str(context.model), "native:int8": str(context.model)}

    def measure(artifacts, known, context, bench, *, every_reference):
        names = list(known) if every_reference else list(known)[:1]
        seen.benches.append([artifact.label for artifact in artifacts])
        rows = [row(name) for name in names]
        for artifact in artifacts:
            size = artifact.path.stat().st_size
            figures = {"map50_95": 0.2 + size / 5000, "size_bytes": size, "latency_ratio_p50": size / 1000}
            rows.append(row(artifact.label, origin="yolo_compress", **figures))
        return result(*rows)

    monkeypatch.setattr("yolo_compress.report.picture", lambda bench, axis: b"a picture")  # drawn where it is tested
    monkeypatch.setattr("yolo_compress.sweep.plan.context_for", context_for)
    monkeypatch.setattr("yolo_compress.pipeline.inputs_of", inputs_of)
    monkeypatch.setattr("yolo_compress.sweep.measure.references", references)
    monkeypatch.setattr("yolo_compress.sweep.measure.measure", measure)
    return seen


def use_pool(monkeypatch, pool: FakePool) -> FakePool:
    @contextmanager
    def pool_for(ray, *, workers, device):
        yield pool

    monkeypatch.setattr("yolo_compress.sweep.run.pool_for", pool_for)
    return pool
