# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Peak memory, in this process and in one of its own."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys
import time

import numpy as np
import pytest

from yolo_compress.bench import memory
from yolo_compress.bench.memory import measure_memory, peak_mb, resident_mb

ROUNDING = 1.0  # MB; the kernel keeps its counters per processor and adds them up now and then
linux = pytest.mark.skipif(platform.system() != "Linux", reason="resident memory is read from /proc")


@linux
def test_peak_keeps_what_was_given_back():
    # A mapping of its own: what an array frees may stay with the allocator, in a process that has used much before.
    with mmap.mmap(-1, 100 << 20) as ballast:
        for page in range(0, len(ballast), mmap.PAGESIZE):
            ballast[page] = 1
        held = resident_mb()
    assert held - resident_mb() > 90
    assert peak_mb() >= held - ROUNDING


@linux
def test_an_artifact_is_measured_in_its_own_process(make_checkpoint):
    ballast = np.ones(300 << 20, np.uint8)  # of this process, and so not to be counted
    before = resident_mb()
    found = measure_memory(make_checkpoint(), imgsz=64)
    assert (found.why, found.note) == ("", "")
    assert 5 < found.baseline_mb < found.loaded_mb <= found.peak_mb + ROUNDING
    assert found.peak_mb < before + 500
    assert found.baseline_mb < ballast.nbytes / 2**20


@linux
def test_what_a_runtime_does_not_need_is_not_held_against_it(tmp_path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    tensors = [onnx.helper.make_tensor_value_info(name, 1, [1, 3, 64, 64]) for name in ("images", "output0")]
    node = onnx.helper.make_node("Identity", ["images"], ["output0"])
    graph = onnx.helper.make_graph([node], "copy", tensors[:1], tensors[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "copy.onnx")
    found = measure_memory(tmp_path / "copy.onnx", imgsz=64)
    assert found.why == ""
    assert found.peak_mb < 200 or found.note == "includes torch, which onnxruntime itself does not need"


def test_how_an_artifact_starts_is_told(make_checkpoint):
    begin = time.perf_counter()
    found = measure_memory(make_checkpoint(), imgsz=64)
    assert 0 < found.first_inference_ms < found.load_ms + found.first_inference_ms < 1e3 * (time.perf_counter() - begin)


def test_an_artifact_that_cannot_be_loaded_says_why(tmp_path):
    found = measure_memory(tmp_path / "missing.bin", imgsz=64)
    assert found.peak_mb is None
    assert found.why.startswith("unavailable: the measuring process failed (")
    assert "missing.bin" in found.why


def test_a_process_that_hangs_is_given_up(tmp_path, monkeypatch):
    def hang(*args, **kwargs):
        raise subprocess.TimeoutExpired(args[0], kwargs["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    assert "did not end within" in measure_memory(tmp_path / "best.pt", imgsz=64).why


def test_a_system_without_proc_says_so(monkeypatch):
    class Nowhere:
        def __init__(self, path):
            pass

        def read_text(self):
            raise FileNotFoundError

    monkeypatch.setattr(memory, "Path", Nowhere)
    assert peak_mb().startswith("unavailable: ")


def test_importing_the_measuring_process_loads_no_runtime():
    code = "import sys, yolo_compress.bench.memory; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
