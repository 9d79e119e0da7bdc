# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Run a sweep, trial by trial or several at once, record each one in sweep.json, and go on where it was cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from yolo_compress import pipeline
from yolo_compress import recipe as recipes
from yolo_compress.artifacts import size_bytes
from yolo_compress.bench import BenchResult
from yolo_compress.bench.machine import describe_machine, package_versions
from yolo_compress.errors import CompressError, ResumeMismatch, UsageError, require
from yolo_compress.recipe import Recipe
from yolo_compress.report import write_report
from yolo_compress.sweep import measure as measuring
from yolo_compress.sweep.local import LocalPool
from yolo_compress.sweep.measure import Artifact
from yolo_compress.sweep.on_ray import RayPool
from yolo_compress.sweep.plan import WAITING, Plan, named
from yolo_compress.sweep.record import SCHEMA_VERSION, read_record, save_record
from yolo_compress.sweep.search import NOTHING_VARIES, OptunaSearch, SearchOptions
from yolo_compress.sweep.space import Space
from yolo_compress.sweep.trial import ENDED, Job, Outcome, Pool

Progress = Callable[[str], None]


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep; `rows` are those of sweep.json."""

    folder: Path
    report_html: Path | None
    rows: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        """Return the lines that a user wants to see last."""
        states = [row["state"] for row in self.rows]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        lines = [f"sweep: {self.folder}", f"  {len(states)} trials: {counts}"]
        lines += [f"  {named(row)}: {row['error']}" for row in self.rows if row["error"]]
        return "\n".join([*lines, f"report: {self.report_html}"])


def start(
    recipe: Recipe,
    space: Space,
    *,
    model: str | Path,
    data: str | Path,
    imgsz: int = 640,
    device: str = "cpu",
    project: str | Path = "runs/compress",
    name: str = "sweep",
    search: SearchOptions | None = None,
    ray: str | None = None,
    workers: int = 1,
    progress: Progress = print,
) -> SweepResult:
    """Run a new sweep.

    Args:
        recipe: What every trial does, as far as the space does not say otherwise.
        space: Flags of the recipe and settings of `yolo train`.
        model: Trained checkpoint.
        data: Data YAML.
        imgsz: Side of the square input in pixels.
        device: Where training and engines run.
        project: Folder that holds sweeps.
        name: Folder of this one, numbered when it exists.
        search: How to search; the whole grid when not given.
        ray: Cluster that trials run on: auto, local or an address; this machine without Ray when not given.
        workers: Trials at once, on Ray.
        progress: Takes a line now and then.

    Raises:
        MissingDependency: ray or optuna is asked for and not installed.
        UsageError: A value cannot be used in any trial, or nothing varies.
        DataError: Weights or data are missing or damaged.
        CompressError: No trial reached its end.
    """
    _check_space(space, search)
    record = {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "space": space.to_dict(),
        "search": None if search is None else vars(search),
        "recipe": recipe.model_dump(mode="json"),
        "settings": {"imgsz": imgsz, "device": device},
        "cwd": str(Path.cwd()),
        "model": str(Path(model).resolve()),
        "data": str(data),
        "references": {},
        "rows": [],
        "benches": [],
        "versions": package_versions(),
        "device": describe_machine(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    sweep = Sweep(Path(), record, progress)  # inputs are checked before there is a folder
    record["data"] = str(sweep.context.data.path)
    if search is None:
        sweep.plan_grid()
    with pool_for(ray, workers=workers, device=device) as pool:
        sweep.folder = pipeline.new_folder(Path(project), name)
        return sweep.go_on(pool)


def resume(
    folder: str | Path,
    *,
    ray: str | None = None,
    workers: int = 1,
    retry_failed: bool = False,
    progress: Progress = print,
) -> SweepResult:
    """Go on with a sweep that was cut off; trials that have ended are not run again.

    Args:
        folder: Of the sweep.
        ray: As for a new sweep; it may be another one.
        workers: Trials at once, on Ray.
        retry_failed: Run failed trials again.
        progress: Takes a line now and then.

    Raises:
        DataError: There is no sweep in that folder.
        ResumeMismatch: A file that trials rest on is not what it was.
    """
    place = Path(folder).resolve()
    record = read_record(place)
    for name in ("model", "data"):
        if not Path(record[name]).is_file():
            raise ResumeMismatch(
                f"the {name} of this sweep, '{record[name]}', is gone; put it back, or start a new one"
            )
    sweep = Sweep(place, record, progress)
    sweep.check_rows()
    if retry_failed:
        sweep.forget_failures()
    done = [str(row["number"]) for row in record["rows"] if row["state"] in ENDED]
    progress(f"resume: {place}, ended: {'trials ' + ', '.join(done) if done else 'no trial yet'}")
    with pool_for(ray, workers=workers, device=record["settings"]["device"]) as pool:
        return sweep.go_on(pool)


class Sweep(Plan):
    """The trials of a sweep, run, measured and recorded."""

    def go_on(self, pool: Pool) -> SweepResult:
        """Do what is not done yet, then write the report.

        Raises:
            CompressError: No trial reached its end.
        """
        self.save()
        self.progress(f"sweep: {self.folder}")
        try:
            self._make_references()
            if self.record["search"] is None:
                self.run(pool, [row for row in self.rows if row["state"] == WAITING])
            else:
                self._search(pool, SearchOptions(**self.record["search"]))
            self.measure(pool)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"go on with: yolo-compress sweep resume={self.folder}") from error
        self.record["status"] = "done"
        self.save()
        bench = measuring.merged(self.folder, self.record["benches"])
        if bench is None:
            first = next((f"{named(row)}: {row['error']}" for row in self.rows if row["error"]), "there was none")
            raise CompressError(f"no trial of '{self.folder}' reached its end; {first}")
        told = {"recipe": self.record["recipe"], "status": "done", "stages": [], "versions": self.record["versions"]}
        files = write_report(bench.to_dict(), told, self.folder, sweep=self.record)
        return SweepResult(self.folder, files.html, tuple(self.rows))

    def run(self, pool: Pool, rows: Sequence[dict[str, Any]]) -> None:
        """Run trials and record each one as soon as it has ended."""
        by_folder = {str(self.folder / row["folder"]): row for row in rows}

        def ended(job: Job, outcome: Outcome) -> None:
            row = by_folder[job.folder]
            row |= {"state": outcome.state, "seconds": outcome.seconds, "attempts": outcome.attempts}
            row |= {"error": outcome.error, "figures": dict(outcome.figures), "notes": list(outcome.notes)}
            labels = measuring.labels(row["number"], outcome.artifacts)
            place = Path(row["folder"])  # of an artifact outside of it, such as the given model, the path is absolute
            row["artifacts"] = {labels[name]: str(place / path) for name, path in outcome.artifacts.items()}
            self.save()
            self.progress(f"sweep: {named(row)} {row['state']}{': ' + row['error'] if row['error'] else ''}")

        pool.run([self.job(folder, row) for folder, row in by_folder.items()], ended)

    def measure(self, pool: Pool) -> None:
        """Measure every artifact that no benchmark holds yet, while no trial runs on this host."""
        done = self.measured()
        pending = [
            Artifact(label, self.folder / path, named(row), row["figures"].get("float_map50_95"))
            for row in self.rows
            for label, path in row["artifacts"].items()
            if row["state"] == "done" and label not in done
        ]
        for group in measuring.groups(pending):
            with pool.quiet():
                first = not self.record["benches"]
                result = measuring.measure(
                    group, self.record["references"], self.context, self.bench(), every_reference=first
                )
            file = f"benches/{len(self.record['benches']) + 1}.json"
            result.save(self.folder / file)
            self.record["benches"].append(file)
            self.save()

    def measured(self) -> dict[str, Mapping[str, Any]]:
        """Return what was measured of each artifact, by label."""
        results = [BenchResult.read(self.folder / file) for file in self.record["benches"]]
        return {row.label: vars(row) for result in results for row in result.rows}

    def save(self) -> None:
        """Write sweep.json."""
        save_record(self.folder, self.record)

    def _search(self, pool: Pool, options: SearchOptions) -> None:
        """Ask for as many trials as there are workers, run and measure them, tell what came of them, and so on."""
        search = OptunaSearch(self.folder, self.space, seed=options.seed)
        known = {number for row in self.rows for number in row["asked"]}
        for number in set(search.open()) - known:  # cut off before its row was written
            search.tell(number, None)
        while True:
            self._tell(search, options)
            wave = [row for row in self.rows if row["state"] == WAITING]
            while len(wave) < pool.workers and search.told() + len(search.open()) < options.trials:
                number, values = search.ask()
                row = self.add(values)
                if row is None:
                    row = self.find(self.identity(self.recipe(values))[0])
                    assert row is not None
                    self.progress(f"sweep: suggestion {number + 1} is {named(row)} again")
                elif row["state"] == WAITING:
                    wave.append(row)
                row["asked"].append(number)
                self.save()
            if not wave and not search.open():
                return
            self.run(pool, wave)
            if options.objective == "latency":
                self.measure(pool)

    def _tell(self, search: OptunaSearch, options: SearchOptions) -> None:
        unanswered = set(search.open())
        measured = self.measured() if options.objective == "latency" and unanswered else {}
        for row in self.rows:
            if row["state"] == "done" and options.objective == "latency" and not row["artifacts"].keys() & measured:
                continue  # cut off between the trial and its measurement
            for number in unanswered.intersection(row["asked"]) if row["state"] in ENDED else ():
                search.tell(number, self._figures(row, options, measured))

    def _figures(
        self, row: Mapping[str, Any], options: SearchOptions, measured: Mapping[str, Mapping[str, Any]]
    ) -> tuple[float, float] | None:
        """Return mAP50-95 and what is to be small of a trial's first artifact, or None where it has none."""
        if row["state"] != "done":
            return None
        label, path = next(iter(row["artifacts"].items()))
        if options.objective == "size":
            accuracy = row["figures"].get("map50_95")
            return None if accuracy is None else (accuracy, size_bytes(self.folder / path))
        found = measured[label]
        time = found["latency_ratio_p50"] or found["latency_ms_p50"]
        return None if time is None else (found["map50_95"], time)

    def _make_references(self) -> None:
        if not self.record["references"]:
            made = measuring.references(self.context, self.bench(), self.folder / "native")
            self.record["references"] = made
            self.save()


@contextmanager
def pool_for(ray: str | None, *, workers: int, device: str) -> Iterator[Pool]:
    """Yield what runs trials.

    Raises:
        UsageError: Several workers without Ray, or no cluster at that address.
        MissingDependency: ray is not installed.
    """
    if workers < 1:
        raise UsageError(f"workers={workers} runs nothing; give at least 1")
    if ray is None and workers > 1:
        raise UsageError(f"workers={workers} run on Ray, and without it trials follow each other; add ray=local")
    if ray is None:
        yield LocalPool()
        return
    with RayPool(ray, workers=workers, device=device) as pool:
        yield pool


def _check_space(space: Space, search: SearchOptions | None) -> None:
    """Refuse what every trial has to share, and a search that cannot begin, before anything is made."""
    known = recipes.flags()
    for flag in space.varied:
        if flag in known and known[flag].section == "bench":
            raise UsageError(f"{flag} says how everything is measured, which has to be alike for all; give one value")
    if space.fixed.get("bench_pictures"):
        raise UsageError(
            "a sweep draws no pictures before and after; leave bench_pictures out, and bench its best files"
        )
    if search is not None:
        require("optuna", extra="sweep", purpose="searches")
        if not space.varied:
            raise UsageError(NOTHING_VARIES)
