# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""One contract for every engine: a new one subclasses `EngineContract` and names what is its own."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.tiny import tiny_model, write_data
from yolo_compress import engines
from yolo_compress.engines import ENGINES, engine_for, get_engine
from yolo_compress.errors import CompressError, DataError, EngineError, MissingDependency, UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.data import read_data
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize import SCHEMES, quantize_onnx
from yolo_compress.recipe import ENGINE_PRECISIONS

SCORE_TOLERANCE = 1e-4  # float32 kernels of different runtimes sum in different orders
BOX_TOLERANCE_PX = 1e-2
INT8_SCORE_TOLERANCE = 0.05  # of random weights, whose scores lie near one half


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """Return a folder with a checkpoint of two families and their float ONNX; one says that it needs no NMS."""
    folder = tmp_path_factory.mktemp("engines")
    for family in ("yolov8n", "yolo26n"):
        model = tiny_model(family)
        model.end2end = family == "yolo26n"  # checkpoints of Ultralytics 8.4 have it so; its exports do not follow
        checkpoint.save_model(model, folder / f"{family}.pt")
        export_onnx(folder / f"{family}.pt", folder / f"{family}.onnx", imgsz=64)
    return folder


@pytest.fixture(scope="session")
def quantized(sources, tmp_path_factory) -> Path:
    """Return a folder with one Q/DQ graph per target."""
    folder = tmp_path_factory.mktemp("quantized")
    images = read_data(write_data(folder / "data")).train
    for target in SCHEMES:
        quantize_onnx(sources / "yolov8n.onnx", folder / f"{target}.onnx", images=images, imgsz=64, target=target)
    return folder


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    """Return one image as a session takes it."""
    return np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)


@pytest.fixture(scope="session")
def reference(sources, image) -> dict[str, np.ndarray]:
    """Return what the unfused float model gives by its one-to-many head, by family."""
    import torch

    found = {}
    for family in ("yolov8n", "yolo26n"):
        model = checkpoint.load_model(sources / f"{family}.pt")
        model.end2end = False
        with torch.no_grad():
            found[family] = model(torch.from_numpy(image))[0].numpy()
    return found


class EngineContract:
    """What holds for every engine."""

    name: ClassVar[str]
    package: ClassVar[str]
    sources: ClassVar[tuple[str, ...]] = (".pt", ".onnx")
    device: ClassVar[str] = "cpu"
    missing: ClassVar[str] = r"pip install 'yolo-compress\["
    quantized_for: ClassVar[str] = ""  # the target whose graphs it takes, where that is not its name

    @pytest.fixture
    def engine(self):
        """Return the engine."""
        return get_engine(self.name)

    @pytest.fixture
    def runs(self, engine):
        """Skip what takes a machine that this runtime runs on."""
        if (why := engine.unavailable()) is not None:
            pytest.skip(f"{self.name}: {why}")

    @pytest.mark.parametrize("family", ["yolov8n", "yolo26n"])
    def test_float_output_is_that_of_the_model(self, runs, engine, sources, image, reference, tmp_path, family):
        for suffix in self.sources:
            built = engine.build(sources / f"{family}{suffix}", tmp_path / suffix[1:], precision="fp32", imgsz=64)
            session = engine_for(built.path).load(built.path, device=self.device, threads=1)
            raw, expected = session.infer(image), reference[family]
            session.close()
            assert raw.shape == expected.shape
            assert np.allclose(raw[:, :4], expected[:, :4], atol=BOX_TOLERANCE_PX)
            assert np.allclose(raw[:, 4:], expected[:, 4:], atol=SCORE_TOLERANCE)

    def test_an_output_is_left_alone_by_later_inferences(self, runs, engine, sources, image, tmp_path):
        built = engine.build(sources / "yolov8n.pt", tmp_path, precision="fp32", imgsz=64)
        session = engine.load(built.path, device=self.device, threads=1)
        first = session.infer(image)
        kept = first.copy()
        other = session.infer(1 - image)
        assert not np.array_equal(other, kept)
        np.testing.assert_array_equal(first, kept)
        first[:] = 0  # nor does what the caller does with it reach the session
        np.testing.assert_array_equal(session.infer(image), kept)
        session.close()
        np.testing.assert_array_equal(first, 0)

    def test_every_precision_builds_loads_and_says_what_runs(self, runs, engine, sources, image, tmp_path):
        assert engine.precisions == ENGINE_PRECISIONS[self.name]
        for precision in (p for p in engine.precisions if p != "int8"):
            built = engine.build(sources / "yolov8n.pt", tmp_path / precision, precision=precision, imgsz=64)
            assert (built.engine, built.precision, built.imgsz) == (self.name, precision, 64)
            assert built.size_bytes > 0
            session = engine.load(built.path, device=self.device, threads=1)
            assert np.isfinite(session.infer(image)).all()
            told = session.describe()
            session.close()
            assert told["engine"] == self.name
            assert told["threads"] == 1 or self.device != "cpu"
            assert told["precision"] == precision or told["notes"], "another precision ran without a note"

    def test_int8_runs_in_int8_and_stock_ultralytics_opens_it(
        self, runs, engine, quantized, image, reference, tmp_path
    ):
        if "int8" not in engine.precisions:
            pytest.skip("this engine has no int8")
        from ultralytics import YOLO

        built = engine.build(
            quantized / f"{self.quantized_for or self.name}.onnx", tmp_path, precision="int8", imgsz=64
        )
        assert built.notes == ()
        session = engine.load(built.path, device=self.device, threads=1)
        raw, told = session.infer(image), session.describe()
        session.close()
        assert told["precision"] == "int8"
        error = np.abs(raw[:, 4:] - reference["yolov8n"][:, 4:]).max()
        assert 0 < error < INT8_SCORE_TOLERANCE
        result = YOLO(str(built.path), task="detect")(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)[0]
        assert result.names == {0: "disc", 1: "box", 2: "bar"}

    def test_a_graph_quantized_for_another_runtime_is_noted(self, runs, engine, quantized, tmp_path):
        others = {"openvino", "onnxruntime"} - {self.name}
        if "int8" not in engine.precisions:
            pytest.skip("this engine has no int8")
        for other in others:
            built = engine.build(quantized / f"{other}.onnx", tmp_path, precision="int8", imgsz=64)
            assert any(f"was quantized for {other}" in note for note in built.notes)

    def test_stock_ultralytics_opens_the_artifact(self, runs, engine, sources, tmp_path):
        from ultralytics import YOLO

        built = engine.build(sources / "yolov8n.pt", tmp_path, precision="fp32", imgsz=64)
        result = YOLO(str(built.path), task="detect")(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)[0]
        assert result.names == {0: "disc", 1: "box", 2: "bar"}

    def test_a_signal_after_sessions_that_overlapped_does_no_harm(self, runs, engine, sources, tmp_path):
        """Data loaders of a training signal their end; a runtime that left a dead signal stack behind ends the run."""
        built = engine.build(sources / "yolov8n.pt", tmp_path, precision="fp32", imgsz=64)
        code = f"""
import gc, os, signal
from pathlib import Path
import numpy as np
from yolo_compress.engines import get_engine

seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
sessions = [get_engine({engine.name!r}).load(Path({str(built.path)!r}), device={self.device!r}) for _ in range(2)]
while sessions:
    sessions[0].infer(np.zeros((1, 3, 64, 64), dtype=np.float32))
    sessions.pop(0).close()
    gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
print(len(seen))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr

    def test_building_twice_replaces_and_leaves_nothing_else(self, runs, engine, sources, tmp_path):
        first = engine.build(sources / "yolov8n.pt", tmp_path, precision="fp32", imgsz=64)
        again = engine.build(sources / "yolov8n.pt", tmp_path, precision="fp32", imgsz=64)
        assert first.path == again.path
        assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]

    def test_absent_package_is_named_with_its_extra(self, engine, monkeypatch, sources, tmp_path):
        if not self.package:
            pytest.skip("this engine needs no package of its own")
        import importlib

        original = importlib.import_module

        def absent(name, *args):
            if name.partition(".")[0] == self.package:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)
            return original(name, *args)

        monkeypatch.setattr(importlib, "import_module", absent)
        with pytest.raises(MissingDependency, match=self.missing):
            engine.build(sources / "yolov8n.pt", tmp_path, precision="fp32", imgsz=64)
        assert "pip install" in (engine.unavailable() or "")

    def test_bad_input(self, engine, sources, tmp_path):
        with pytest.raises(UsageError, match=r"has no precision 'int3'"):
            engine.build(sources / "yolov8n.pt", tmp_path, precision="int3", imgsz=64)
        with pytest.raises(CompressError):
            engine.build(tmp_path / "no.pt", tmp_path, precision="fp32", imgsz=64)
        with pytest.raises(DataError, match=r"does not exist"):
            engine.load(tmp_path / f"no{ENGINES[self.name].suffix}")
        with pytest.raises(UsageError, match=r"is not a \*"):
            engine.load(sources)

    def test_damaged_artifact(self, runs, engine, tmp_path):
        path = tmp_path / f"bad{ENGINES[self.name].suffix}"
        if "." in path.name:
            path.write_bytes(b"damaged")
        else:
            path.mkdir()
            (path / "bad.xml").write_text("<damaged>")
        with pytest.raises((EngineError, DataError), match=r"bad"):
            engine.load(path, device=self.device)


class TestPyTorch(EngineContract):
    """The checkpoint itself."""

    name = "pytorch"
    package = ""
    sources = (".pt",)


class TestOnnxRuntime(EngineContract):
    """ONNX Runtime."""

    name = "onnxruntime"
    package = "onnxruntime"

    def test_int8_from_a_float_graph_is_refused(self, engine, sources, tmp_path):
        with pytest.raises(UsageError, match=r"holds no quantizers; run first: yolo-compress quantize"):
            engine.build(sources / "yolov8n.onnx", tmp_path, precision="int8", imgsz=64)


class TestOpenVino(EngineContract):
    """OpenVINO."""

    name = "openvino"
    package = "openvino"

    def test_int8_from_a_checkpoint_is_refused(self, engine, sources, tmp_path):
        with pytest.raises(UsageError, match=r"run: yolo-compress quantize"):
            engine.build(sources / "yolov8n.pt", tmp_path, precision="int8", imgsz=64)

    def test_signed_activations_are_refused(self, engine, quantized, tmp_path):
        with pytest.raises(UsageError, match=r"was quantized for tensorrt.*quantize target=openvino"):
            engine.build(quantized / "tensorrt.onnx", tmp_path, precision="int8", imgsz=64)

    def test_what_a_session_was_given_and_gave_outlives_the_caller(self, sources, image, tmp_path):
        """The runtime keeps addresses; a request that is used after the arrays have gone ends the process."""
        engine = get_engine("openvino")
        built = engine.build(sources / "yolov8n.pt", tmp_path, precision="fp32", imgsz=64)
        session = engine.load(built.path, threads=1)
        for _ in range(3):
            given = image.copy()
            kept = weakref.ref(given), weakref.ref(session.infer(given))
            del given
            gc.collect()
            assert all(one() is not None for one in kept)
            shared = session.request.infer(share_outputs=True)
            np.testing.assert_array_equal(next(iter(shared.values())), kept[1]())
        session.infer(image)
        assert all(one() is None for one in kept)

    def test_a_stock_export_of_any_size_runs(self, sources, image, tmp_path):
        from ultralytics import YOLO

        engine = get_engine("openvino")
        built = engine.build(sources / "yolov8n.pt", tmp_path, precision="fp32", imgsz=64)
        copied = shutil.copy(sources / "yolov8n.pt", tmp_path / "any.pt")
        stock = Path(YOLO(copied).export(format="openvino", imgsz=64, dynamic=True))
        fixed, dynamic = (engine.load(path, threads=1) for path in (built.path, stock))
        pair = np.concatenate([image, 1 - image])
        found = dynamic.infer(pair)
        assert dynamic.infer(pair[..., :32]).shape == (2, 7, 42)
        expected = np.concatenate([fixed.infer(one[None]) for one in pair])
        np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=BOX_TOLERANCE_PX)
        np.testing.assert_allclose(found[:, 4:], expected[:, 4:], atol=SCORE_TOLERANCE)

    def test_device_is_the_cpu(self, engine, tmp_path):
        with pytest.raises(UsageError, match=r"device=cpu only, and device=0 was given"):
            engine.load(tmp_path, device="0")


class TestTensorRt(EngineContract):
    """TensorRT, where there is an NVIDIA GPU."""

    name = "tensorrt"
    package = "tensorrt"
    device = "cuda:0"
    missing = r"'tensorrt' package, which is not installed: (install the one that fits|it comes with JetPack)"

    def test_a_graph_quantized_for_another_runtime_is_noted(self, runs, engine, quantized, tmp_path):
        for other in ("openvino", "onnxruntime"):
            with pytest.raises(UsageError, match=rf"quantized for {other}.*quantize target=tensorrt"):
                engine.build(quantized / f"{other}.onnx", tmp_path, precision="int8", imgsz=64)


class TestTensorRtRtx(TestTensorRt):
    """TensorRT-RTX, where there is such a GPU; what it builds without one is in its own tests."""

    name = "tensorrt_rtx"
    package = "tensorrt_rtx"
    missing = r"'tensorrt_rtx' package, which is not installed: pip install tensorrt-rtx"
    quantized_for = "tensorrt"


def test_every_engine_has_a_contract_test():
    tested = {cls.name for cls in (*EngineContract.__subclasses__(), *TestTensorRt.__subclasses__())}
    assert tested == set(ENGINES) == set(ENGINE_PRECISIONS)


def test_unknown_engine():
    with pytest.raises(UsageError, match=r"did you mean openvino\?"):
        get_engine("opnvino")
    with pytest.raises(UsageError, match=r"no engine loads 'best.tflite'"):
        engines.engine_for("best.tflite")
