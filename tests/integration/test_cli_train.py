# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The command itself, in a process of its own, against `yolo`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.tiny import losses


def train(command: list[str], model: Path, data: Path, project: Path) -> list[dict[str, str]]:
    """Train for an epoch with a user's environment and return the losses as they stand in results.csv."""
    settings = ["epochs=1", "imgsz=64", "batch=4", "seed=5", "plots=False", "device=cpu", "workers=0"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    run = subprocess.run(
        [*command, "train", f"model={model}", f"data={data}", *settings, f"project={project}", "name=run"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return losses(project / "run")


def test_without_our_keys_the_losses_are_those_of_yolo(make_checkpoint, tiny_data, tmp_path):
    model = make_checkpoint()
    yolo = [sys.executable, "-c", "from ultralytics.cfg import entrypoint; entrypoint()"]
    ours = [sys.executable, "-m", "yolo_compress"]
    expected = train(yolo, model, tiny_data, tmp_path / "yolo")
    assert len(expected) == 1
    assert train(ours, model, tiny_data, tmp_path / "ours") == expected
