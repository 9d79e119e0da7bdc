# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Precision maps: what is chosen where times and accuracies are made up, and on real runtimes what the file has."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from yolo_compress import api, quantizing
from yolo_compress.errors import GateNotMet, RecipeError, UsageError
from yolo_compress.quantize import precision, timed
from yolo_compress.quantize.placement import place
from yolo_compress.quantize.precision import precision_map, worth
from yolo_compress.quantize.result import LayerRow, QuantizeResult
from yolo_compress.quantize.savings import Saving, Savings, measure_savings
from yolo_compress.quantize.scheme import SCHEMES
from yolo_compress.quantize.timed import Measured
from yolo_compress.recipe import QuantizeSection

LAYERS = 57  # of the tiny model that may be quantized


def measured(layers: int) -> Measured:
    """Return a time that one per cent goes from with each layer in INT8."""
    ratio = 1 - 0.01 * layers
    return Measured(ratio, (ratio - 0.01, ratio + 0.01), 10 * ratio, 10.0)


class Model:
    """A model whose layers cost and save what is said, without any file."""

    def __init__(self, path: Path, monkeypatch, folder: Path) -> None:
        self.path, self.out, self.writes, self.points = path, folder / "int8.onnx", [], 0.1
        placement = place(onnx.load(str(path)).graph, SCHEMES["openvino"])
        self.layers = [layer.name for layer in placement.layers if not layer.why]
        assert len(self.layers) == LAYERS
        self.costs = {name: 1.0 + index for index, name in enumerate(self.layers)}
        self.savings = dict.fromkeys(self.layers, 0.1)
        self.ranked = self.timed = 0
        monkeypatch.setattr(precision, "_Bench", lambda *given: SimpleNamespace(measure=self.measure))
        monkeypatch.setattr(precision, "measure_savings", self.measure_savings)
        monkeypatch.setattr(precision, "onnx_sensitivity", self.rank)

    def choose(self, **options):
        return precision_map(
            QuantizeSection(**options), self.path, self.quantized, accuracy=self.accuracy, images=(), imgsz=64
        )

    def quantized(self, keep, *, repaired=True):
        self.writes.append((tuple(keep), repaired))
        rows = [
            LayerRow(
                name, "fp32" if name in keep else "int8", "", None, "", None, None, f"keep={name}" * (name in keep)
            )
            for name in self.layers
        ]
        return QuantizeResult(self.out, tuple(rows), (), 0, 0, 0)

    def coded(self) -> int:
        """Count the layers in INT8 of what was written last."""
        return LAYERS - len(self.writes[-1][0])

    def measure(self, path):
        self.timed += 1
        return measured(self.coded())

    def accuracy(self, path):
        return 0.5 if path == self.path else 0.5 - 0.01 * self.points * self.coded()

    def measure_savings(self, *given, **options):
        return Savings({n: Saving(1 + saved, 1.0) for n, saved in self.savings.items()}, Saving(1.0, 1.0))

    def rank(self, *given, **options):
        self.ranked += 1
        return [SimpleNamespace(layer=name, output_change=cost) for name, cost in self.costs.items()]


@pytest.fixture
def model(awake, monkeypatch, tmp_path):
    return Model(awake / "yolov8n.onnx", monkeypatch, tmp_path)


def test_layers_go_back_by_cost_as_far_as_the_time_allows(model):
    """All save alike, so that those in float are the most costly ones, here the last."""
    found = model.choose(latency=0.7)
    assert found.metrics["latency_ratio"] == pytest.approx(0.7, abs=0.011)
    assert found.keep == tuple(model.layers[-len(found.keep) :])
    assert model.writes[-1] == (found.keep, True)
    assert found.metrics["latency_ms_p50"] == pytest.approx(10 * found.metrics["latency_ratio"])
    assert {row.name: row.why for row in found.result.layers} == {
        name: f"costs {model.costs[name]:.3g}, saves 0.10 ms" if name in found.keep else "" for name in model.layers
    }
    assert found.notes[0].endswith(" of 10.00 ms, latency=0.7 was asked")
    assert found.notes[1].startswith(f"{len(found.keep)} layers went back to float: {found.keep[0]} (costs ")
    assert model.timed <= 6


def test_repair_is_left_out_of_the_search_and_the_finished_graph_is_timed(model):
    found = model.choose(latency=0.7, bias_correction=True)
    assert [repaired for _, repaired in model.writes] == [False] * (len(model.writes) - 1) + [True]
    plain = model.timed
    model.choose(latency=0.7)
    assert plain == model.timed - plain + 1
    assert found.metrics["latency_ratio"] == measured(model.coded()).ratio


def test_a_time_that_no_map_meets_ends_with_the_fastest_one_before_layers_are_ranked(model):
    with pytest.raises(
        GateNotMet,
        match=r"latency=0\.3 cannot be met on openvino: the nearest map, with 0 layers in float, was measured at "
        r"0\.430 \(0\.420 to 0\.440\) of the float model's time, 4\.30 of 10\.00 ms; by its profile INT8 saves nothing "
        r"in 0 of 57 layers; it is in '.*int8\.onnx': ask for latency=0\.4[34] or more, or prune the model",
    ) as caught:
        model.choose(latency=0.3)
    assert caught.value.exit_code == 3
    assert model.coded() == LAYERS
    assert model.ranked == 0
    model.measure = lambda path: Measured(1.1, None, 11.0, 10.0)
    model.savings = dict.fromkeys(model.layers, -0.1)
    with pytest.raises(GateNotMet, match=r"saves nothing in 57 of 57 layers.*INT8 does not pay here: leave the"):
        model.choose(latency=0.9)


def test_both_a_time_and_a_drop_have_to_hold(model):
    found = model.choose(latency=0.7, max_drop=3.5)
    assert found.notes[1] == f"quantization costs {0.1 * model.coded():.2f} mAP50-95 points, max_drop=3.5 was asked"
    message = (
        r"latency=0\.7 and max_drop=1 cannot be met together on openvino: the cheapest map that is fast enough, with "
        r"\d+ layers in float, was measured at 0\.[67].* and costs \d\.\d\d mAP50-95 points; it is in '.*int8\.onnx': "
        "allow more time, or a larger drop"
    )
    with pytest.raises(GateNotMet, match=message) as caught:
        model.choose(latency=0.7, max_drop=1)
    assert caught.value.exit_code == 3
    assert model.writes[-1][0] == found.keep
    with pytest.raises(GateNotMet, match=r"latency=0\.3 cannot be met.* and costs 5\.70 mAP50-95 points; by its"):
        model.choose(latency=0.3, max_drop=1)


def test_a_drop_alone_takes_the_fastest_map_that_holds(model):
    """Half of the layers save ten times as much as the others, which therefore go back first."""
    model.costs = dict.fromkeys(model.layers, 1.0)
    model.savings = {name: 1.0 if index % 2 else 0.1 for index, name in enumerate(model.layers)}
    found = model.choose(max_drop=4.05, timed=True)
    assert len(found.keep) in (17, 18)  # 40 layers in INT8 hold, and the knapsack goes in steps of one per cent
    assert {row.why for row in found.result.layers} == {"", "costs 1, saves 0.10 ms"}
    assert found.metrics["latency_ratio"] == measured(LAYERS - len(found.keep)).ratio
    assert model.timed == 1
    assert model.choose(max_drop=6, timed=True).notes[2] == "no layer had to go back to float"
    model.points = 0.0
    model.accuracy = lambda path: 0.5 if path == model.path else 0.4
    with pytest.raises(GateNotMet, match=r"costs 10\.00 mAP50-95 points with all 57 layers in float"):
        model.choose(max_drop=4, timed=True)


def test_layers_that_the_profile_does_not_name_stay_in_int8(model):
    unnamed = model.layers[-1]
    del model.savings[unnamed]
    model.costs[unnamed] = 1e6
    found = model.choose(latency=0.7)
    assert found.keep == tuple(model.layers[-1 - len(found.keep) : -1])


def coded(path: Path) -> int:
    """Count the convolutions of a graph whose weights are codes."""
    graph = onnx.load(str(path)).graph
    return sum(value.data_type == onnx.TensorProto.INT8 and len(value.dims) == 4 for value in graph.initializer)


@pytest.fixture
def quantize(awake, graphs, tmp_path, monkeypatch):
    """Return what quantizes a tiny model whose times follow from how many layers of the file are in INT8.

    Everything else is real: the engines are built and run, nodes are profiled, detections are compared.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "measure_savings", functools.partial(measure_savings, turns=1, rounds=1))
    monkeypatch.setattr(timed, "TRIES", 1)

    def measure(self, graph):
        session = self.engine.load(self.build(graph), threads=1)
        assert session.infer(precision.noise_image(64)).shape[0] == 1
        session.close()
        return measured(coded(graph))

    monkeypatch.setattr(precision._Bench, "measure", measure)

    def run(**options):
        given = {"data": graphs / "data/data.yaml", "imgsz": 64, "images": 2, "project": tmp_path / "out"}
        return api.quantize(awake / "yolov8n.onnx", **given, progress=len, **options)

    return run


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_the_reported_map_is_what_the_file_has(quantize, target):
    """Profiles are those of a runtime on a model of microseconds: which layers save is chance, but not the report."""
    pytest.importorskip(target)
    made = quantize(latency=0.8, target=target)
    rows = {row["name"]: row for row in made.tables["quantize"]}
    kept = [name for name, row in rows.items() if row["why"].startswith("costs ")]
    assert {row["precision"] for row in rows.values() if row["why"]} == {"fp32"}
    assert coded(made.path) == LAYERS - len(kept) == sum(row["precision"] == "int8" for row in rows.values())
    weights = {value.name for value in onnx.load(str(made.path)).graph.initializer}
    for name, row in rows.items():
        floating = f"{name}.weight" in weights or f"{name}.conv.weight" in weights
        assert floating == (row["precision"] == "fp32")
    assert made.metrics["latency_ratio"] == measured(coded(made.path)).ratio <= 0.8 * 1.03
    assert any(note.startswith(f"measured on {target}: 0.") and "latency=0.8 was asked" in note for note in made.notes)
    told = next(note for note in made.notes if "back to float" in note)
    assert all(name in told for name in kept)
    assert any(note.startswith("by the runtime's profile, 57 layers take") for note in made.notes)


def test_without_a_time_nothing_is_timed(quantize, monkeypatch):
    for name in ("precision_map", "cache_folder"):
        monkeypatch.setattr(quantizing, name, lambda *given, **options: pytest.fail("timed"))
    made = quantize()
    assert "latency_ratio" not in made.metrics
    assert coded(made.path) == LAYERS


def test_options_that_cannot_be_used_are_refused_before_anything_is_written(quantize, tmp_path):
    with pytest.raises(UsageError, match="is measured on target=tensorrt, which cannot run here"):
        quantize(latency=0.7, target="tensorrt")
    with pytest.raises(RecipeError, match=r"timed says how layers are chosen.*give max_drop=0\.3"):
        quantize(timed=True)
    with pytest.raises(RecipeError, match=r"latency=1\.5: input should be less than 1"):
        quantize(latency=1.5)
    assert not (tmp_path / "out").exists()


def test_what_a_layer_is_worth_in_words():
    assert worth(0.01234, 0.456) == "costs 0.0123, saves 0.46 ms"
    assert worth(1.0, -0.25) == "costs 1, takes 0.25 ms more"
