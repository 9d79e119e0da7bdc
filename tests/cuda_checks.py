# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What every way to CUDA has to do, held against the fakes without a GPU and against the real ones with one."""

from __future__ import annotations

import gc

import numpy as np
import pytest


def check_bytes_survive(cuda, array: np.ndarray) -> None:
    """Copy to the device and back, at once and on a stream."""
    buffer = cuda.device(array.nbytes)
    assert buffer.address > 0
    assert buffer.nbytes == array.nbytes
    cuda.upload(array, buffer)
    back = np.zeros_like(array)
    cuda.download(buffer, back)
    assert back.tobytes() == array.tobytes()

    pinned, stream = cuda.pinned(array.shape, array.dtype), cuda.stream()
    pinned[...] = array
    cuda.upload(pinned, buffer, stream)
    result = cuda.pinned(array.shape, array.dtype)
    result.view(np.uint8)[...] = 0
    cuda.download(buffer, result, stream)
    stream.synchronize()
    assert result.tobytes() == array.tobytes()
    buffer.free()
    buffer.free()
    assert buffer.address == 0


def check_read_only_memory_can_be_uploaded(cuda) -> None:
    given = np.arange(12, dtype=np.float32)
    given.flags.writeable = False
    buffer, back, stream = cuda.device(given.nbytes), np.zeros_like(given), cuda.stream()
    cuda.upload(given, buffer, stream)
    stream.synchronize()
    cuda.download(buffer, back)
    assert (back == given).all()
    buffer.free()


def check_pinned_memory_lives_with_its_views(cuda) -> None:
    """The view of a view outlives the name of the array; what lies there stays as it was written."""
    array = cuda.pinned((3, 4), np.float16)
    assert (array.shape, array.dtype) == ((3, 4), np.float16)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    array[...] = 7
    view = array[1:].reshape(-1).view(np.uint8)
    del array
    gc.collect()
    assert (view.view(np.float16) == 7).all()
    assert cuda.pinned((0, 3), np.float32).shape == (0, 3)


def check_copies_stay_in_their_buffer(cuda) -> None:
    buffer = cuda.device(16)
    too_much, gaps = np.zeros(5, np.float32), np.zeros((4, 2), np.float32)[:, 0]
    for copy in (lambda array: cuda.upload(array, buffer), lambda array: cuda.download(buffer, array)):
        with pytest.raises(ValueError, match="20 bytes do not fit a buffer of 16"):
            copy(too_much)
        with pytest.raises(ValueError, match="has to be contiguous"):
            copy(gaps)
    fixed = np.zeros(4, np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="the array of a download has to be writeable"):
        cuda.download(buffer, fixed)
    buffer.free()
    with pytest.raises(ValueError, match="16 bytes do not fit a buffer of 0"):
        cuda.upload(np.zeros(4, np.float32), buffer)


def check_events_tell_time(cuda, work) -> float:
    """Return the milliseconds between two events around some work on a stream."""
    stream, before, after = cuda.stream(), cuda.event(), cuda.event()
    before.record(stream)
    work(stream)
    after.record(stream)
    after.synchronize()
    return after.elapsed_ms(before)


def check_a_graph_replays_with_what_lies_there_then(cuda) -> None:
    """Capture a copy, change its source, replay: the copy is of the new content, and capturing copies nothing."""
    stream = cuda.stream()
    source, target = cuda.pinned((64,), np.uint8), cuda.pinned((64,), np.uint8)
    buffer = cuda.device(64)

    def copies() -> None:
        cuda.upload(source, buffer, stream)
        cuda.download(buffer, target, stream)

    source[...], target[...] = 1, 0
    copies()
    stream.synchronize()
    target[...] = 0
    graph = cuda.graph(stream, copies)
    stream.synchronize()
    assert (target == 0).all()
    for value in (2, 3):
        source[...] = value
        graph.launch()
        stream.synchronize()
        assert (target == value).all()
    buffer.free()
