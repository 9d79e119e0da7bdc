# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Timing of models on real runtimes, and pruning that asks for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.tiny import tiny_model, write_data
from yolo_compress import api, timing
from yolo_compress.errors import UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.data import read_data
from yolo_compress.prune import build_graph, latency, timed
from yolo_compress.recipe import PruneSection
from yolo_compress.timing import RuntimeTiming, cache_folder, timing_for

IMGSZ = 64


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> tuple[Path, ...]:
    return read_data(write_data(tmp_path_factory.mktemp("data"))).train


@pytest.mark.parametrize("target", ["openvino:int8", "openvino:fp32", "onnxruntime:int8", "onnxruntime:fp32"])
def test_a_model_takes_as_long_as_itself(target: str, images, tmp_path) -> None:
    pytest.importorskip(target.partition(":")[0])
    model = tiny_model()
    clock = RuntimeTiming(model, target, imgsz=IMGSZ, images=images, cache=tmp_path, threads=1, rounds=25)
    try:
        session = clock.engine.load(clock.reference, threads=1)
        assert session.describe()["precision"] == target.partition(":")[2]
        session.close()
        convs = build_graph(model, imgsz=IMGSZ).convolutions
        layers = clock.profile(model, [conv.layer for conv in convs])
        assert list(layers) == [conv.layer for conv in convs]
        assert all(seconds > 0 for seconds in layers.values())
        assert RuntimeTiming.profile(clock, tiny_model(seed=1), ()) == layers  # the structure is known: not run again
        own = clock.ratio(model)
        assert 0.2 < own < 5  # wide, since test machines are busy
        assert clock.ratio(tiny_model(width=1.0)) > own  # many times the operations
    finally:
        clock.close()


def test_pruning_to_a_latency_from_the_command(images, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop runs on a real runtime's reference; times are replaced, since those of a busy machine decide nothing."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(timed, "measure_layers", partial(latency.measure_layers, variants=3))
    monkeypatch.setattr(RuntimeTiming, "ratio", lambda self, model: _cost(model) / _cost(tiny_model(width=0.5)))
    checkpoint.save_model(tiny_model(width=0.5), tmp_path / "model.pt")
    made = api.prune(
        tmp_path / "model.pt",
        data=write_data(tmp_path / "data"),
        imgsz=IMGSZ,
        latency=0.7,
        target="openvino:fp32",
        importance="l2",
        repair="batchnorm",
        project=tmp_path / "out",
        progress=len,
    )
    assert _cost(checkpoint.load_model(made.path)) / _cost(tiny_model(width=0.5)) == pytest.approx(0.7, rel=0.03)
    assert any(note.startswith("measured on openvino:fp32: 0.") for note in made.notes)
    assert list((cache_folder()).glob("openvino-fp32-*.json"))


def _cost(model) -> float:
    return sum(p.numel() for p in model.parameters())


def test_no_latency_needs_no_runtime() -> None:
    with timing_for(PruneSection(ratio=0.3), tiny_model(), imgsz=IMGSZ, images=()) as found:
        assert found is None


def test_an_absent_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        name = "openvino"

        def unavailable(self) -> str:
            return "openvino is not installed"

    monkeypatch.setattr(timing, "get_engine", lambda name: Absent())
    with pytest.raises(UsageError, match="target=openvino:int8 cannot be timed here: openvino is not installed"):
        RuntimeTiming(tiny_model(), "openvino:int8", imgsz=IMGSZ, images=())
