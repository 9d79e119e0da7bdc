# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The rows of a sweep: which trials there are, what each one is, and whether that is still what it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from yolo_compress import pipeline
from yolo_compress import recipe as recipes
from yolo_compress.context import Context, context_for
from yolo_compress.errors import CompressError, ResumeMismatch, UsageError
from yolo_compress.recipe import BenchSection, Recipe
from yolo_compress.recipe.distill import SELF
from yolo_compress.sweep.measure import PLAIN
from yolo_compress.sweep.record import RECORD
from yolo_compress.sweep.space import Space, show
from yolo_compress.sweep.trial import OUTCOME, Job, key_of, recipe_of, title
from yolo_compress.train import with_options

WAITING = "waiting"
Progress = Callable[[str], None]


class Plan:
    """The rows of sweep.json, made and checked."""

    def __init__(self, folder: Path, record: dict[str, Any], progress: Progress) -> None:
        """Check model and data.

        Raises:
            UsageError: The model's classes are not those of the data.
            DataError: Weights or data are missing or damaged.
        """
        self.folder, self.record, self.progress = folder, record, progress
        self.space = Space.from_dict(record["space"])
        self.base = recipes.validate(record["recipe"], source=f"'{folder / RECORD}'")
        settings = record["settings"]
        given = {"imgsz": settings["imgsz"], "device": settings["device"], "run_dir": folder, "progress": progress}
        self.context: Context = context_for(record["model"], record["data"], **given)
        self.rows: list[dict[str, Any]] = record["rows"]
        self._hashed: dict[Any, Any] = {}

    def plan_grid(self) -> None:
        """Make a row of every combination that comes to a trial of its own.

        Raises:
            UsageError: A value is refused in each combination that it is part of.
        """
        refused: dict[tuple[str, str], str | None] = {}
        for values in self.space.grid():
            row = self.add(values)
            for pair in ((flag, show(value)) for flag, value in values.items()):
                error = row["error"] if row is not None and row["state"] == "failed" else None
                refused[pair] = error if refused.get(pair, error) else None
        for (flag, text), error in refused.items():
            if error:
                raise UsageError(f"{flag}={text} cannot be part of any trial: {error}")
        self.progress(f"sweep: {len(self.rows)} trials")

    def add(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Make a row of values, or return None where an earlier row comes to the same trial.

        Values that no recipe can have make a row that has failed.
        """
        number = len(self.rows) + 1
        row = {"number": number, "values": dict(values), "key": "", "inputs": {}, "folder": "", "state": WAITING}
        row |= {"seconds": 0.0, "attempts": 0, "error": "", "figures": {}, "artifacts": {}, "notes": [], "asked": []}
        try:
            row["key"], row["inputs"] = self.identity(self.recipe(values))
        except CompressError as error:
            row |= {"state": "failed", "error": str(error)}
        if row["key"] and self.find(row["key"]) is not None:
            return None
        row["folder"] = f"trials/{number}-{row['key'][:8] or 'refused'}"
        self.rows.append(row)
        return row

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the row of a trial."""
        return next((row for row in self.rows if row["key"] == key), None)

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe of values, with whole paths.

        Raises:
            UsageError: A value cannot be used.
        """
        recipe = recipe_of(self.base, {**self.space.fixed, **values}, with_options)
        root = Path(self.record["cwd"])
        if recipe.distill is not None:
            whole = [
                t if t.path == SELF else t.model_copy(update={"path": str(root / t.path)})
                for t in recipe.distill.teacher
            ]
            distill = recipe.distill.model_copy(update={"teacher": tuple(whole)})
            recipe = recipe.model_copy(update={"distill": distill})
        if recipe.quantize is not None and recipe.quantize.calibration is not None:
            manifest = str(root / recipe.quantize.calibration)
            quantize = recipe.quantize.model_copy(update={"calibration": manifest})
            recipe = recipe.model_copy(update={"quantize": quantize})
        return recipe

    def check_rows(self) -> None:
        """Refuse a sweep whose files are no longer what they were.

        Raises:
            ResumeMismatch: One has changed, or is gone.
        """
        for row in (row for row in self.rows if row["key"]):
            try:
                key, inputs = self.identity(self.recipe(row["values"]))
            except CompressError as error:
                raise ResumeMismatch(f"trial {row['number']} cannot be what it was: {error}") from error
            known = row["inputs"]
            changed = [
                f"{n} '{known[n]['path']}'" for n in known if inputs.get(n, {}).get("sha256") != known[n]["sha256"]
            ]
            if changed or key != row["key"]:
                what = ", ".join(changed) or "what its recipe means to this version of yolo-compress"
                raise ResumeMismatch(
                    f"'{self.folder}' cannot be resumed, because trial {row['number']} rests on something that is no "
                    f"longer what it was: {what}; put it back, or start a new sweep"
                )

    def forget_failures(self) -> None:
        """Let failed trials be run again, from the stage that failed."""
        for row in self.rows:
            if row["state"] == "failed" and row["key"]:
                (self.folder / row["folder"] / OUTCOME).unlink(missing_ok=True)
                row |= {"state": WAITING, "error": ""}

    def bench(self) -> BenchSection:
        """Return how everything is measured, which no trial changes."""
        known = recipes.flags()
        given = {n: v for n, v in self.space.fixed.items() if n in known and known[n].section == "bench"}
        section = self.base.bench or PLAIN
        options = {**section.model_dump(), **{known[name].field: value for name, value in given.items()}}
        found = recipes.validate_section("bench", options, source="the benchmark of this sweep")
        assert isinstance(found, BenchSection)
        return found

    def job(self, folder: str, row: Mapping[str, Any]) -> Job:
        """Return what a process has to know to run a trial in a folder."""
        recipe = self.recipe(row["values"]).model_copy(update={"name": f"trial {row['number']}"})
        tree = recipe.model_dump(mode="json")
        data = str(self.context.data.path)
        return Job(folder, tree, str(self.context.model), data, self.context.imgsz, self.context.device)

    def identity(self, recipe: Recipe) -> tuple[str, dict[str, Any]]:
        """Return the hash of a trial and what it rests on."""
        teachers = tuple(teacher.path for teacher in recipe.distill.teacher) if recipe.distill else ()
        files = (teachers, recipe.quantize.calibration if recipe.quantize else None)
        if files not in self._hashed:  # weights are large, and most trials share them
            self._hashed[files] = pipeline.inputs_of(self.context, recipe)
        inputs = self._hashed[files]
        return key_of(recipe, inputs, imgsz=self.context.imgsz, device=self.context.device), inputs


def named(row: Mapping[str, Any]) -> str:
    """Return the name of a trial with its values."""
    return f"trial {row['number']} ({title(row['values'])})"
