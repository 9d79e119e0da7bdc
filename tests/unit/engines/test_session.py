# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A TensorRT session over a simulated GPU that works late, as real ones do."""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engines.trt_runtime import (
    COMPUTE_MS,
    DOWNLOAD_MS,
    REPLIES,
    UPLOAD_MS,
    Design,
    FakeCuda,
    Mode,
    Type,
    answer,
    fake_trt,
)
from yolo_compress.engines.protocol import Session
from yolo_compress.engines.tensorrt import session as home
from yolo_compress.engines.tensorrt.plan import write_plan
from yolo_compress.engines.tensorrt.session import TensorRtSession
from yolo_compress.engines.timed import TimedSession
from yolo_compress.errors import DataError, EngineError, MissingDependency, UsageError

DYNAMIC = Design(shape=(-1, 3, 2, 2), limits=((1, 3, 2, 2), (2, 3, 2, 2), (4, 3, 2, 2)))
NAMES_ONLY = json.dumps({"Layers": ["conv", "conv2"]})


def images(count=1, seed=0):
    return np.random.default_rng(seed).random((count, 3, 2, 2)).astype(np.float32)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Return a function that loads an engine of some design; `load.cuda` and `load.trt` are what it ran on."""

    def make(design=None, *, plan=b"plan", metadata=None, cuda=None, version="10.3.0", dla=0, **options):
        make.cuda = cuda or FakeCuda()
        make.trt = fake_trt(make.cuda, design or Design(), version=version, dla=dla)
        monkeypatch.setitem(sys.modules, "tensorrt", make.trt)
        path = tmp_path / "best.engine"
        write_plan(path, plan, metadata if metadata is not None else {"stride": 32})
        return TensorRtSession(path, cuda=make.cuda, **options)

    return make


@pytest.mark.parametrize("version", ["8.6.0", "10.3.0", "11.4.0"])
def test_it_answers_on_every_generation(load, version):
    session = load(version=version)
    for seed in range(3):
        given_images = images(seed=seed)
        found = session.infer(given_images)
        assert found.dtype == np.float32
        assert (found == answer(given_images)).all()
    assert isinstance(session, TimedSession)
    described: Session = session
    assert described.describe()["version"] == version


def test_an_answer_is_the_callers_own(load):
    session = load()
    first = session.infer(images(seed=1))
    kept = first.copy()
    session.infer(images(seed=2))
    assert (first == kept).all()
    assert first.flags.writeable


def test_the_first_run_is_no_part_of_a_capture_and_later_ones_are_launches(load):
    session = load()
    session.infer(images())
    assert load.cuda.log == ["device"] * 3 + ["run", "capture", "run", "upload", "launch", "download", "download"]
    load.cuda.log.clear()
    session.infer(images())
    assert load.cuda.log == ["upload", "launch", "download", "download"]
    assert session.describe()["graph"] is True
    assert session.describe()["notes"] == []


def test_without_a_graph_it_runs_each_time(load):
    session = load(graph=False)
    session.infer(images())
    session.infer(images())
    assert "capture" not in load.cuda.log
    assert load.cuda.log.count("run") == 3
    assert session.describe()["graph"] is False


def test_another_shape_gets_other_memory_and_another_capture(load):
    session = load(DYNAMIC)
    for count in (1, 3, 3, 2):
        given_images = images(count, seed=count)
        assert (session.infer(given_images) == answer(given_images)).all()
    log = load.cuda.log
    assert (log.count("capture"), log.count("set_input_shape"), log.count("launch")) == (3, 3, 4)
    assert len(load.cuda.memory) == 3  # those of earlier shapes are free


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=6), graph=st.booleans())
def test_any_order_of_batches_is_answered_rightly(tmp_path_factory, counts, graph):
    cuda = FakeCuda()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", fake_trt(cuda, DYNAMIC))
        path = tmp_path_factory.mktemp("engine") / "x.engine"
        path.write_bytes(b"plan")
        session = TensorRtSession(path, cuda=cuda, graph=graph)
        for seed, count in enumerate(counts):
            given_images = images(count, seed)
            assert (session.infer(given_images) == answer(given_images)).all()
        session.close()
    assert cuda.memory == {}


@pytest.mark.parametrize(
    ("design", "given_images", "words"),
    [
        (Design(), images(2), r"takes images of 1 x 3 x 2 x 2 and 2 x 3 x 2 x 2 was given; give that size, or"),
        (DYNAMIC, images(5), r"takes images from 1 x 3 x 2 x 2 to 4 x 3 x 2 x 2 and 5 x 3 x 2 x 2 was given"),
        (DYNAMIC, images(1)[0], r"to 4 x 3 x 2 x 2 and 3 x 2 x 2 was given"),
        (Design(), images().astype(np.float64), "images of float64 were given; give float32 in 0 to 1"),
        (Design(), (images() * 255).astype(np.uint8), "images of uint8 were given"),
    ],
)
def test_images_that_do_not_fit_are_refused(load, design, given_images, words):
    session = load(design)
    with pytest.raises(EngineError, match=words):
        session.infer(given_images)


@pytest.mark.parametrize("half", [(Type.HALF, Type.FLOAT), (Type.FLOAT, Type.HALF), (Type.HALF, Type.HALF)])
def test_half_tensors_are_cast_both_ways(load, half):
    session = load(Design(input=half[0], output=half[1]))
    given_images = images()
    found = session.infer(given_images)
    assert found.dtype == np.float32
    expected = answer(given_images.astype(np.float16).astype(np.float32) if half[0] is Type.HALF else given_images)
    assert (found == (expected.astype(np.float16) if half[1] is Type.HALF else expected)).all()
    assert session.describe()["input_dtype"] == ("float16" if half[0] is Type.HALF else "float32")


def test_images_need_not_be_contiguous(load):
    given_images = np.ascontiguousarray(images().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not given_images.flags.c_contiguous
    assert (load().infer(given_images) == answer(given_images)).all()


@pytest.mark.parametrize(
    ("design", "words"),
    [
        (Design(input=Type.INT32), "tensor 'images' is int32, and images and detections have to be float32 or float16"),
        (Design(output=Type.INT32), "tensor 'output0' is int32"),
        (Design(input=Type.BF16), "tensor 'images' is Type.BF16, which numpy does not have; build it with float32"),
        (
            Design(names=(("a", Mode.INPUT), ("b", Mode.INPUT), ("c", Mode.OUTPUT))),
            "has inputs a, b and outputs c; a detector has one input and at least one output",
        ),
        (Design(names=(("a", Mode.INPUT),)), "has inputs a and outputs none"),
    ],
)
def test_engines_that_are_no_detectors_are_refused(load, design, words):
    with pytest.raises(EngineError, match=words):
        load(design)


def test_an_output_of_unknown_size_is_refused(load):
    with pytest.raises(EngineError, match=r"size of 'output0' depends on what is in the image, \(1, -1, 6\); export"):
        load(Design(data_dependent=True)).infer(images())


# threads


def test_every_thread_has_a_context_of_its_own(load):
    session = load()
    gate, found = threading.Barrier(3), {}

    def work(seed):
        gate.wait()
        found[seed] = [session.infer(images(seed=seed)) for _ in range(5)]
        gate.wait()  # none ends before the others have begun

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, answers in found.items():
        assert all((one == answer(images(seed=seed))).all() for one in answers)
    assert len(load.trt.contexts) == 3
    assert [len(context.threads) for context in load.trt.contexts] == [1, 1, 1]


@pytest.mark.parametrize("version", ["8.6.0", "10.3.0", "11.4.0"])
def test_two_threads_share_a_profile_from_tensorrt_10_on(load, version):
    session = load(DYNAMIC, version=version)
    session.infer(images())
    told = []

    def work():
        try:
            told.append(bool((session.infer(images(2)) == answer(images(2))).all()))
        except EngineError as error:
            told.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if version.startswith("8."):
        assert re.search(r"input shape \(2, 3, 2, 2\) was refused: Profile 0 has been chosen by another", told[0])
    else:
        assert told == [True]


def test_the_context_of_a_thread_that_has_ended_serves_the_next(load):
    session = load()
    for seed in range(4):
        thread = threading.Thread(target=session.infer, args=(images(seed=seed),))
        thread.start()
        thread.join()
    assert len(load.trt.contexts) == 1
    session.infer(images())
    session.infer(images())
    assert len(load.trt.contexts) == 1  # this thread took it over, as all that had it are gone


def test_closing_gives_everything_back_and_ends_it(load):
    session = load()
    session.infer(images())
    assert len(load.cuda.memory) == 3
    session.close()
    session.close()
    assert load.cuda.memory == {}
    with pytest.raises(EngineError, match=r"the session of '.*best.engine' is closed; load the engine again"):
        session.infer(images())


# graphs


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cuda": FakeCuda(no_graphs="PyCUDA has no CUDA graphs")}, "PyCUDA has no CUDA graphs"),
        ({"metadata": {"args": {"nms": True}}}, "the NMS inside the engine works on the host too"),
        ({"metadata": {"dla": 1}, "dla": 2}, "a DLA cannot take part in one"),
        ({"cuda": FakeCuda(capture_fails=True)}, "operation not permitted when stream is capturing"),
    ],
)
def test_what_cannot_be_a_graph_runs_without_and_says_so(load, options, reason):
    session = load(**options)
    for seed in range(2):
        assert (session.infer(images(seed=seed)) == answer(images(seed=seed))).all()
    assert "launch" not in load.cuda.log
    assert session.describe()["graph"] is False
    assert session.describe()["notes"] == [f"runs without a CUDA graph, which adds time on the host: {reason}"]


def test_a_run_that_is_refused_says_why(load):
    session = load(graph=False)
    session.infer(images())
    load.trt.contexts[0].refuse = True
    session.logger.messages.append(("ERROR", "Error Code 1: Cuda Runtime (an illegal memory access)"))
    with pytest.raises(EngineError, match=r"best.engine': the run was refused: Error Code 1: Cuda Runtime \("):
        session.infer(images())


# loading


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (b"another version", "it was built by another version than the 10.3.0 here"),
        (b"another version, 8.4", "it was built by another version than the 10.3.0 here"),
        (b"another GPU", "it was built for another GPU"),
        (b"damaged", "it is not an engine of TensorRT, or damaged"),
        (b"serialized {by} others", "it was built by another version"),
        (b"silent", r"TensorRT 10.3.0 refused it \(it gave no reason\)"),
    ],
)
def test_engines_that_tensorrt_refuses(load, plan, words):
    with pytest.raises(EngineError) as caught:
        load(plan=plan)
    text = str(caught.value)
    assert re.search(rf"best.engine' cannot be loaded: {words}", text)
    assert " ".join(REPLIES[plan][1].split())[:300] in text
    assert text.endswith("build it on this machine: yolo-compress build model=WEIGHTS engine=tensorrt")


def test_where_cuda_fails_the_engine_is_not_blamed(load):
    with pytest.raises(EngineError, match=r"CUDA failed meanwhile \(.*out of memory\)\); see with nvidia-smi wh"):
        load(plan=b"no memory")


def test_what_was_logged_for_another_engine_is_not_the_reason(load, tmp_path):
    load()
    (tmp_path / "silent.engine").write_bytes(b"silent")
    home.logger_for(load.trt).messages.append(("ERROR", "expecting compute 8.7"))
    with pytest.raises(EngineError, match=r"refused it \(it gave no reason\)"):
        TensorRtSession(tmp_path / "silent.engine", cuda=load.cuda)


def test_an_engine_of_another_model_of_gpu_runs_with_a_note(load):
    session = load(plan=b"another model")
    assert session.describe()["notes"] == ["built on another model of GPU, so its kernels were not chosen for this one"]


def test_a_dla_that_is_not_there(load):
    with pytest.raises(EngineError, match=r"built for DLA core 1 and TensorRT 10.3.0 sees 1 here; build it for"):
        load(metadata={"dla": "1"}, dla=1)
    assert load(metadata={"dla": "0"}, dla=1).runtime.DLA_core == 0


def test_a_bare_plan_is_read_too(load, tmp_path):
    load()
    (tmp_path / "bare.engine").write_bytes(b"ftrt and more")
    session = TensorRtSession(tmp_path / "bare.engine", cuda=load.cuda)
    assert session.metadata == {}
    assert session.infer(images()).shape == (1, 5, 4)


def test_files_that_are_missing_or_empty(load, tmp_path):
    load()
    with pytest.raises(DataError, match=r"none.engine' does not exist; build it first with: yolo-compress build"):
        TensorRtSession(tmp_path / "none.engine", cuda=load.cuda)
    for name, content in (("empty.engine", b""), ("header.engine", (2).to_bytes(4, "little") + b"{}")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EngineError, match=f"{name}' holds no engine; build it again"):
            TensorRtSession(tmp_path / name, cuda=load.cuda)


def test_without_a_gpu_tensorrt_is_not_touched(monkeypatch, tmp_path):
    """Its Runtime would end the process."""
    (tmp_path / "x.engine").write_bytes(b"plan")
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # an import of it would fail

    def nothing(name, *, index):
        assert (name, index) == ("torch", 1)
        raise EngineError("no way to CUDA works here")

    monkeypatch.setattr(home, "choose", nothing)
    with pytest.raises(EngineError, match="no way to CUDA works here"):
        TensorRtSession(tmp_path / "x.engine", cuda="torch", device="cuda:1")


def test_without_tensorrt_it_is_a_missing_package(monkeypatch, tmp_path):
    (tmp_path / "x.engine").write_bytes(b"plan")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependency, match="TensorRT engines need the 'tensorrt' package"):
        TensorRtSession(tmp_path / "x.engine", cuda=FakeCuda())


def test_a_processor_is_no_device(tmp_path):
    with pytest.raises(UsageError, match="device=cpu is no CUDA device"):
        TensorRtSession(Path("x.engine"), device="cpu")


# what is told


def test_the_description_counts_precisions(load):
    told = load(threads=4).describe()
    assert told["precision"] == "int8"
    assert told["layers"] == {"int8": 1, "fp16": 1, "reformats": 1, "GPU": 3}
    assert (told["device"], told["device_name"], told["pci_bus_id"]) == ("cuda:0", "Fake GPU", "0000:0a:00.0")
    assert told["cuda"] == "fake, CUDA 13.0"
    assert told["notes"] == ["threads=4 changes nothing: an engine on a GPU uses the calling thread"]
    assert told["threads"] == 1
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(
    ("metadata", "precision"),
    [
        ({"yolo_compress": json.dumps({"build": {"precision": "fp16"}}), "args": {"int8": True}}, "fp16"),
        ({"yolo_compress": "{}", "args": {"int8": True}}, "int8"),
        ({"args": {"half": True, "int8": False}}, "fp16"),
        ({"args": {"half": True, "int8": True}}, "int8"),
        ({"args": {"quantize": 8, "nms": False}}, "int8"),
        ({"args": "{'quantize': 16, 'batch': 1}"}, "fp16"),
        ({"args": {}}, "unknown"),
        ({"args": "batch=1"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_where_the_inspector_tells_names_only_the_header_is_asked(load, metadata, precision):
    assert load(Design(inspector=NAMES_ONLY), metadata=metadata).describe()["precision"] == precision


def test_an_inspector_that_answers_something_else_leaves_a_note(load):
    told = load(Design(inspector="<xml>")).describe()
    assert told["layers"] is None
    assert told["notes"][0].startswith("precisions of layers unavailable: the engine inspector returned something unkn")


# times


@pytest.mark.parametrize("graph", [True, False])
def test_the_parts_of_a_query_are_told_apart(load, graph):
    session = load(graph=graph)
    times = session.timed_infer(images())
    # two outputs are copied back: what a deployed program has to wait for
    assert (times.upload_ms, times.compute_ms, times.download_ms) == (UPLOAD_MS, COMPUTE_MS, 2 * DOWNLOAD_MS)
    assert 0 < times.enqueue_ms < 1000


def test_queued_queries_are_all_run_and_none_is_waited_for(load):
    session = load()
    session.infer(images())
    load.cuda.log.clear()
    (stream,) = load.cuda.streams.values()
    before = stream.clock_ms
    assert session.queued_infer(images(), 7) > 0
    assert load.cuda.log == ["upload"] + ["launch"] * 7
    assert stream.clock_ms - before == UPLOAD_MS + 7 * COMPUTE_MS
