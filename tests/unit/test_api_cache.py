# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Calibration caches through the functions and the command line that users call."""

from __future__ import annotations

import dataclasses
import shutil

import onnx
import pytest

from tests.tiny import tiny_model
from yolo_compress import api
from yolo_compress.cli import main
from yolo_compress.engines.tensorrt.cache import CalibrationCache
from yolo_compress.engines.tensorrt.key import CacheKey, graph_sha256, write_cache
from yolo_compress.errors import DataError, UsageError


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a folder with a small checkpoint, its float ONNX, and a cache with a scale for every tensor."""
    from yolo_compress.host.checkpoint import save_model
    from yolo_compress.host.export import export_onnx

    folder = tmp_path_factory.mktemp("api_cache")
    save_model(tiny_model(), folder / "best.pt")
    nodes = onnx.load(str(export_onnx(folder / "best.pt", folder / "float.onnx", imgsz=64))).graph.node
    scales = {"images": 1 / 127, **{name: 0.05 for node in nodes for name in node.output}}
    (folder / "calib.cache").write_bytes(CalibrationCache(100300, "EntropyCalibration2", scales).to_bytes())
    return folder


@pytest.fixture
def small(exported, tmp_path):
    """Return the float ONNX, and a copy of the cache to write beside."""
    shutil.copy(exported / "calib.cache", tmp_path)
    return exported / "float.onnx", tmp_path / "calib.cache"


def test_a_cache_makes_a_graph_and_a_graph_makes_a_cache(small, tmp_path, capsys):
    graph, cache = small
    assert main(["quantize", f"model={graph}", f"cache={cache}", f"project={tmp_path}", "name=int8"]) == 0
    out = capsys.readouterr().out
    assert f"wrote {tmp_path / 'int8/int8.onnx'}" in out
    assert "tensors of the cache have no quantizer" in out
    assert "nothing says which weights 'calib.cache' was calibrated with" in out
    model = f"model={tmp_path / 'int8/int8.onnx'}"
    assert main(["cache", model, "trt_version=8.6.0", f"project={tmp_path}", "name=parts"]) == 0
    out = capsys.readouterr().out
    assert all(f"wrote {tmp_path / 'parts' / name}" in out for name in ("float.onnx", "float_layers.txt"))
    assert "layers with quantizers, such as" in out
    made = CalibrationCache.read(tmp_path / "parts/calibration.cache")
    assert (made.version, made.algorithm) == (8600, "EntropyCalibration2")
    assert made.scales.items() <= CalibrationCache.read(cache).scales.items()
    pins = (tmp_path / "parts/float_layers.txt").read_text().splitlines()
    assert "/model.22/dfl/conv/Conv" in pins
    assert set(pins) < {node.name for node in onnx.load(str(tmp_path / "parts/float.onnx")).graph.node}
    again = api.quantize(
        tmp_path / "parts/float.onnx", cache=tmp_path / "parts/calibration.cache", keep="model.0", project=tmp_path
    )
    assert again.path == tmp_path / "float_int8/int8.onnx"
    rows = {row["name"]: row for row in again.tables["quantize"]}
    assert rows["model.0"]["why"] == "keep=model.0"
    assert rows["model.1"]["method"] == "cache"
    assert again.tables["unused"]


def test_a_checkpoint_is_exported_first(exported, small, tmp_path):
    made = api.quantize(exported / "best.pt", cache=small[1], imgsz=64, target="tensorrt", project=tmp_path)
    assert made.path == tmp_path / "best_int8/int8.onnx"
    assert (tmp_path / "best_int8/float.onnx").is_file()


def test_a_cache_of_other_weights_is_refused(small, tmp_path):
    graph, cache = small
    key = CacheKey(graph_sha256(graph), "b" * 64, "letterbox", "EntropyCalibration2", "10.3.0")
    write_cache(cache, cache.read_bytes(), key)
    made = api.quantize(graph, cache=cache, project=tmp_path)
    assert not any("nothing says" in note for note in made.notes)
    write_cache(cache, cache.read_bytes(), dataclasses.replace(key, model="a" * 64))
    with pytest.raises(UsageError, match=r"belongs to another calibration: model aaaaaaaaaaaa \(now \w{12}\)"):
        api.quantize(graph, cache=cache, project=tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "ranges come from images or from a calibration cache of TensorRT; give one of data=FILE.yaml"),
        ({"cache": "c.cache", "data": "d.yaml"}, UsageError, "ranges come from images or from a calibration cache"),
        ({"cache": "c.cache", "target": "openvino"}, UsageError, "for target=tensorrt, and target=openvino was given"),
        (
            {"cache": "c.cache", "range": "mse", "images": 8},
            UsageError,
            "a calibration cache settles how ranges are chosen; leave out images, range",
        ),
        ({"cache": "c.cache"}, DataError, r"'c\.cache' cannot be read \(No such file or directory\)"),
    ],
)
def test_what_does_not_go_together_is_refused(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        api.quantize("a.onnx", project=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_become_a_cache_is_refused_before_the_model_is_read(tmp_path):
    with pytest.raises(UsageError, match=r"trt_version=10\.3 is not a version of TensorRT"):
        api.cache("a.onnx", trt_version=10.3)
    with pytest.raises(UsageError, match=r"algorithm=Entropy is not known; .* EntropyCalibration2"):
        api.cache("a.onnx", trt_version="10.3.0", algorithm="Entropy")
    with pytest.raises(DataError, match=r"'a\.onnx' does not exist"):
        api.cache("a.onnx", trt_version="10.3.0", project=tmp_path)
    (tmp_path / "bad.cache").write_bytes(b"TRT-8600-EntropyCalibration2\nimages: 0\n")
    with pytest.raises(DataError, match=r"bad\.cache': line 2 of the calibration cache .* the scale is zero"):
        api.quantize("a.onnx", cache=tmp_path / "bad.cache", project=tmp_path)
