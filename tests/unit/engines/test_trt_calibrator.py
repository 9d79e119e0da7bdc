# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""TensorRT's own calibration: batches, the end of data, caches, and what happens to an exception in a callback."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engines.trt_builders import CACHE, FakeCuda, make_trt
from yolo_compress.engines.tensorrt import calibrator as module
from yolo_compress.engines.tensorrt.calibrator import batch_size, make_calibrator
from yolo_compress.engines.tensorrt.capability import CALIBRATORS, capabilities
from yolo_compress.errors import DataError, EngineError


def make(algorithm="entropy", batches=(), **given):
    cuda = FakeCuda()
    trt = make_trt("10.3")
    options = {"memory": lambda: cuda, "batch": 8, "read": lambda: None, "write": lambda content: None, **given}
    return make_calibrator(trt, algorithm, batches, **options), cuda


def images(count=8, value=0.5):
    return np.full((count, 3, 4, 4), value, np.float64)


def test_batches_end_with_none_and_a_smaller_one_is_not_used():
    made, cuda = make(batches=[images(), images(), images(3)])
    assert [made.get_batch(["images"]) for _ in range(4)] == [[4096], [4096], None, None]
    assert made.images == 16
    assert [upload.dtype for upload in cuda.uploads] == [np.float32] * 2
    assert made.get_batch_size() == 8
    made.finish()
    assert cuda.freed == 1


@pytest.mark.parametrize("algorithm", list(CALIBRATORS))
def test_each_algorithm_is_a_subclass_of_the_modules_own(algorithm):
    made, _ = make(algorithm)
    assert type(made).__mro__[1].__name__ == CALIBRATORS[algorithm]
    assert made.born
    if CALIBRATORS[algorithm] == "IInt8LegacyCalibrator":
        assert 0 < made.get_quantile() <= 1
        assert 0 < made.get_regression_cutoff() <= 1
        assert made.read_histogram_cache(0) is None
        assert made.write_histogram_cache(b"", 0) is None
    else:
        assert not hasattr(made, "get_quantile")


def test_percentile_and_legacy_differ():
    assert make("percentile")[0].get_quantile() == 0.9999
    assert make("legacy")[0].get_quantile() == 0.5


def test_what_a_module_lacks_is_refused():
    assert capabilities(make_trt("11.4")).calibrators == ()
    with pytest.raises(EngineError, match=r"has no calibrator for 'minmax'"):
        make_calibrator(make_trt("11.4"), "minmax", [], memory=FakeCuda, batch=8, read=lambda: None, write=print)


@pytest.mark.parametrize("error", [DataError("image 'a.jpg' cannot be read"), KeyboardInterrupt()])
def test_an_exception_ends_the_data_writes_no_cache_and_surfaces(error):
    def failing():
        yield images()
        raise error

    written = []
    made, cuda = make(batches=failing(), write=written.append)
    assert made.get_batch(["images"]) == [4096]
    assert made.get_batch(["images"]) is None
    assert made.get_batch(["images"]) is None
    made.write_calibration_cache(memoryview(CACHE))
    assert written == []
    with pytest.raises(type(error)) as caught:
        made.finish()
    assert caught.value is error
    assert cuda.freed == 1


def test_a_cache_that_cannot_be_read_or_written_surfaces():
    def refused(*_):
        raise DataError("the cache belongs to another model")

    reading, _ = make(read=refused)
    assert reading.read_calibration_cache() is None
    assert reading.get_batch(["images"]) is None, "calibrating anew would hide that the cache was refused"
    with pytest.raises(DataError, match="another model"):
        reading.finish()
    writing, _ = make(write=refused)
    writing.write_calibration_cache(memoryview(CACHE))
    with pytest.raises(DataError, match="another model"):
        writing.finish()


def test_a_cache_is_handed_over_as_bytes_and_stays_alive():
    made, _ = make(read=lambda: bytes(bytearray(CACHE)))
    assert made.read_calibration_cache() == CACHE
    assert made.content == CACHE, "TensorRT reads this memory later"
    got = []
    made, _ = make(write=got.append)
    made.write_calibration_cache(memoryview(bytearray(CACHE)))
    assert got == [CACHE]
    assert isinstance(got[0], bytes)


def test_a_calibrator_lives_until_it_is_finished():
    made, _ = make()
    alive = weakref.ref(made)
    del made
    gc.collect()
    assert alive() is not None, "TensorRT would call into freed memory"
    alive().finish()
    gc.collect()
    assert alive() is None
    assert not [entry for entry in module._ALIVE if entry is alive()]


@given(st.integers(0, 700), st.integers(8, 32))
def test_the_batch_wastes_as_few_images_as_any(count, wanted):
    size = batch_size(count, wanted)
    assert 1 <= size <= max(wanted, 1)
    if count >= 8:
        assert 8 <= size <= min(count, wanted)
        assert count % size == min(count % other for other in range(8, min(count, wanted) + 1))
        assert not any(count % other == count % size for other in range(size + 1, min(count, wanted) + 1))
    else:
        assert size == max(count, 1)
