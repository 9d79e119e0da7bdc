# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Broken candidates are refused a latency, and different ones a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.bench.samples import row
from yolo_compress.bench import verdict
from yolo_compress.bench.result import Candidate
from yolo_compress.bench.verdict import check_classes, refusals, weights_of
from yolo_compress.engines.tensorrt.plan import write_plan
from yolo_compress.errors import UsageError
from yolo_compress.host.data import DataSpec

NAMES = ("disc", "box", "bar")


def data(names=NAMES):
    return DataSpec(Path("data.yaml"), names, (), ())


def judge(*pairs, share=0.5):
    candidates = [Candidate(r.label, Path(r.label), **extra) for r, extra in pairs]
    return refusals([r for r, _ in pairs], candidates, share)


def test_a_good_candidate_passes():
    rows = judge((row("best.pt"), {}), (row("best_int8.onnx", precision="int8", map50_95=0.34), {}))
    assert [r.status for r in rows] == ["ok", "ok"]
    assert [r.reason for r in rows] == ["", ""]


def test_output_that_is_not_finite_is_refused():
    (only,) = judge((row("best.pt", images_not_finite=3), {}))
    assert only.status == "refused"
    assert only.reason == "the output holds NaN or infinity on 3 images"


def test_no_detections_is_refused():
    (only,) = judge((row("best.pt", detections=0, map50_95=0.0), {}))
    assert only.reason == "nothing is detected on any image"


def test_far_below_the_float_candidate_of_the_same_weights_is_refused():
    rows = judge((row("best.pt", map50_95=0.40), {}), (row("best_int8.onnx", precision="int8", map50_95=0.19), {}))
    assert [r.status for r in rows] == ["ok", "refused"]
    assert rows[1].reason == "mAP50-95 of 19.0 is below 0.5 of the 40.0 that best.pt reaches with the same weights"


def test_a_broken_float_engine_is_refused_too():
    rows = judge((row("best.pt", map50_95=0.40), {}), (row("best_fp16.onnx", precision="fp16", map50_95=0.045), {}))
    assert [r.status for r in rows] == ["ok", "refused"]


def test_other_weights_are_not_a_measure():
    rows = judge((row("large.pt", map50_95=0.50), {}), (row("nano.pt", map50_95=0.20), {}))
    assert [r.status for r in rows] == ["ok", "ok"]


def test_stated_weights_join_files_of_different_names():
    pairs = [(row("a", map50_95=0.5), {"weights": "x"}), (row("b", precision="int8", map50_95=0.2), {"weights": "x"})]
    assert [r.status for r in judge(*pairs)] == ["ok", "refused"]
    assert [r.status for r in judge(*pairs, share=0.3)] == ["ok", "ok"]


def test_an_int8_candidate_is_no_measure_for_another():
    pairs = [(row(n, precision="int8", map50_95=m), {"weights": "x"}) for n, m in (("a", 0.4), ("b", 0.1))]
    assert [r.status for r in judge(*pairs)] == ["ok", "ok"]


def test_a_known_float_accuracy_is_a_measure():
    (only,) = judge((row("ours", precision="int8", map50_95=0.1), {"float_map50_95": 0.35}))
    assert only.reason == "mAP50-95 of 10.0 is below 0.5 of the 35.0 that its float model reaches with the same weights"


@pytest.mark.parametrize(
    "name",
    [
        "best.pt",
        "best.onnx",
        "best_int8.onnx",
        "best_openvino_model",
        "best_int8_openvino_model",
        "best_fp16.onnx",
        "best.engine",
        "best.rtx.engine",
    ],
)
def test_versions_of_one_model_are_known_by_name(tmp_path, name):
    path = tmp_path / name
    if name.endswith("_model"):
        path.mkdir()
    assert weights_of(Candidate(name, path)) == str(tmp_path / "best")


def test_models_in_different_folders_are_different():
    assert weights_of(Candidate("a", Path("x/best.pt"))) != weights_of(Candidate("b", Path("y/best.pt")))


@pytest.fixture
def classes(monkeypatch):
    known = {}
    monkeypatch.setattr(verdict, "_class_names", lambda path, engine: known[path.name])
    return known


def check(classes, given, names=NAMES):
    classes.update(given)
    return check_classes([Candidate(n, Path(n)) for n in given], ["openvino"] * len(given), data(names))


def test_equal_classes_are_compared_without_a_note(classes):
    assert check(classes, {"a": NAMES, "b": NAMES}) == ()


def test_different_classes_are_not_compared(classes):
    with pytest.raises(UsageError, match="'b' and 'a' have different classes, 'cube' and 'box'; compare models that"):
        check(classes, {"a": NAMES, "b": ("disc", "cube", "bar")})


def test_another_number_of_classes_than_the_data_is_refused(classes):
    with pytest.raises(UsageError, match=r"'a' has 2 classes and data 'data.yaml' has 3; give the data YAML that"):
        check(classes, {"a": ("disc", "box")})


def test_other_names_than_the_data_are_noted(classes):
    (note,) = check(classes, {"a": ("disk", "box", "bar")})
    assert note == "a calls a class 'disk' that the data calls 'disc'; matched by number"


def test_no_names_are_noted(classes):
    (note,) = check(classes, {"a": ()})
    assert note.startswith("a carries no class names")


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt_rtx"])
def test_names_are_read_from_the_header_of_an_engine(tmp_path, engine):
    write_plan(tmp_path / "best.engine", b"plan", {"names": "{0: 'disc', 1: 'box', 2: 'bar'}"})
    assert verdict._class_names(tmp_path / "best.engine", engine) == NAMES
    (tmp_path / "bare.engine").write_bytes(b"ftrt")
    assert verdict._class_names(tmp_path / "bare.engine", engine) == ()


def test_names_are_read_from_a_checkpoint(make_checkpoint):
    path = make_checkpoint()
    assert check_classes([Candidate("a", path)], ["pytorch"], data()) == ()
    with pytest.raises(UsageError, match="has 3 classes and data"):
        check_classes([Candidate("a", path)], ["pytorch"], data(("one",)))
