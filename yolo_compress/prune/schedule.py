# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""When a training run prunes, and how far each time.

Steps are shares of what is to be removed in all, from 0 to 1. `iterative` takes equal steps at equal distances.
`gradual` takes large steps first, by the cubic rule

    s_k = 1 - (1 - k / n)^3                     (Zhu and Gupta, "To prune, or not to prune", 2017),

and sets its pace by the validation after each epoch: while accuracy has come back to within `tolerance` of what it was
before the last step, the next one follows at once; otherwise the model trains on. When it has not come back after
`PATIENCE` times the planned distance, the step is undone and half of it is tried. At the last epoch of the window what
is left is removed in one step, so that the target is met in any case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from yolo_compress.errors import UsageError

Kind = Literal["iterative", "gradual"]
Action = Literal["wait", "step", "back"]

PATIENCE = 1.0
SMALLEST = 0.02  # share of everything below which a step is not halved again


@dataclass(frozen=True)
class Progress:
    """Where a schedule stands; plain data, so that a resumed run goes on from it.

    Attributes:
        done: Share of what is to be removed that is gone.
        width: Factor on the next steps, halved by each step back.
        last_epoch: Epoch before which the last step or step back was taken, -1 for none.
        before: Accuracy in points before the last step.
        accuracy: Accuracy in points after each epoch since the last step.
        steps: How many steps were taken and kept.
        previous: `done` before the last step, to which a step back returns.
        noted: Last epoch whose accuracy was taken down.
    """

    done: float = 0.0
    width: float = 1.0
    last_epoch: int = -1
    before: float | None = None
    accuracy: tuple[float, ...] = ()
    steps: int = 0
    previous: float = 0.0
    noted: int = -1

    def seen(self, epoch: int, points: float) -> Progress:
        """Return the progress after an epoch was validated."""
        return replace(self, accuracy=(*self.accuracy, points), noted=epoch)


class Schedule:
    """Decides before each epoch."""

    def __init__(
        self, kind: Kind, *, steps: int, epochs: int, start: float = 0.0, window: float = 1.0, tolerance: float = 1.0
    ) -> None:
        """Plan the window.

        Args:
            kind: `iterative` or `gradual`.
            steps: Number of steps that are planned.
            epochs: Of the whole run.
            start: Share of the epochs before the first step.
            window: Share of the epochs after which the target is met; the rest is left for recovery.
            tolerance: mAP50-95 points that accuracy may stay below what it was before a step.

        Raises:
            UsageError: There are fewer epochs in the window than steps.
        """
        self.kind, self.steps, self.tolerance = kind, steps, tolerance
        self.first, self.last = round(epochs * start), round(epochs * window) - 1
        room = self.last - self.first + 1
        if room < steps:
            enough = math.ceil((steps + 1) / (window - start))
            raise UsageError(
                f"prune_schedule={kind} takes prune_steps={steps} steps, and {epochs} epochs with "
                f"prune_start={start:g} and prune_window={window:g} leave room for {max(room, 0)}; "
                f"give epochs={enough} or more" + (f", or prune_steps={room}" if room > 0 else "")
            )
        self.distance = room / steps

    def decide(self, epoch: int, progress: Progress) -> tuple[Action, float]:
        """Return what to do before an epoch (from 0), and the share of everything that is gone afterwards."""
        if progress.done >= 1 or epoch == progress.last_epoch:
            return "wait", progress.done
        if epoch >= self.last:
            return "step", 1.0
        if self.kind == "iterative":
            due = self.first + progress.steps * self.distance
            return ("step", self._level(progress)) if epoch >= due else ("wait", progress.done)
        if epoch < self.first or not progress.accuracy:  # a gradual schedule first learns what accuracy there is
            return "wait", progress.done
        if progress.last_epoch < 0 or self._holds(progress):
            return "step", self._level(progress)
        late = len(progress.accuracy) >= max(1.0, PATIENCE * self.distance)
        if late and progress.done > progress.previous and (progress.done - progress.previous) / 2 >= SMALLEST:
            return "back", progress.previous
        return "wait", progress.done

    def taken(self, epoch: int, progress: Progress, level: float) -> Progress:
        """Return the progress after a step to `level`."""
        before = progress.accuracy[-1] if progress.accuracy else progress.before
        return Progress(
            done=level,
            width=progress.width,
            last_epoch=epoch,
            before=before,
            accuracy=(),
            steps=progress.steps + 1,
            previous=progress.done,
            noted=progress.noted,
        )

    def undone(self, epoch: int, progress: Progress) -> Progress:
        """Return the progress after a step back; the model trains an epoch before it tries half of the step."""
        return replace(
            progress,
            done=progress.previous,
            width=progress.width / 2,
            last_epoch=epoch,
            accuracy=(),
            steps=progress.steps - 1,
        )

    def _holds(self, progress: Progress) -> bool:
        return progress.before is None or progress.accuracy[-1] >= progress.before - self.tolerance

    def _level(self, progress: Progress) -> float:
        """Return the level of the next planned step, or half of it and so on after steps back."""
        planned: Sequence[float] = [self._planned(k) for k in range(1, self.steps + 1)]
        following = next((level for level in planned if level > progress.done + 1e-9), 1.0)
        return progress.done + progress.width * (following - progress.done)

    def _planned(self, step: int) -> float:
        share = step / self.steps
        return share if self.kind == "iterative" else 1 - (1 - share) ** 3
