# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""When schedules prune: against the cubic rule, and against accuracies that are made up."""

from __future__ import annotations

import pytest

from yolo_compress.errors import UsageError
from yolo_compress.prune.schedule import Progress, Schedule


def _play(schedule: Schedule, epochs: int, accuracy) -> list[tuple[int, str, float]]:
    """Return (epoch, action, level) of all that a schedule does while accuracy(epoch, progress) answers."""
    progress, done = Progress(), []
    for epoch in range(epochs):
        action, level = schedule.decide(epoch, progress)
        if action == "step":
            progress = schedule.taken(epoch, progress, level)
        elif action == "back":
            progress = schedule.undone(epoch, progress)
        if action != "wait":
            assert schedule.decide(epoch, progress)[0] == "wait", "a resumed epoch would prune twice"
            done.append((epoch, action, round(level, 6)))
        progress = progress.seen(epoch, accuracy(epoch, progress))
    return done


def test_iterative_takes_equal_steps_at_equal_distances() -> None:
    done = _play(Schedule("iterative", steps=4, epochs=20, window=0.8), 20, lambda epoch, progress: 0.0)
    assert done == [(0, "step", 0.25), (4, "step", 0.5), (8, "step", 0.75), (12, "step", 1.0)]
    late = _play(Schedule("iterative", steps=1, epochs=10, start=0.5, window=0.9), 10, lambda epoch, progress: 0.0)
    assert late == [(5, "step", 1.0)]


def test_gradual_follows_the_cubic_rule_while_accuracy_holds() -> None:
    done = _play(Schedule("gradual", steps=4, epochs=20, window=0.8, tolerance=1.0), 20, lambda epoch, progress: 40.0)
    assert done == [(1, "step", 0.578125), (2, "step", 0.875), (3, "step", 0.984375), (4, "step", 1.0)]


def test_gradual_waits_for_accuracy_to_come_back() -> None:
    def accuracy(epoch: int, progress: Progress) -> float:
        since = epoch - progress.last_epoch
        return 40.0 if progress.last_epoch < 0 or since >= 2 else 30.0

    done = _play(Schedule("gradual", steps=2, epochs=20, window=0.9, tolerance=1.0), 20, accuracy)
    assert done == [(1, "step", 0.875), (4, "step", 1.0)]


def test_gradual_steps_back_and_tries_half() -> None:
    def accuracy(epoch: int, progress: Progress) -> float:
        return 40.0 if progress.done < 0.5 else 20.0

    schedule = Schedule("gradual", steps=4, epochs=40, window=0.5, tolerance=1.0)
    done = _play(schedule, 40, accuracy)
    assert done[0] == (1, "step", 0.578125)
    assert done[1][1:] == ("back", 0.0)
    assert done[2][1:] == ("step", round(0.578125 / 2, 6))
    assert done[-1] == (19, "step", 1.0), "the target is met at the end of the window in any case"


@pytest.mark.parametrize("kind", ["iterative", "gradual"])
@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("value", [0.0, 50.0])
def test_the_target_is_met_within_the_window(kind, steps: int, value: float) -> None:
    done = _play(Schedule(kind, steps=steps, epochs=30, start=0.1, window=0.7), 30, lambda e, p: value - p.done * 10)
    assert done[-1][1:] == ("step", 1.0)
    assert done[0][0] >= 3
    assert done[-1][0] <= 20


def test_too_few_epochs_say_how_many_would_do() -> None:
    with pytest.raises(UsageError, match=r"steps=4 steps, and 5 epochs .* leave room for 3; give epochs=9 or more, or"):
        Schedule("gradual", steps=4, epochs=5, window=0.6)
    Schedule("gradual", steps=4, epochs=9, window=0.6)
