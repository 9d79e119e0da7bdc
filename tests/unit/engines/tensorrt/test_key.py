# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A cache is used for what it was made for, and for nothing else."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from yolo_compress.calibrate import CalibrationSet
from yolo_compress.engines.tensorrt import key as module
from yolo_compress.engines.tensorrt.cache import CalibrationCache
from yolo_compress.engines.tensorrt.key import (
    CacheKey,
    check_graph,
    graph_sha256,
    preprocessing,
    read_cache,
    sidecar_of,
    write_cache,
)
from yolo_compress.errors import DataError, OutputError, UsageError

CONTENT = CalibrationCache(
    100300, "EntropyCalibration2", {"images": 1 / 127, "/model.0/act/Mul_output_0": 0.5}
).to_bytes()
KEY = CacheKey("a" * 64, "b" * 64, preprocessing(640), "EntropyCalibration2", "10.3.0.26")


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "out" / "calib.cache"
    write_cache(path, memoryview(CONTENT), KEY)
    return path


def graph(path, *, weight=1.0, note="", external=False):
    """Write a graph of one addition."""
    make, kind = onnx.helper, onnx.TensorProto
    values = onnx.numpy_helper.from_array(np.full((1, 300), weight, np.float32), "w")
    made = make.make_graph(
        [make.make_node("Add", ["x", "w"], ["y"], "add")],
        "g",
        [make.make_tensor_value_info("x", kind.FLOAT, [1, 300])],
        [make.make_tensor_value_info("y", kind.FLOAT, [1, 300])],
        [values],
    )
    model = make.make_model(made, ir_version=9, opset_imports=[make.make_opsetid("", 17)])
    entry = model.metadata_props.add()
    entry.key, entry.value = "date", note
    options = {"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": 0} if external else {}
    onnx.save(model, str(path), **options)
    return path


def test_a_cache_comes_back_with_its_key(cache):
    assert read_cache(cache, KEY) == CONTENT
    assert sorted(file.name for file in cache.parent.iterdir()) == ["calib.cache", "calib.cache.json"]
    told = json.loads(sidecar_of(cache).read_text())
    assert told["key"] == dataclasses.asdict(KEY)


def test_no_cache_is_none(tmp_path):
    assert read_cache(tmp_path / "calib.cache", KEY) is None


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("model", "c" * 64, "model aaaaaaaaaaaa (now cccccccccccc)"),
        ("images", "c" * 64, "images bbbbbbbbbbbb (now cccccccccccc)"),
        (
            "preprocessing",
            preprocessing(320),
            "preprocessing letterbox to 640x640, RGB, divided by 255 (now letterbox to 320x320, RGB, divided by 255)",
        ),
        ("algorithm", "MinMaxCalibration", "algorithm EntropyCalibration2 (now MinMaxCalibration)"),
        ("tensorrt", "10.7.0", "tensorrt 10.3.0.26 (now 10.7.0)"),
    ],
)
@pytest.mark.parametrize("trust", [True, False])
def test_a_stale_cache_is_refused_with_the_part_that_differs(cache, part, value, told, trust):
    with pytest.raises(UsageError) as caught:
        read_cache(cache, dataclasses.replace(KEY, **{part: value}), trust=trust)
    assert str(caught.value) == (
        f"'{cache}' belongs to another calibration: {told}; delete it to calibrate again, or name another file"
    )


def test_all_parts_that_differ_are_named(cache):
    other = CacheKey("c" * 64, "d" * 64, "none", "MinMaxCalibration", "8.6.0")
    with pytest.raises(UsageError) as caught:
        read_cache(cache, other)
    assert str(caught.value).count("(now ") == 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"schema_version": 1, "cache_sha256": 5, "key": {}}',
        b'{"schema_version": 1, "cache_sha256": "x", "key": {"model": "x"}}',
        b'{"schema_version": 1, "cache_sha256": "x", "key": [1, 2, 3, 4, 5]}',
        b"[" * 100_000,
        b" " * ((1 << 20) + 1),
    ],
    ids=range(9),
)
def test_a_damaged_sidecar_is_refused(cache, content):
    sidecar_of(cache).write_bytes(content)
    with pytest.raises(UsageError, match=r"calib\.cache\.json' is damaged \(.*delete both to calibrate again"):
        read_cache(cache, KEY, trust=True)


def test_a_key_with_parts_that_are_no_text_is_damaged(cache):
    told = json.loads(sidecar_of(cache).read_text())
    told["key"]["model"] = 5
    sidecar_of(cache).write_text(json.dumps(told))
    with pytest.raises(UsageError, match="is damaged"):
        read_cache(cache, KEY)


def test_a_sidecar_of_another_version_is_refused(cache):
    told = json.loads(sidecar_of(cache).read_text())
    sidecar_of(cache).write_text(json.dumps({**told, "schema_version": 2}))
    with pytest.raises(UsageError, match="written by another version of yolo_compress"):
        read_cache(cache, KEY)


def test_other_bytes_than_those_the_sidecar_speaks_of_are_refused(cache):
    cache.write_bytes(CONTENT.replace(b"3f000000", b"3f000001"))
    with pytest.raises(UsageError, match=r"is not the cache that 'calib\.cache\.json' speaks of \(\w{12} in place of"):
        read_cache(cache, KEY)


def test_a_cache_from_elsewhere_has_to_be_trusted(cache):
    sidecar_of(cache).unlink()
    with pytest.raises(UsageError, match=r"has no 'calib\.cache\.json' beside it.*or say that it is to be trusted"):
        read_cache(cache, KEY)
    assert read_cache(cache, KEY, trust=True) == CONTENT
    with pytest.raises(UsageError, match=r"made by TensorRT 100300, and 100700, .* quantize model=FLOAT\.onnx cache="):
        read_cache(cache, dataclasses.replace(KEY, tensorrt="10.7.0"), trust=True)
    cache.write_bytes(CONTENT[:-3])
    with pytest.raises(DataError, match="line 3"):
        read_cache(cache, KEY, trust=True)


def test_what_is_no_cache_is_not_written(tmp_path):
    with pytest.raises(DataError, match="line 1"):
        write_cache(tmp_path / "calib.cache", b"TRT-10", KEY)
    assert list(tmp_path.iterdir()) == []


def test_writing_that_is_cut_off_leaves_nothing_that_is_used(tmp_path, monkeypatch):
    path, real = tmp_path / "calib.cache", module.atomic_write

    def full(place, content):
        if place == path:
            raise OutputError("the disk is full")
        real(place, content)

    monkeypatch.setattr(module, "atomic_write", full)
    with pytest.raises(OutputError):
        write_cache(path, CONTENT, KEY)
    assert read_cache(path, KEY) is None
    path.write_bytes(CONTENT.replace(b"3f000000", b"3f000001"))  # an earlier one
    with pytest.raises(UsageError, match="is not the cache that"):
        read_cache(path, KEY)


def test_a_folder_in_its_place_is_said(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_cache(tmp_path, KEY)


def test_a_graph_is_known_by_structure_and_weights(tmp_path):
    first = graph_sha256(graph(tmp_path / "a.onnx"))
    assert first == graph_sha256(graph(tmp_path / "b.onnx", note="exported on another day"))
    assert first == graph_sha256(graph(tmp_path / "c.onnx", external=True))
    assert first != graph_sha256(graph(tmp_path / "d.onnx", weight=1.0000001))
    changed = graph(tmp_path / "e.onnx", external=True)
    data = tmp_path / "e.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x40")
    assert first != graph_sha256(changed)


def test_a_key_is_made_of_what_is_calibrated(tmp_path):
    made = graph(tmp_path / "a.onnx")
    images = CalibrationSet((), ("a.jpg", "b.jpg"), ("1", "2"), {}, {})
    key = CacheKey.of(made, images, imgsz=320, algorithm="MinMaxCalibration", tensorrt="8.6.0")
    assert key == CacheKey(graph_sha256(made), images.sha256, preprocessing(320), "MinMaxCalibration", "8.6.0")
    with pytest.raises(DataError, match=r"none\.onnx' does not exist"):
        graph_sha256(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"bad\.onnx' is not a readable ONNX file"):
        graph_sha256(tmp_path / "bad.onnx")


def test_another_graph_is_refused_where_the_sidecar_tells(tmp_path):
    made, path = graph(tmp_path / "a.onnx"), tmp_path / "calib.cache"
    write_cache(path, CONTENT, dataclasses.replace(KEY, model=graph_sha256(made)))
    assert check_graph(path, made)
    with pytest.raises(UsageError, match=r"belongs to another calibration: model \w{12} \(now \w{12}\)"):
        check_graph(path, graph(tmp_path / "b.onnx", weight=2.0))
    sidecar_of(path).unlink()
    assert not check_graph(path, made)


def test_reading_a_cache_imports_nothing_heavy():
    heavy = ("torch", "tensorrt", "onnx", "ultralytics", "cuda", "pycuda")
    code = f"import sys, yolo_compress.engines.tensorrt.key; print(sorted(set({heavy}) & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"
