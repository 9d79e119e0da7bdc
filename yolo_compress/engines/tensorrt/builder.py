# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""From an ONNX graph to a serialized engine, through whichever TensorRT is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from yolo_compress.artifacts import atomic_write
from yolo_compress.engines.tensorrt.capability import Capabilities, capabilities
from yolo_compress.engines.tensorrt.decision import Decision
from yolo_compress.engines.tensorrt.decode import Pins, pins
from yolo_compress.engines.tensorrt.half import half_graph
from yolo_compress.engines.tensorrt.logger import last_error, logger_for
from yolo_compress.errors import DataError, EngineError, UsageError
from yolo_compress.recipe.tensorrt import TensorRtSection

if TYPE_CHECKING:
    import onnx

GIB = 1 << 30
TOLD = 3  # names in a note


@dataclass(frozen=True)
class Built:
    """A serialized engine.

    Attributes:
        plan: What `Runtime.deserialize_cuda_engine` takes.
        gpu_layers: Layers that a DLA was asked for and that it cannot run, by name.
        compute: Compute capability that was aimed at, None for the GPU of this machine.
        notes: What happened that changes results or speed.
    """

    plan: bytes
    gpu_layers: tuple[str, ...] = ()
    compute: str | None = None
    notes: tuple[str, ...] = ()


def build_engine(
    trt: ModuleType | Any,
    model: onnx.ModelProto,
    source: Path,
    decision: Decision,
    *,
    imgsz: int,
    options: TensorRtSection | None = None,
    compute: str | None = None,
    calibrator: Any = None,
    keep: Sequence[str] = (),
    quick: bool = False,
) -> Built:
    """Parse a graph and build it.

    Args:
        trt: `tensorrt` or `tensorrt_rtx`, or what behaves like one.
        model: The graph; its batch may be free where `options.dynamic_batch` is given.
        source: Where the graph came from, for messages.
        decision: See `decide`.
        imgsz: Side of the images, where the graph leaves it free.
        options: Workspace, shapes, DLA, timing cache.
        compute: Compute capability to aim at, such as SM86; the GPU of this machine when not given.
        calibrator: For mode `calibrate`; what went wrong in its callbacks is raised here.
        keep: Layers that stay in half precision when TensorRT calibrates, beside those of the head.
        quick: The engine is not for running, so that no time is spent on making it fast.

    Raises:
        UsageError: Shapes, DLA or compute capability do not fit the graph or the machine.
        DataError: The timing cache cannot be read.
        EngineError: There is no GPU, or TensorRT refuses the graph; the message names the node.
    """
    options = options or TensorRtSection()
    caps, logger = capabilities(trt), logger_for(trt)
    logger.messages.clear()
    builder = _builder(trt, logger)
    network = builder.create_network(_network_flags(trt, caps, decision))
    parser = _parse(trt, network, logger, half_graph(model) if decision.half else model, source)
    config = builder.create_builder_config()
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * GIB))
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for flag in decision.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if quick and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = 0
    notes: list[str] = []
    profile = _shapes(builder, network, config, source, imgsz=imgsz, batches=options.dynamic_batch)
    if compute is not None:
        _aim(trt, caps, config, compute)
    gpu_layers = _place_on_dla(trt, builder, network, config, options.dla) if options.dla is not None else ()
    if decision.mode == "calibrate":
        config.int8_calibrator = calibrator
        if profile is not None and caps.implicit_batch:  # later modules take the only profile, and fail when told
            config.set_calibration_profile(profile)
        notes += _pin(trt, caps, network, config, pins(model.graph), keep)
    if options.timing_cache is not None:
        notes += _read_timings(config, Path(options.timing_cache))
    try:
        plan = builder.build_serialized_network(network, config)
    finally:
        if calibrator is not None:
            calibrator.finish()
    if plan is None:
        raise EngineError(f"{caps.module} {caps.version} cannot build '{source}': {_reason(logger)}")
    if options.timing_cache is not None:
        atomic_write(Path(options.timing_cache), bytes(config.get_timing_cache().serialize()))
    if gpu_layers:
        notes.append(_dla_note(gpu_layers, network.num_layers, options.dla))
    del parser  # it owns the weights that the network reads while it is built
    return Built(bytes(plan), gpu_layers, compute, tuple(notes))


def _builder(trt: ModuleType | Any, logger: Any) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # the binding's factory returns nothing where CUDA cannot start
        raise EngineError(
            f"{trt.__name__} cannot start here, which takes an NVIDIA GPU and its driver: {_reason(logger)}"
        ) from error


def _network_flags(trt: ModuleType | Any, caps: Capabilities, decision: Decision) -> int:
    names = (("EXPLICIT_BATCH", caps.implicit_batch), ("STRONGLY_TYPED", decision.strong))
    known = trt.NetworkDefinitionCreationFlag.__members__  # one day every network may be typed, without a flag
    return sum(1 << int(known[name]) for name, wanted in names if wanted and name in known)


def _parse(trt: ModuleType | Any, network: Any, logger: Any, model: onnx.ModelProto, source: Path) -> Any:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(model.SerializeToString()):
        return parser
    told = [_parser_error(parser.get_error(index), model) for index in range(parser.num_errors)]
    reason = "; ".join(told[:TOLD]) or _reason(logger)
    raise EngineError(f"{trt.__name__} cannot read '{source}': {reason}")


def _parser_error(error: Any, model: onnx.ModelProto) -> str:
    """Return node, operator and message; parsers of TensorRT 8 only know the node's number."""
    number = error.node()
    node = model.graph.node[number] if 0 <= number < len(model.graph.node) else None
    name = error.node_name() if hasattr(error, "node_name") else node.name if node is not None else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else node.op_type if node is not None else ""
    place = f"node '{name}' ({operator}): " if name or operator else ""
    return f"{place}{' '.join(str(error.desc()).split())}"


def _shapes(builder: Any, network: Any, config: Any, source: Path, *, imgsz: int, batches: Sequence[int] | None) -> Any:
    """Add a profile where the graph leaves its batch free, and return it."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    free = [tensor for tensor in inputs if -1 in tuple(tensor.shape)]
    if not free:
        if batches is not None:
            raise UsageError(
                f"'{source}' takes a fixed number of images and dynamic_batch= was given; give the checkpoint, or an "
                "ONNX from: yolo export format=onnx dynamic=True"
            )
        return None
    if batches is None:
        raise UsageError(
            f"'{source}' leaves shapes free, and an engine is built for a range of them; give dynamic_batch=1,4,8"
        )
    profile = builder.create_optimization_profile()
    for tensor in free:
        batch, *rest = tuple(tensor.shape)
        fixed = [imgsz if size == -1 else size for size in rest]
        shapes = [(size if batch == -1 else batch, *fixed) for size in batches]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    return profile


def _aim(trt: ModuleType | Any, caps: Capabilities, config: Any, compute: str) -> None:
    if compute not in caps.compute:
        known = ", ".join(caps.compute) or "the one of the GPU that it runs on"
        raise UsageError(f"{caps.module} {caps.version} does not build for {compute}; it builds for {known}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, compute), 0)


def _place_on_dla(trt: ModuleType | Any, builder: Any, network: Any, config: Any, core: int) -> tuple[str, ...]:
    """Send every layer to a DLA core that can go there, and return the names of the others."""
    cores = int(builder.num_DLA_cores)
    if core >= cores:
        there = f"has DLA cores 0 to {cores - 1}" if cores else "has no DLA, or its TensorRT does not drive it"
        raise UsageError(
            f"dla={core} was given and this device {there}; {'give one of them' if cores else 'leave it out'}"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return tuple(layer.name for layer in layers if not config.can_run_on_DLA(layer))


def _pin(
    trt: ModuleType | Any, caps: Capabilities, network: Any, config: Any, head: Pins, keep: Sequence[str]
) -> list[str]:
    """Keep layers out of INT8 and return a note where some cannot be."""
    half, single = trt.DataType.HALF, trt.DataType.FLOAT
    types = {**dict.fromkeys((*keep, *head.fp16), half), **dict.fromkeys(head.fp32, single)}
    pinned = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if (kind := types.get(layer.name)) is None:
            continue
        layer.precision = kind
        for output in range(layer.num_outputs):
            layer.set_output_type(output, kind)
        pinned.add(layer.name)
    if pinned and caps.obey is not None:
        config.set_flag(getattr(trt.BuilderFlag, caps.obey))
    lost = sorted(set(types) - pinned)
    return (
        [f"{len(lost)} layers that stay in float may run in INT8, since TensorRT has none so named: {_named(lost)}"]
        if lost
        else []
    )


def _read_timings(config: Any, path: Path) -> list[str]:
    if path.is_dir():
        raise DataError(f"timing cache '{path}' is a folder; give a file: timing_cache={path / 'timings'}")
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise DataError(
            f"timing cache '{path}' cannot be read: {error.strerror}; give another timing_cache="
        ) from error
    cache = config.create_timing_cache(content)
    if cache is not None and config.set_timing_cache(cache, False):
        return []
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return [f"timing cache '{path}' is of another TensorRT or GPU and was made anew"]


def _dla_note(names: Sequence[str], layers: int, core: int | None) -> str:
    return f"{len(names)} of {layers} layers run on the GPU, not on DLA core {core}: {_named(names)}"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:TOLD]) + (" and others" if len(names) > TOLD else "")


def _reason(logger: Any) -> str:
    return last_error(logger) or "it gave no reason"
