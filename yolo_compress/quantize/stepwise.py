# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""A model that is run over images once, in steps, while the layers that a step has not reached yet may still change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_compress.errors import DataError, EngineError, require
from yolo_compress.host.data import image_batches
from yolo_compress.quantize.calibration import fixed_batch, needed, runtime_options

if TYPE_CHECKING:
    import onnx

CHEAP = "DequantizeLinear"  # computed again where it is read, so that codes are kept, in a quarter of the memory


class Stepwise:
    """The tensors of a graph over some images, each node computed once.

    To choose the layers of a graph one after the other, each by what those before it give, the graph would have to run
    from the image anew for every layer. Instead, what has been computed and is still read later is kept for each image:
    for a quantized graph mostly codes of 8 bits, for a float one the feature maps that one moment of a run needs.
    """

    def __init__(self, images: Sequence[Path], imgsz: int) -> None:
        self.images, self.imgsz = images, imgsz
        self._done: set[str] = set()  # tensors that need not be computed any more
        self._kept: list[dict[str, np.ndarray]] = []  # by batch

    def advance(self, model: onnx.ModelProto, tensors: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Yield tensors of the model by name, batch after batch; the step is taken when all have been.

        Args:
            model: The graph; nodes that former steps have computed must be what they were.
            tensors: What is looked at, outputs of nodes or the input itself.

        Raises:
            DataError: There are no images.
            UsageError: The model was exported for another image size.
            EngineError: ONNX Runtime cannot run the model.
        """
        if not self.images:
            raise DataError("there are no images to repair layers by; give data=FILE.yaml with training images")
        graph = model.graph
        image = graph.input[0].name
        if not self._done:
            batches = image_batches(self.images, self.imgsz, batch=(size := fixed_batch(model, self.imgsz)))
            # a small last batch is filled up, since the graph takes no other size
            self._kept = [{image: np.concatenate([b, np.repeat(b[-1:], size - len(b), axis=0)])} for b in batches]
            self._done = {image}
        wanted = [name for name in dict.fromkeys(tensors) if name not in self._done]
        nodes = needed(graph, wanted, self._done)
        made = {name for node in nodes for name in node.output if node.op_type != CHEAP}
        left = needed(graph, [value.name for value in graph.output], self._done | made)
        later = {name for node in left for name in node.input}
        outputs = [*wanted, *sorted(made & later - set(wanted))]
        session = _session(model, nodes, self._kept[0], outputs) if outputs else None
        for kept in self._kept:
            given = {value.name: kept[value.name] for value in session.get_inputs()} if session else {}
            found = dict(zip(outputs, session.run(None, given), strict=True)) if session else {}
            known = {**kept, **found}
            yield {name: known[name] for name in tensors}
            kept.update({name: found[name] for name in outputs if name in made})
            for name in kept.keys() - later:
                del kept[name]
        self._done |= made


def _session(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], known: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> Any:
    """Return a session of some nodes that reads known tensors."""
    onnx = require("onnx", extra="onnx", purpose="quantization")
    runtime = require("onnxruntime", extra="onnx", purpose="quantization")
    part = onnx.ModelProto()
    part.ir_version = model.ir_version
    part.opset_import.extend(model.opset_import)
    read = {name for node in nodes for name in node.input}
    part.graph.name = "part"
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(value for value in model.graph.initializer if value.name in read)
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(known[name].dtype) for name in sorted(known.keys() & read)}
    part.graph.input.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items())
    part.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    try:
        return runtime.InferenceSession(
            part.SerializeToString(), runtime_options(runtime), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime raises its own unrelated classes
        raise EngineError(f"ONNX Runtime cannot run the model for calibration: {error}") from error
