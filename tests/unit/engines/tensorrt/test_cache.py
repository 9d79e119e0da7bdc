# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Calibration caches: what TensorRT publishes is read, what we write is read again, and nothing else is."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.trt_cache import MUTATIONS, VALID, answer
from yolo_compress.engines.tensorrt.cache import (
    LARGEST_FILE,
    LARGEST_NAME,
    CalibrationCache,
    known_algorithm,
    version_number,
)
from yolo_compress.errors import DataError, UsageError

FUZZED = 400  # of each kind; the benchmark does more
names = st.text("ab/._0 :\t\x1c\x85\xa0\u2028é名\ufeff\U0001f600\U0010ffff", min_size=1, max_size=12)
tricky = st.sampled_from(
    [": ", " ", "a: 3c010a14", "(Unnamed Layer* 3) [Shuffle]_output", "TRT-8600-MinMaxCalibration"]
)
scales = st.floats(width=32, min_value=2.0**-149, allow_infinity=False, allow_nan=False)


def cache_of(*lines: str, header: str = "TRT-8600-EntropyCalibration2") -> bytes:
    return "\n".join([header, *lines, ""]).encode()


def test_a_published_cache_is_read():
    """From the calibration that NVIDIA publishes with its yolov7 sample: pixels up to 1 give amax 0.99976."""
    read = CalibrationCache.parse(cache_of("images: 3c00f9f4", "(Unnamed Layer* 7) [Constant]_output: 3c010A14"))
    assert (read.version, read.algorithm) == (8600, "EntropyCalibration2")
    assert read.scales["images"] == pytest.approx(0.00787209, abs=5e-9)
    assert 127 * read.scales["images"] == pytest.approx(0.99976, abs=5e-6)
    assert list(read.scales) == ["images", "(Unnamed Layer* 7) [Constant]_output"]


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(names | tricky | st.tuples(names, tricky).map("".join), scales, min_size=1, max_size=6),
    st.integers(1000, 999999),
)
def test_what_is_written_is_read_again(rows, version):
    cache = CalibrationCache(version, "MinMaxCalibration", rows)
    content = cache.to_bytes()
    assert CalibrationCache.parse(content) == cache
    assert CalibrationCache.parse(content).to_bytes() == content
    lines = content.decode().removesuffix("\n").split("\n")
    assert lines[0] == f"TRT-{version}-MinMaxCalibration"
    for line, (name, scale) in zip(lines[1:], rows.items(), strict=True):
        assert line == f"{name}: {line[-8:]}"
        assert np.frombuffer(bytes.fromhex(line[-8:]), ">f4")[0] == np.float32(scale)


@pytest.mark.parametrize("kind", MUTATIONS)
def test_damaged_caches_are_refused_or_read_and_nothing_else(kind):
    rng = random.Random(f"{kind} in a test")
    answers = [answer(MUTATIONS[kind](rng)) for _ in range(FUZZED)]
    assert set(answers) <= {"read", "refused"}
    assert answers.count("refused") > FUZZED / 10


def test_what_is_damaged_was_whole():
    assert answer(VALID) == "read"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1 of the calibration cache: it has to be such as TRT-8600-EntropyCalibration2"),
        (b"TRT-8600-EntropyCalibration2", "line 2 of the calibration cache: there is no scale"),
        (cache_of("x: 3c010a14", header="TRT-86-MinMaxCalibration"), r"line 1 .*'TRT-86-MinMaxCalibration'\): it has"),
        (cache_of("x: 3c010a14", header="TRT-8\uff1600-MinMaxCalibration"), "line 1"),
        (cache_of("x: 3c010a14", header="TRT-8600-"), "line 1"),
        (cache_of("x 3c010a14"), r"line 2 .*\('x 3c010a14'\): it has to be such as 'images: 3c010a14'"),
        (cache_of("x: 3c010a14", ""), "line 3 of the calibration cache: it has to be such as"),
        (cache_of("x: 3c010a1"), "line 2 .*eight hexadecimal digits"),
        (cache_of("x: 3c010a140"), "line 2 .*eight hexadecimal digits"),
        (cache_of("x: 3c010a1g"), "line 2 .*eight hexadecimal digits"),
        (cache_of("x: 3c010a14\r"), "line 2 .*eight hexadecimal digits"),
        (cache_of("x: 0x3c010a"), "line 2 .*eight hexadecimal digits"),
        (cache_of(": 3c010a14"), "line 2 .*'' is not the name of a tensor: it is empty"),
        (cache_of("x: 3c010a14", "y: 3c010a14", "x: 3c010a14"), r"line 4 .*the tensor has a scale already"),
        (cache_of("x: 7fc00000"), "line 2 .*scale nan is not a finite number above zero"),
        (cache_of("x: 7f800000"), "line 2 .*scale inf is not a finite number above zero"),
        (cache_of("x: bf800000"), r"line 2 .*scale -1\.0 is not a finite number above zero"),
        (cache_of("x: 00000000"), "line 2 .*the scale is zero: no calibration image"),
        (cache_of("x: 0"), "line 2 .*the scale is zero"),
        (cache_of("x: 80000000"), "line 2 .*the scale is zero"),
        (cache_of("a\0: 3c010a14"), "line 2 .*is not the name of a tensor"),
        (cache_of("n" * (LARGEST_NAME + 1) + ": 3c010a14"), r"line 2 .*has 4,097 bytes; at most 4,096 are read"),
        (b"TRT-8600-MinMaxCalibration\nx: 3c010a14\n\xff: 3c010a14\n", "line 3 .*byte 39 of the file is not UTF-8"),
        (b"\n" * (LARGEST_FILE + 1), "16,777,217 bytes are no calibration cache"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(content, message):
    with pytest.raises(DataError, match=message) as caught:
        CalibrationCache.parse(content)
    assert len(str(caught.value)) < 400


def test_a_long_line_is_not_repeated_whole():
    with pytest.raises(DataError) as caught:
        CalibrationCache.parse(cache_of("x" * 10**6))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("version", "algorithm", "rows", "message"),
    [
        (86, "MinMaxCalibration", {"x": 1.0}, "'TRT-86-MinMaxCalibration' is not the first line"),
        (8600, "Min-Max", {"x": 1.0}, "'TRT-8600-Min-Max' is not the first line"),
        (8600, "MinMaxCalibration", {}, "without a scale says nothing"),
        (8600, "MinMaxCalibration", {"x": float("nan")}, "the scale nan is not a finite number"),
        (8600, "MinMaxCalibration", {"x": 1e39}, "the scale inf is not a finite number"),
        (8600, "MinMaxCalibration", {"x": 1e-46}, "the scale is zero"),
        (8600, "MinMaxCalibration", {"x": -1.0}, r"the scale -1\.0 is not a finite number"),
        (8600, "MinMaxCalibration", {"x\ny": 1.0}, "is not the name of a tensor"),
        (8600, "MinMaxCalibration", {"\ud800": 1.0}, "cannot be written as UTF-8"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_before_it_is_written(version, algorithm, rows, message):
    with pytest.raises(DataError, match=message):
        CalibrationCache(version, algorithm, rows)


def test_scales_are_rounded_to_what_the_file_holds():
    cache = CalibrationCache(8600, "MinMaxCalibration", {"x": 0.1})
    assert cache.scales["x"] == float(np.float32(0.1)) != 0.1


def test_reading_a_file_names_it(tmp_path):
    path = tmp_path / "calib.cache"
    with pytest.raises(DataError, match=r"calib\.cache' cannot be read \(No such file"):
        CalibrationCache.read(path)
    path.write_bytes(cache_of("x: 3c010a1g"))
    with pytest.raises(DataError, match=r"calib\.cache': line 2"):
        CalibrationCache.read(path)
    path.write_bytes(VALID)
    assert CalibrationCache.read(path).to_bytes() == VALID
    path.write_bytes(b"x" * (LARGEST_FILE + 1))
    with pytest.raises(DataError, match="has more than 16,777,216 bytes"):
        CalibrationCache.read(path)


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("8.5.2.2", 8502),
        ("8.6.0", 8600),
        ("8.5.10", 8510),
        ("10.3.0", 100300),
        ("10.7.0.post1", 100700),
        ("10.16.2.10", 101602),
        ("100300", 100300),
        (8601, 8601),
    ],
)
def test_versions_are_numbered_as_caches_do(version, number):
    assert version_number(version) == number


@pytest.mark.parametrize(
    "version", ["10.3", 10.3, "0.1.2", "ten", "", "10.3.0 ", "1.2.3.4\n", "-8600", "10000000", True]
)
def test_what_is_no_version_is_refused(version):
    with pytest.raises(UsageError, match="is not a version of TensorRT; give what"):
        version_number(version)


def test_only_algorithms_that_calibrators_have_are_written():
    assert known_algorithm("MinMaxCalibration") == "MinMaxCalibration"
    with pytest.raises(
        UsageError, match=r"algorithm=EntropyCalibrator2 is not known; did you mean EntropyCalibration2"
    ):
        known_algorithm("EntropyCalibrator2")
