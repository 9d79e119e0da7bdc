# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A loaded engine: TensorRT 8.5 to 11 and TensorRT-RTX, by named tensors, with one execution context per thread."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from yolo_compress.engines.tensorrt.capability import load_module
from yolo_compress.engines.tensorrt.cuda import Cuda, choose, device_index
from yolo_compress.engines.tensorrt.header import declared_precision, export_arguments
from yolo_compress.engines.tensorrt.inspector import EngineLayers, read_layers
from yolo_compress.engines.tensorrt.lane import Lane
from yolo_compress.engines.tensorrt.logger import last_error, logger_for
from yolo_compress.engines.tensorrt.plan import read_plan
from yolo_compress.engines.tensorrt.tensors import read_tensors
from yolo_compress.engines.timed import QueryTimes
from yolo_compress.errors import DataError, EngineError

TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
# What TensorRT logs when it refuses a plan, what that means, and what to do. The texts are those of 8.0 to 10.12.
BUILD = "build it on this machine: yolo-compress build model=WEIGHTS engine={module}"
REFUSALS = (
    (
        r"incompatible device|expecting compute|Target GPU SM|Platform specific tag",
        "it was built for another GPU",
        BUILD,
    ),
    (
        r"library version|Version tag|version of TensorRT",
        "it was built by another version than the {version} here",
        BUILD,
    ),
    (r"[Mm]agic tag", "it is not an engine of {title}, or damaged", BUILD),
    (r"cudaError|Cuda Runtime", "CUDA failed meanwhile", "see with nvidia-smi whether GPU and memory are free"),
    (r"", "{title} {version} refused it", BUILD),
)
OTHER_MODEL = "different models of devices"  # a warning: it runs, with kernels that were timed elsewhere
LOWEST_FIRST = ("int8", "fp8", "bf16", "fp16", "fp32")


class TensorRtSession:
    """Runs one engine on one GPU.

    Args:
        path: Engine with Ultralytics' header, or a bare plan.
        module_name: TensorRT or TensorRT-RTX, whose interface is the same.
        device: "cuda", "cuda:1" or "1".
        threads: Not used: the host's part is the calling thread's.
        graph: Queue a run as one CUDA graph where that is possible.
        cuda: Name of a CUDA back end, or one that is open; the first that works unless given.

    Raises:
        UsageError: The device is no GPU, or not there.
        DataError: The file cannot be read.
        MissingDependency: TensorRT or every way to CUDA is not installed.
        EngineError: There is no GPU, or TensorRT refused the engine.
    """

    def __init__(
        self,
        path: Path,
        module_name: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt",
        *,
        device: str = "cuda:0",
        threads: int | None = None,
        graph: bool = True,
        cuda: Cuda | str | None = None,
    ) -> None:
        index = device_index(device)
        metadata, plan = _read(path)
        # before TensorRT: without a GPU its Runtime ends the process
        self.cuda: Cuda = choose(cuda, index=index) if cuda is None or isinstance(cuda, str) else cuda
        self.trt: ModuleType | Any = load_module(module_name)
        self.path, self.module_name, self.index, self.metadata = path, module_name, index, metadata
        self.title = TITLES[module_name]
        self.logger = logger_for(self.trt)
        self.notes: list[str] = []
        if threads is not None:
            self.notes.append(f"threads={threads} changes nothing: an engine on a GPU uses the calling thread")
        with self.cuda.current():
            self.runtime = self.trt.Runtime(self.logger)
            dla = self._take_dla_core()
            self.engine: Any = self._deserialize(plan)
            self.tensors = read_tensors(self.trt, self.engine, path)
            self.layers = self._read_layers()
            self.device_name, self.pci_bus_id = self.cuda.device_name(), self._pci_bus_id()
        self.graph = graph and self._can_graph(dla)
        self._own, self._lock = threading.local(), threading.Lock()
        self._lanes: list[tuple[threading.Thread, Lane]] = []

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Run the engine; see `Session.infer`.

        Raises:
            EngineError: The images do not fit the engine, or it failed.
        """
        with self.cuda.current():
            return self._lane().infer(images)

    def timed_infer(self, images: np.ndarray) -> QueryTimes:
        """Run one query and say what its parts took; see `TimedSession`."""
        with self.cuda.current():
            return self._lane().timed(images)

    def queued_infer(self, images: np.ndarray, queries: int) -> float:
        """Return the seconds that queries took which were queued without waiting; see `TimedSession`."""
        with self.cuda.current():
            return self._lane().queued(images, queries)

    def describe(self) -> dict[str, Any]:
        """Say what runs, by the precisions that the engine inspector tells."""
        lanes = [lane for _, lane in self._lanes]
        told = {} if self.layers is None else self.layers.precisions
        counted = next((name for name in LOWEST_FIRST if name in told), None)
        layers = None if self.layers is None else {**told, "reformats": self.layers.reformats, **self.layers.devices}
        return {
            "engine": self.module_name,
            "precision": counted or declared_precision(self.metadata),
            "version": str(self.trt.__version__),
            "device": f"cuda:{self.index}",
            "device_name": self.device_name,
            "pci_bus_id": self.pci_bus_id,
            "threads": 1,
            "cuda": self.cuda.version,
            "graph": all(lane.wants_graph for lane in lanes) if lanes else self.graph,
            "input_dtype": str(self.tensors.input_dtype),
            "layers": layers,
            "notes": list(dict.fromkeys([*self.notes, *(note for lane in lanes for note in lane.notes)])),
        }

    def close(self) -> None:
        """Give everything back, contexts before the engine and the engine before the runtime."""
        with self._lock, self.cuda.current():
            while self._lanes:
                self._lanes.pop()[1].close()
            self.engine = None
            self.runtime = None

    def _lane(self) -> Lane:
        """Return this thread's lane; one whose thread has ended serves the next."""
        lane: Lane | None = getattr(self._own, "lane", None)
        if lane is not None and lane.context is not None:
            return lane
        if self.engine is None:
            raise EngineError(f"the session of '{self.path}' is closed; load the engine again")
        with self._lock:
            this = threading.current_thread()
            place = next((place for place, (owner, _) in enumerate(self._lanes) if not owner.is_alive()), None)
            if place is None:
                lane = Lane(self.cuda, self.engine, self.tensors, self.logger, graph=self.graph)
                self._lanes.append((this, lane))
            else:
                lane = self._lanes[place][1]
                self._lanes[place] = (this, lane)
        self._own.lane = lane
        return lane

    def _take_dla_core(self) -> int | None:
        if self.metadata.get("dla") is None:
            return None
        core, cores = int(self.metadata["dla"]), getattr(self.runtime, "num_DLA_cores", 0)
        if core >= cores:
            raise EngineError(
                f"'{self.path}' was built for DLA core {core} and {self.title} {self.trt.__version__} sees {cores} "
                f"here; build it for the GPU: yolo-compress build model=WEIGHTS engine={self.module_name}"
            )
        self.runtime.DLA_core = core
        return core

    def _deserialize(self, plan: bytes) -> Any:
        self.logger.messages.clear()  # what comes up now is about this file
        engine = self.runtime.deserialize_cuda_engine(plan)
        said = " ".join(text for _, text in self.logger.messages)
        if engine is None:
            meaning, remedy = next(rest for pattern, *rest in REFUSALS if re.search(pattern, said))
            facts = {"title": self.title, "version": self.trt.__version__, "module": self.module_name}
            reason = last_error(self.logger) or "it gave no reason"
            raise EngineError(
                f"'{self.path}' cannot be loaded: {meaning.format(**facts)} ({reason}); {remedy.format(**facts)}"
            )
        if OTHER_MODEL in said:
            self.notes.append("built on another model of GPU, so its kernels were not chosen for this one")
        return engine

    def _read_layers(self) -> EngineLayers | None:
        inspector = self.engine.create_engine_inspector()
        try:
            layers = read_layers(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))
        except EngineError as error:
            self.notes.append(f"precisions of layers unavailable: {error}")
            return None
        if not layers.detailed:
            self.notes.append(str(layers))
        return layers

    def _pci_bus_id(self) -> str:
        try:
            return self.cuda.pci_bus_id()
        except EngineError as error:
            return f"unavailable: {error}"

    def _can_graph(self, dla: int | None) -> bool:
        in_the_way = {
            self.cuda.no_graphs: bool(self.cuda.no_graphs),
            "a DLA cannot take part in one": dla is not None,
            "the NMS inside the engine works on the host too": bool(export_arguments(self.metadata).get("nms")),
        }
        reason = next((reason for reason, holds in in_the_way.items() if holds), "")
        if reason:
            self.notes.append(f"runs without a CUDA graph, which adds time on the host: {reason}")
        return not reason


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; build it first with: yolo-compress build")
    metadata, begin = read_plan(path)
    with path.open("rb") as stream:
        stream.seek(begin)
        plan = stream.read()
    if not plan:
        raise EngineError(f"'{path}' holds no engine; build it again: yolo-compress build model=WEIGHTS")
    return metadata, plan
