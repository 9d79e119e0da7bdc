# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The genuine Python bindings of TensorRT 10.3, 10.16 and 11.4, over small libraries that stand in for NVIDIA's.

The bindings are real, with their classes, enumerations and C++ callbacks; behind them there is nothing, so that no
builder starts. That is enough to see that every name which the code touches exists, and that callbacks arrive. The
bindings are looked for in folders named by version below the one that YOLO_COMPRESS_TRT_BINDINGS names; see
CONTRIBUTING.md for how they get there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.contract.test_tensorrt_session import TOUCHED
from tests.unit.engines.trt_builders import CALIBRATORS, SURFACE, WEAK_SURFACE, make_trt

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "YOLO_COMPRESS_TRT_BINDINGS"
VERSIONS = {"10.3.0": "10.3", "10.16.1.11": "10.3", "11.4.0.106": "11.4"}  # and the generation that stands for it
WEAK = [version for version, generation in VERSIONS.items() if generation != "11.4"]
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# what the bindings look for when they are imported; makers return nothing
STUB = """
void* createInferBuilder_INTERNAL(void* logger, int version) { return 0; }
void* createInferRefitter_INTERNAL(void* engine, void* logger, int version) { return 0; }
void* createInferRuntime_INTERNAL(void* logger, int version) { return 0; }
void* createNvOnnxParser_INTERNAL(void* network, void* logger, int version) { return 0; }
void* createNvOnnxParserRefitter_INTERNAL(void* refitter, void* logger, int version) { return 0; }
void* getBuilderPluginRegistry(int capability) { return 0; }
void* getPluginRegistry(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void* logger, char const* space) { return 1; }
"""
# Calls the virtual functions of a calibrator as the library would: an object of the bindings holds the address of its
# C++ half behind Python's header, and that begins with its table of functions.
NATIVE = """
import ctypes
import numpy as np
from yolo_compress.engines.tensorrt.calibrator import make_calibrator

HEADER = object.__basicsize__
SLOTS = {"get_batch_size": 4, "get_batch": 5, "read": 6, "write": 7, "algorithm": 8, "quantile": 9, "cutoff": 10}

class Native:
    def __init__(self, made):
        self.made = made
        self.this = ctypes.c_void_p.from_address(id(made) + HEADER).value
        self.table = ctypes.c_void_p.from_address(self.this).value
    def call(self, name, result, *arguments, types=()):
        address = ctypes.c_void_p.from_address(self.table + SLOTS[name] * ctypes.sizeof(ctypes.c_void_p)).value
        return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *types)(address)(self.this, *arguments)
    def batch(self):
        bindings, names = (ctypes.c_void_p * 1)(), (ctypes.c_char_p * 1)(b"images")
        places = [ctypes.addressof(bindings), ctypes.addressof(names)]
        types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
        return self.call("get_batch", ctypes.c_bool, *places, 1, types=types), bindings[0]
    def read(self):
        length = ctypes.c_size_t()
        place = self.call("read", ctypes.c_void_p, ctypes.addressof(length), types=(ctypes.c_void_p,))
        return ctypes.string_at(place, length.value).decode() if place else None
    def write(self, content):
        self.call("write", None, content, len(content), types=(ctypes.c_char_p, ctypes.c_size_t))

class Memory:
    address, nbytes = 4096, 0
    def device(self, nbytes): return self
    def upload(self, host, buffer, stream=None): assert host.dtype == np.float32
    def free(self): pass

def make(algorithm="entropy", batches=(), read=lambda: None, write=print):
    options = {"memory": Memory, "batch": 8, "read": read, "write": write}
    return Native(make_calibrator(trt, algorithm, batches, **options))

images = np.zeros((8, 3, 4, 4))
"""


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory) -> Path:
    """Return a folder with the libraries of each major version."""
    if shutil.which("gcc") is None or sys.platform != "linux":
        pytest.skip("there is no gcc to make the libraries with that stand in for TensorRT's")
    folder = tmp_path_factory.mktemp("stand_ins")
    (folder / "stub.c").write_text(STUB)
    for major in ("10", "11"):
        for library in LIBRARIES:
            name = f"lib{library}.so.{major}"
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", name, "stub.c"]
            subprocess.run(command, cwd=folder, check=True)
    return folder


@pytest.fixture
def bindings(stand_ins, tmp_path):
    """Return a function that runs code over genuine bindings, `trt`, and gives what it leaves in `found`."""

    def run(version: str, code: str, expected_error: str = ""):
        place = Path(os.environ.get(VARIABLE, "")) / version
        if VARIABLE not in os.environ or not (place / "tensorrt_bindings").is_dir():
            pytest.skip(f"{VARIABLE} names no folder with TensorRT's bindings {version}; see CONTRIBUTING.md")
        front = tmp_path / "front/tensorrt"  # the package that makes `import tensorrt` of the bindings
        front.mkdir(parents=True, exist_ok=True)
        (front / "__init__.py").write_text(
            "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
        )
        paths = (str(front.parent), str(place), str(ROOT))
        body = f"import json, sys\nimport tensorrt as trt\nfound = None\n{textwrap.dedent(code)}\nprint()\n"
        environment = {**os.environ, "LD_LIBRARY_PATH": str(stand_ins), "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(
            [sys.executable, "-c", f"{body}print(json.dumps(found))"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def surface(generation: str) -> dict[str, set[str]]:
    """Return the names that the code touches in a generation, by class."""
    wanted = {name: set(names) for name, names in SURFACE.items()}
    for other in (TOUCHED, WEAK_SURFACE if generation != "11.4" else {}):
        for name, names in other.items():
            wanted.setdefault(name, set()).update(names)
    return wanted


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_the_code_touches_is_there(bindings, version):
    wanted = {name: sorted(names) for name, names in surface(VERSIONS[version]).items()}
    code = f"""
    found = [f"{{k}}.{{n}}" for k, names in {wanted!r}.items() for n in names if not hasattr(getattr(trt, k, None), n)]
    """
    assert bindings(version, code) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_fake_of_a_generation_lacks_is_not_there_either(bindings, version):
    """So that a test over the fake fails where the code touches what a version has lost."""
    fake = make_trt(VERSIONS[version])
    names = ["Builder.max_batch_size", *CALIBRATORS]
    names += [f"{kind}.{name}" for kind in ("IBuilderConfig", "ILayer", "BuilderFlag") for name in WEAK_SURFACE[kind]]
    names += [f"NetworkDefinitionCreationFlag.{name}" for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED")]
    code = f"""
    def has(name):
        kind, _, member = name.partition(".")
        return hasattr(trt, kind) and (not member or hasattr(getattr(trt, kind), member))
    found = [name for name in {names!r} if has(name)]
    """

    def has(name: str) -> bool:
        kind, _, member = name.partition(".")
        return hasattr(fake, kind) and (not member or hasattr(getattr(fake, kind), member))

    assert bindings(version, code) == [name for name in names if has(name)]


@pytest.mark.parametrize("version", VERSIONS)
def test_capabilities_and_modes(bindings, version):
    code = """
    from pathlib import Path
    from yolo_compress.engines.tensorrt.capability import capabilities
    from yolo_compress.engines.tensorrt.decision import decide
    from yolo_compress.errors import UsageError
    caps = capabilities(trt)
    def mode(**given):
        try:
            chosen = decide(caps, Path("x.onnx"), **given)
            return [chosen.mode, chosen.strong, chosen.half, list(chosen.flags)]
        except UsageError as error:
            return str(error)
    found = {
        "caps": {**vars(caps), "modes": caps.modes},
        "float": mode(precision="int8", quantized=False),
        "qdq": mode(precision="int8", quantized=True),
        "fp16": mode(precision="fp16", quantized=False),
        "dla": mode(precision="fp16", quantized=False, dla=0),
    }
    """
    found = bindings(version, code)
    weak = version in WEAK
    assert found["caps"] == {
        "module": "tensorrt",
        "version": version,
        "calibrators": ["entropy", "minmax", "percentile", "legacy"] if weak else [],
        "precision_flags": ["FP16", "INT8"] if weak else [],
        "strongly_typed": True,
        "implicit_batch": False,
        "obey": "OBEY_PRECISION_CONSTRAINTS" if weak else None,
        "dla": True,
        "compute": [],
        "modes": ["calibrate", "qdq"] if weak else ["qdq"],
    }
    assert found["qdq"] == ["qdq", True, True, []]
    assert found["fp16"] == ["float", True, True, []]
    assert found["dla"] == (["float", False, False, ["FP16"]] if weak else ["float", True, True, []])
    if weak:
        assert found["float"] == ["calibrate", False, False, ["INT8", "FP16"]]
    else:
        assert "does not calibrate" in found["float"]


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_gpu_our_error_comes_out_and_the_process_lives(bindings, version):
    code = """
    import onnx
    from pathlib import Path
    from yolo_compress.engines.tensorrt.builder import build_engine
    from yolo_compress.engines.tensorrt.decision import Decision
    from yolo_compress.engines.tensorrt.engine import TensorRt
    from yolo_compress.engines.tensorrt.logger import logger_for
    from yolo_compress.errors import EngineError
    found = [type(logger_for(trt)).__mro__[1].__name__, TensorRt().unavailable(), TensorRt().calibrates()]
    try:
        build_engine(trt, onnx.ModelProto(), Path("x.onnx"), Decision("float", True, False, ()), imgsz=64)
    except EngineError as error:
        found.append(str(error))
    """
    logger, why, calibrates, told = bindings(version, code)
    assert logger == "ILogger"
    assert why  # there is no driver; or there is one, and the stand-in for TensorRT does not start
    assert calibrates is (version in WEAK)
    assert told.startswith("tensorrt cannot start here, which takes an NVIDIA GPU and its driver")


@pytest.mark.parametrize("version", WEAK)
def test_batches_arrive_and_end(bindings, version):
    code = """
    native = make(batches=[images, images + 1, images[:3]])
    found = [native.call("get_batch_size", __import__("ctypes").c_int32), *[native.batch() for _ in range(3)]]
    native.made.finish()
    """
    size, *batches = bindings(version, NATIVE + textwrap.dedent(code))
    assert size == 8
    assert [arrived for arrived, _ in batches] == [True, True, False]
    assert [address for arrived, address in batches if arrived] == [4096, 4096]


@pytest.mark.parametrize("version", WEAK)
def test_each_algorithm_says_what_it_is(bindings, version):
    code = """
    found = {}
    for name in ("entropy", "minmax", "percentile", "legacy"):
        native = make(name)
        found[name] = [trt.CalibrationAlgoType(native.call("algorithm", ctypes.c_int32)).name]
        if name in ("percentile", "legacy"):
            found[name] += [native.call(which, ctypes.c_double) for which in ("quantile", "cutoff")]
        native.made.finish()
    """
    assert bindings(version, NATIVE + textwrap.dedent(code)) == {
        "entropy": ["ENTROPY_CALIBRATION_2"],
        "minmax": ["MINMAX_CALIBRATION"],
        "percentile": ["LEGACY_CALIBRATION", 0.9999, 1.0],
        "legacy": ["LEGACY_CALIBRATION", 0.5, 0.5],
    }


@pytest.mark.parametrize("version", WEAK)
def test_a_cache_goes_in_and_comes_out(bindings, version):
    code = """
    written = []
    native = make(read=lambda: "".join(["ca", "che"]).encode(), write=written.append)
    found = [native.read()]
    native.write(b"TRT-100300-EntropyCalibration2")
    found += [native.read(), make().read(), [type(content).__name__ + content.decode() for content in written]]
    native.made.finish()
    """
    found = bindings(version, NATIVE + textwrap.dedent(code))
    assert found == ["cache", "cache", None, ["bytesTRT-100300-EntropyCalibration2"]]


@pytest.mark.parametrize("version", WEAK)
@pytest.mark.parametrize("place", ["get_batch", "read", "write"])
def test_an_exception_in_a_callback_surfaces_after_the_build(bindings, version, place):
    code = f"""
    def failing(*_):
        raise ValueError("image 'a.jpg' cannot be read")
    def batches():
        yield images
        failing()
    written = []
    native = make(
        batches=batches(),
        read=failing if {place!r} == "read" else lambda: None,
        write=failing if {place!r} == "write" else written.append,
    )
    found = [native.read(), native.batch()[0], native.batch()[0]]
    native.write(b"content")
    try:
        native.made.finish()
    except ValueError as error:
        found.append(str(error))
    found.append(written)
    """
    read, first, second, told, written = bindings(version, NATIVE + textwrap.dedent(code))
    assert (read, second, told, written) == (None, False, "image 'a.jpg' cannot be read", [])
    assert first is (place != "read")
