# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures that every test may use: real data where it is, tiny models and data where it is not."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# set before Ultralytics is imported: it must not touch the user's settings nor install anything
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="yolo_compress_settings_"))
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ["YOLO_OFFLINE"] = "true"

import hypothesis
import pytest

from tests.tiny import tiny_model, write_data

SLOW = Path(__file__).with_name("slow.txt")

# many of these draw a network or a tensor; those that have to look further say so themselves
hypothesis.settings.register_profile("yolo_compress", max_examples=30, deadline=None)
hypothesis.settings.load_profile("yolo_compress")


def slow_tests() -> list[str]:
    """Return the tests that only run when `--slow` is given."""
    lines = SLOW.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make test-all` gives."""
    parser.addoption("--slow", action="store_true", help=f"run those of {SLOW.name} as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what repeats another test and takes long, unless it is asked for."""
    listed = set() if config.getoption("--slow") else set(slow_tests())
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.skip(reason=f"repeats another test and is in {SLOW.name}: run with --slow"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real images and weights, or skip."""
    folder = os.environ.get("YOLO_COMPRESS_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("YOLO_COMPRESS_DATA is not set: no real images and weights here")
    return Path(folder)


@pytest.fixture
def make_checkpoint(tmp_path):
    """Return a function that writes a tiny stock checkpoint and gives its path."""
    from yolo_compress.host.checkpoint import save_model

    def make(family: str = "yolov8n", *, name: str | None = None, **options) -> Path:
        path = tmp_path / (name or f"{family}.pt")
        save_model(tiny_model(family, **options), path)
        return path

    return make


@pytest.fixture
def tiny_data(tmp_path) -> Path:
    """Return the YAML of an eight-image data set at 64 pixels."""
    return write_data(tmp_path / "data")
