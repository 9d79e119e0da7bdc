# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What training runs of tests have in common."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from yolo_compress.host.trainer import CompressTrainer


class Cut(Exception):
    """Stands for a process that ends between two epochs."""


@pytest.fixture
def settings(tiny_data, tmp_path):
    return {
        "data": str(tiny_data),
        "epochs": 2,
        "imgsz": 64,
        "batch": 4,
        "nbs": 4,
        "project": str(tmp_path / "runs"),
        "plots": False,
        "device": "cpu",
        "optimizer": "SGD",
        "lr0": 0.01,
        "warmup_epochs": 0,
        "mosaic": 0.0,
        "seed": 3,
    }


@pytest.fixture
def killed(tmp_path):
    """Return a function that trains in a process of its own, which SIGKILL ends once an epoch is saved."""

    def train(student: Path, *, epoch: int, **given) -> Path:
        """Return the weights folder of the run; the epoch is counted from 0."""
        code = f"""
import os, signal
from yolo_compress import train
from yolo_compress.host.trainer import CompressTrainer
save = CompressTrainer.save_model
def save_and_die(self):
    save(self)
    if self.epoch == {epoch}:
        os.kill(os.getpid(), signal.SIGKILL)
CompressTrainer.save_model = save_and_die
train.train({str(student)!r}, name="cut", **{given!r})
"""
        died = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        assert died.returncode == -9, died.stderr.decode()[-2000:]
        return tmp_path / "runs" / "cut" / "weights"

    return train


@pytest.fixture
def cut(monkeypatch):
    """Return a context in which a run ends, as if its process had, instead of saving for the n-th time."""

    @contextmanager
    def at_save(number: int):
        saves, save = [], CompressTrainer.save_model

        def save_and_end(self):
            saves.append(self.epoch)
            if len(saves) == number:
                raise Cut
            return save(self)

        with monkeypatch.context() as patch, pytest.raises(Cut):
            patch.setattr(CompressTrainer, "save_model", save_and_end)
            yield

    return at_save


@pytest.fixture
def falling(monkeypatch):
    """Let every epoch of a run be worse than the one before; return the epochs that were validated."""
    validate, seen = CompressTrainer.validate, []

    def falling(self):
        metrics, _ = validate(self)
        fitness = 1 / (1 + self.epoch)
        if self.best_fitness is None or self.best_fitness < fitness:
            self.best_fitness = fitness
        seen.append(self.epoch)
        return metrics, fitness

    monkeypatch.setattr(CompressTrainer, "validate", falling)
    return seen
