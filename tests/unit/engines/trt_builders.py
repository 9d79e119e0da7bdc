# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""TensorRT as its bindings look from outside, in three generations, with a builder that records what it is told.

Only names that the code may touch are there, so that touching another one fails; the contract tests compare the names
with those of the genuine bindings.
"""

from __future__ import annotations

import enum
import json
from types import ModuleType, SimpleNamespace
from typing import Any

CACHE = b"TRT-100300-EntropyCalibration2\nimages: 3c010a14\n"
PLAN = b"a serialized engine"
INSPECTION = '{"Layers": ["/model.0/conv/Conv"], "Bindings": ["images", "output0"]}'
GENERATIONS = ("8.6", "10.3", "11.4")
PRECISION_FLAGS = ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS")
CALIBRATORS = ("IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator", "IInt8LegacyCalibrator")
BROKEN = "Broken"  # an operator that the parser does not know


def make_trt(generation: str = "10.3", *, dla_cores: int = 0, gpu: bool = True, name: str = "tensorrt") -> ModuleType:
    """Return a module; `trt.calls` is what was called and set, in order, and `trt.seen` what a calibration was fed."""
    trt = ModuleType(name)
    trt.__version__ = {"8.6": "8.6.0", "10.3": "10.3.0", "11.4": "11.4.0.106"}[generation]
    trt.calls, trt.seen, trt.dla_cores, trt.gpu, trt.fails, trt.cache_fits = [], [], dla_cores, gpu, "", True
    weak, implicit = generation != "11.4", generation == "8.6"

    def enumeration(kind: str, *names: str) -> type[enum.IntEnum]:
        return enum.IntEnum(kind, names, start=0)

    flags = ("TF32", "GPU_FALLBACK", *(PRECISION_FLAGS if weak else ()))
    trt.BuilderFlag = enumeration("BuilderFlag", *flags)
    networks = {"8.6": ("EXPLICIT_BATCH", "EXPLICIT_PRECISION"), "10.3": ("EXPLICIT_BATCH", "STRONGLY_TYPED")}
    trt.NetworkDefinitionCreationFlag = enumeration(
        "NetworkDefinitionCreationFlag", *networks.get(generation, ("PREFER_JIT_PYTHON_PLUGINS", "STRONGLY_TYPED"))
    )
    trt.DataType = enumeration("DataType", "FLOAT", "HALF", "INT8")
    trt.DeviceType = enumeration("DeviceType", "GPU", "DLA")
    trt.MemoryPoolType = enumeration("MemoryPoolType", "WORKSPACE")
    trt.ProfilingVerbosity = enumeration("ProfilingVerbosity", "LAYER_NAMES_ONLY", "NONE", "DETAILED")
    trt.LayerInformationFormat = enumeration("LayerInformationFormat", "ONELINE", "JSON")
    trt.ILogger, trt.Logger = Logger, Logger
    trt.ILayer = LayerWithPrecision if weak else Layer
    config = type("IBuilderConfig", (WeakConfig if weak else Config,), {"trt": trt})
    trt.IBuilderConfig = config
    trt.Builder = type("Builder", (ImplicitBuilder if implicit else Builder,), {"trt": trt})
    trt.OnnxParser = type("OnnxParser", (Parser,), {"trt": trt, "error": OldParserError if implicit else ParserError})
    trt.Runtime = type("Runtime", (Runtime,), {"trt": trt})
    for base in CALIBRATORS if weak else ():
        setattr(trt, base, type(base, (CalibratorBase,), {}))
    return trt


class Logger:
    """ILogger: what is logged comes in through `log`."""

    ERROR = SimpleNamespace(name="ERROR")

    def __init__(self, *_: Any) -> None:
        self.born = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class CalibratorBase:
    """A calibrator's C++ half, which exists once this has run."""

    def __init__(self) -> None:
        self.born = True


class Layer:
    """ILayer of TensorRT 11: no precision of its own."""

    __slots__ = ("name", "num_outputs", "type")

    def __init__(self, name: str, kind: str, outputs: int) -> None:
        self.name, self.type, self.num_outputs = name, kind, outputs


class LayerWithPrecision(Layer):
    """ILayer up to TensorRT 10."""

    __slots__ = ("_precision", "calls")

    def __init__(self, name: str, kind: str, outputs: int) -> None:
        super().__init__(name, kind, outputs)
        self._precision, self.calls = None, []

    @property
    def precision(self) -> Any:
        return self._precision

    @precision.setter
    def precision(self, value: Any) -> None:
        self._precision = value
        self.calls.append(("precision", self.name, value.name))

    def set_output_type(self, index: int, kind: Any) -> None:
        self.calls.append(("set_output_type", self.name, index, kind.name))


class ParserError:
    """IParserError since TensorRT 10."""

    def __init__(self, number: int, node: Any) -> None:
        self.number, self.broken = number, node

    def node(self) -> int:
        return self.number

    def desc(self) -> str:
        return f"no importer for\n{self.broken.op_type}"

    def node_name(self) -> str:
        return self.broken.name

    def node_operator(self) -> str:
        return self.broken.op_type


class OldParserError(ParserError):
    """IParserError of TensorRT 8, which only knows the number of the node."""

    node_name = property()  # type: ignore[assignment]  # reading it is an AttributeError, so that hasattr says no
    node_operator = property()  # type: ignore[assignment]


class Parser:
    """Makes a layer of each node, and refuses `BROKEN` ones."""

    trt: Any
    error: type[ParserError]

    def __init__(self, network: Network, logger: Any) -> None:
        self.network, self.errors = network, []

    def parse(self, content: bytes) -> bool:
        import onnx

        model = onnx.ModelProto.FromString(content)
        self.network.model = model
        self.trt.calls.append(("parse", model.graph.input[0].type.tensor_type.shape.dim[0].dim_value))
        for number, node in enumerate(model.graph.node):
            if node.op_type == BROKEN:
                self.errors.append(self.error(number, node))
            self.network.layers.append(self.trt.ILayer(node.name, node.op_type, len(node.output)))
        return not self.errors

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        return self.errors[index]


class Network:
    """INetworkDefinition, filled by the parser."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.model: Any = None

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    num_inputs = 1

    def get_input(self, index: int) -> Any:
        value = self.model.graph.input[index]
        sizes = [axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim]
        return SimpleNamespace(name=value.name, shape=tuple(sizes))


class Profile:
    """IOptimizationProfile."""

    def __init__(self) -> None:
        self.shapes: tuple[Any, ...] = ()

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes = (name, *shapes)


class TimingCache:
    """ITimingCache."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+measured"


class Config:
    """IBuilderConfig of TensorRT 11; what is set is recorded and other names are refused."""

    trt: Any
    DLA_core = default_device_type = profiling_verbosity = builder_optimization_level = None

    def __setattr__(self, name: str, value: Any) -> None:
        if not hasattr(type(self), name):
            raise AttributeError(f"IBuilderConfig has no {name}")
        object.__setattr__(self, name, value)
        self.trt.calls.append((name, getattr(value, "name", None) or value))

    def set_flag(self, flag: Any) -> None:
        self.trt.calls.append(("set_flag", flag.name))

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.trt.calls.append(("set_memory_pool_limit", pool.name, size))

    def add_optimization_profile(self, profile: Profile) -> int:
        self.trt.calls.append(("add_optimization_profile", *profile.shapes))
        return 0

    def create_timing_cache(self, content: bytes) -> TimingCache:
        return TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self.trt.calls.append(("set_timing_cache", cache.content, ignore_mismatch))
        self.__dict__["timings"] = cache
        return self.trt.cache_fits or not cache.content

    def get_timing_cache(self) -> TimingCache:
        return self.__dict__["timings"]

    def can_run_on_DLA(self, layer: Layer) -> bool:
        return layer.type != "Resize"


class WeakConfig(Config):
    """IBuilderConfig up to TensorRT 10."""

    int8_calibrator = None

    def set_calibration_profile(self, profile: Profile) -> bool:
        self.trt.calls.append(("set_calibration_profile", *profile.shapes))
        return True


class Builder:
    """IBuilder since TensorRT 10; calibrates as the library does, swallowing what callbacks raise."""

    trt: Any

    def __init__(self, logger: Any) -> None:
        if not self.trt.gpu:
            logger.log(SimpleNamespace(name="WARNING"), "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger = logger

    @property
    def num_DLA_cores(self) -> int:
        return self.trt.dla_cores

    def create_network(self, flags: int) -> Network:
        known = self.trt.NetworkDefinitionCreationFlag
        self.trt.calls.append(("create_network", *(flag.name for flag in known if flags >> flag & 1)))
        return Network()

    def create_builder_config(self) -> Config:
        return self.trt.IBuilderConfig()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> Any:
        self.trt.calls += [call for layer in network.layers for call in getattr(layer, "calls", ())]
        self.trt.calls.append(("build_serialized_network",))
        self.trt.network = network
        if (calibrator := getattr(config, "int8_calibrator", None)) is not None:
            self._calibrate(calibrator)
        if self.trt.fails:
            self.logger.log(SimpleNamespace(name="ERROR"), self.trt.fails)
            return None
        return memoryview(PLAN)

    def _calibrate(self, calibrator: Any) -> None:
        assert calibrator.born, "the base class was not initialised"
        if (content := calibrator.read_calibration_cache()) is not None:
            self.trt.seen.append(("cache", bytes(content)))
            return
        while addresses := calibrator.get_batch(["images"]):
            self.trt.seen.append(("batch", calibrator.get_batch_size(), *addresses))
        calibrator.write_calibration_cache(memoryview(CACHE))


class ImplicitBuilder(Builder):
    """IBuilder of TensorRT 8."""

    max_batch_size = 1


class Runtime:
    """IRuntime: engines know their layers."""

    trt: Any

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        assert plan == PLAN
        inspector = SimpleNamespace(get_engine_information=lambda kind: INSPECTION)
        return SimpleNamespace(create_engine_inspector=lambda: inspector)


class FakeCuda:
    """Device memory that remembers what was uploaded."""

    def __init__(self) -> None:
        self.uploads: list[Any] = []
        self.freed = 0

    def device(self, nbytes: int) -> Any:
        return SimpleNamespace(address=4096, nbytes=nbytes, free=self._free)

    def upload(self, host: Any, buffer: Any, stream: Any = None) -> None:
        assert host.flags.c_contiguous
        assert host.nbytes <= buffer.nbytes, "more than the buffer holds"
        self.uploads.append(host.copy())

    def _free(self) -> None:
        self.freed += 1


# names of each class that the code touches, for the comparison with genuine bindings
SURFACE = {
    "Builder": ("num_DLA_cores", "create_network", "create_builder_config", "create_optimization_profile"),
    "IBuilderConfig": (
        "set_flag",
        "set_memory_pool_limit",
        "profiling_verbosity",
        "builder_optimization_level",
        "add_optimization_profile",
        "create_timing_cache",
        "set_timing_cache",
        "get_timing_cache",
        "default_device_type",
        "DLA_core",
        "can_run_on_DLA",
    ),
    "INetworkDefinition": ("num_layers", "get_layer", "num_inputs", "get_input"),
    "ILayer": ("name", "num_outputs"),
    "ITensor": ("name", "shape"),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "OnnxParser": ("parse", "num_errors", "get_error"),
    "ParserError": ("node", "desc", "node_name", "node_operator"),
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": ("create_engine_inspector",),
    "EngineInspector": ("get_engine_information",),
    "ILogger": ("log",),
    "BuilderFlag": ("GPU_FALLBACK",),
    "DataType": ("FLOAT", "HALF"),
    "DeviceType": ("DLA",),
    "MemoryPoolType": ("WORKSPACE",),
    "ProfilingVerbosity": ("DETAILED",),
    "LayerInformationFormat": ("JSON",),
}
WEAK_SURFACE = {
    "IBuilderConfig": ("int8_calibrator", "set_calibration_profile"),
    "ILayer": ("precision", "set_output_type"),
    "BuilderFlag": PRECISION_FLAGS,
    **dict.fromkeys(CALIBRATORS, ("get_batch_size", "get_batch", "read_calibration_cache", "write_calibration_cache")),
}


def facts_of(built):
    """Return the record that a build leaves beside its engine."""
    return json.loads((built.path.parent / f"{built.path.name.split('.')[0]}.build.json").read_text())
