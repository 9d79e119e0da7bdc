# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A search by Optuna for trials that are accurate and fast, or accurate and small, kept in the sweep's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress.errors import UsageError, entry_of, require
from yolo_compress.sweep.space import Space, show

JOURNAL = "optuna.journal"
STUDY = "sweep"
NOTHING_VARIES = (
    "every flag has one value, so there is nothing to search; give a range, such as prune=0.2..0.6, or several values"
)
SEARCHES = {"optuna": "Optuna's tree-structured Parzen estimator for several objectives"}
OBJECTIVES = {
    "latency": "mAP50-95 up, time as a ratio to the first native export down",
    "size": "mAP50-95 up, bytes of the file down",
}


@dataclass(frozen=True)
class SearchOptions:
    """How a search goes.

    Attributes:
        trials: Suggestions in all; one that comes to an earlier trial counts, and is not run again.
        objective: What is wanted beside accuracy; see `OBJECTIVES`.
        seed: Of the sampler.
    """

    trials: int = 20
    objective: str = "latency"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: One is out of range.
        """
        entry_of(OBJECTIVES, "objective", self.objective)
        if self.trials < 1:
            raise UsageError(f"trials={self.trials} leaves nothing to run; give at least 1")


class OptunaSearch:
    """Suggests values and is told what came of them; what it knows outlives the process."""

    def __init__(self, folder: Path, space: Space, *, seed: int = 0) -> None:
        """Open the study in a folder, or begin one.

        Raises:
            MissingDependency: optuna is not installed.
            UsageError: Nothing varies.
        """
        if not space.varied:
            raise UsageError(NOTHING_VARIES)
        optuna = self.optuna = require("optuna", extra="sweep", purpose="searches")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
        storage = optuna.storages.JournalStorage(backend)
        self.study = optuna.create_study(
            study_name=STUDY, storage=storage, directions=["maximize", "minimize"], load_if_exists=True
        )
        # a sampler forgets its place when the process ends; the same seed again would suggest the same values again
        self.study.sampler = optuna.samplers.TPESampler(seed=seed + len(self.study.trials))
        self.choices = {flag: {show(value): value for value in values} for flag, values in space.choices.items()}
        self.distributions: dict[str, Any] = {
            flag: optuna.distributions.CategoricalDistribution(list(texts)) for flag, texts in self.choices.items()
        }
        for flag, span in space.spans.items():
            kind = optuna.distributions.IntDistribution if span.whole else optuna.distributions.FloatDistribution
            self.distributions[flag] = kind(span.low, span.high, log=span.log)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Return the number of a suggestion and its values by flag."""
        trial = self.study.ask(self.distributions)
        values = {flag: self.choices.get(flag, {}).get(value, value) for flag, value in trial.params.items()}
        return trial.number, {flag: values[flag] for flag in self.distributions}

    def tell(self, number: int, figures: tuple[float, float] | None) -> None:
        """Tell what came of a suggestion: mAP50-95 and what is to be small, or None where nothing did."""
        if figures is None:
            self.study.tell(number, state=self.optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(number, list(figures))

    def told(self) -> int:
        """Return how many suggestions were answered."""
        return sum(trial.state.is_finished() for trial in self.study.trials)

    def open(self) -> list[int]:
        """Return the numbers of the suggestions that were not answered."""
        return [trial.number for trial in self.study.trials if not trial.state.is_finished()]
