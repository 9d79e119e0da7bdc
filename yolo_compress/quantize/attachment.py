# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Quantization-aware training as a part of a training run: ranges are searched first, then learned."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolo_compress.calibrate import calibration_set
from yolo_compress.host.checkpoint import facts, set_facts, write_model
from yolo_compress.host.data import read_data
from yolo_compress.host.export import export_onnx
from yolo_compress.host.trainer import CompressTrainer, Narrowing
from yolo_compress.host.ultralytics import LOGGER, RANK, unwrap_model
from yolo_compress.quantize.emulation import CHILD, Quantizers, aside, current, hold_statistics, install, set_folded_
from yolo_compress.quantize.format import format_of
from yolo_compress.quantize.graph import nearest_parameters
from yolo_compress.quantize.learned import FACT, Learned
from yolo_compress.quantize.placement import Wiring, place
from yolo_compress.quantize.ptq import REPAIR_IMAGES
from yolo_compress.quantize.ranges import RANGES
from yolo_compress.quantize.repair import repair_layers
from yolo_compress.quantize.rounding import ROUNDINGS
from yolo_compress.quantize.sites import sites
from yolo_compress.quantize.source import read_float
from yolo_compress.quantize.widths import choose_widths, placed
from yolo_compress.recipe import QatSection, QuantizeSection


class QuantizationAware:
    """Puts quantizers into the model of a run and lets training move weights and scales to where they cost least.

    The average of the model holds quantizers too, so that every validation of the run sees the quantized model;
    checkpoints hold float weights and, as plain data, what the scales have come to.
    """

    names: tuple[str, ...] = ()
    labels = True

    def __init__(self, section: QatSection, form: QuantizeSection) -> None:
        """Take how to train, and what form the quantized model has."""
        self.section, self.form = section, form
        self.start: Quantizers | None = None
        self._groups: tuple[tuple[str, ...], ...] = ()  # tensors of each group, by their names in the graph
        self._trainer: CompressTrainer | None = None

    def attach(self, trainer: CompressTrainer) -> None:
        """Choose where quantizers go and what they begin with, on training images, and put them into the model.

        Raises:
            UsageError: A layer to keep does not exist, or an option is out of range.
            UnsupportedModel: The model has blocks that are not known.
        """
        self._trainer = trainer
        saved = trainer.saved_state(self)
        if saved is None:
            self.start, self._groups = self._begin(trainer)
        else:
            self.start, self._groups = Quantizers.read(saved["start"]), tuple(tuple(names) for names in saved["groups"])
        install(trainer.model, self.start)
        trainer.add_callback("on_train_epoch_start", CompressTrainer.restart_epoch)  # so that it resumes exactly
        trainer.add_callback("on_train_end", self._tell)

    def before_batch(self, batch: Mapping[str, Any]) -> None:
        """Hold scales and the statistics of BatchNorm where they are in the last epochs."""
        trainer = self._trainer
        assert trainer is not None
        learning = trainer.epoch < self.section.freeze * trainer.epochs
        for parameter in self.parameters():
            parameter.requires_grad_(learning)
        if not learning or self.section.batchnorm == "frozen":
            hold_statistics(unwrap_model(trainer.model))

    def parameters(self) -> list[nn.Parameter]:
        """Return the scales."""
        assert self._trainer is not None
        return list(getattr(unwrap_model(self._trainer.model), CHILD).parameters())

    def state(self) -> dict[str, Any]:
        """Return what a resumed run builds the same quantizers from; their values are in the model's state."""
        assert self._trainer is not None
        assert self.start is not None
        now = current(unwrap_model(self._trainer.model), self.start)
        return {"start": now.plain(), "groups": [list(names) for names in self._groups]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing: `attach` has built the quantizers, and the model's state holds their values."""

    def stepped(self, model: nn.Module) -> None:
        """Do nothing: scales are parameters."""

    def narrowed(self, narrow: Narrowing, shapes: Mapping[str, torch.Size]) -> None:
        """Do nothing: a recipe that prunes while it trains is refused beside this."""

    @contextmanager
    def aside(self, model: nn.Module) -> Iterator[None]:
        """Leave the float model, which says what its scales are, for as long as the context lasts."""
        assert self.start is not None
        now = current(model, self.start)
        with aside(model, self.start):
            learned = Learned.of(model, now, self._groups, self.form)
            set_facts(model, {**facts(model), FACT: learned.plain()})
            yield

    def _begin(self, trainer: CompressTrainer) -> tuple[Quantizers, tuple[tuple[str, ...], ...]]:
        form = self.form
        stride = max(int(trainer.model.stride.max()), 32)
        imgsz = math.ceil(trainer.args.imgsz / stride) * stride  # the trainer rounds it the same way, but later
        calibration = None
        if format_of(form).static or repairs(form):  # weights alone, rounded to the nearest, look at no images
            calibration = calibration_set(read_data(trainer.args.data), form.images, form.calibration)
        images = calibration.images if calibration else ()
        progress = LOGGER.info if RANK in {-1, 0} else None
        start, groups, layers = starting_point(trainer.model, form, images, imgsz, progress=progress)
        if RANK in {-1, 0}:
            for note in calibration.notes if calibration else ():
                LOGGER.warning(note)
            LOGGER.info(
                f"Training quantized for {form.target}: {len(start.weights)} of {layers} convolutions, "
                f"{len(groups)} ranges chosen by {form.range} on {len(images)} images"
            )
        return start, groups

    def _tell(self, trainer: CompressTrainer) -> None:
        if RANK in {-1, 0}:
            LOGGER.info(
                f"Validated above is the float model of {trainer.best}; every epoch before was validated quantized. "
                f"Write the quantized one with: yolo-compress quantize model={trainer.best} data={trainer.args.data}"
            )


def repairs(form: QuantizeSection) -> bool:
    """Tell whether codes and biases are fitted to images before training begins."""
    return form.rounding != "nearest" or form.bias_correction


def starting_point(
    model: nn.Module,
    form: QuantizeSection,
    images: Sequence[Path],
    imgsz: int,
    *,
    progress: Callable[[str], None] | None = None,
) -> tuple[Quantizers, tuple[tuple[str, ...], ...], int]:
    """Choose what quantization without training would on the same images, as quantizers of the PyTorch model.

    Where codes and biases are repaired, the model gets the weights that the codes stand for, in place: nearest rounding
    under the same scales finds the codes again, and training moves on from there.

    Args:
        model: A float detector of Ultralytics.
        form: What form the quantized model has.
        images: Calibration images.
        imgsz: Side of the square input in pixels, a multiple of the largest stride.
        progress: Takes a line now and then.

    Returns:
        The quantizers; the tensors of each group by their names in the exported graph; and how many convolutions the
        graph has, quantized or not.

    Raises:
        UsageError: A layer to keep does not exist, or an option is out of range.
        UnsupportedModel: The model has blocks that are not known.
    """
    numbers = format_of(form)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "start.pt"
        write_model(model, file)
        graph = read_float(export_onnx(file, Path(folder) / "start.onnx", imgsz=imgsz))
    placement = placed(place(graph.graph, numbers.scheme, keep=form.keep), numbers)
    chosen = choose_widths(graph, placement, numbers, RANGES[form.range], images, imgsz=imgsz)
    parameters = nearest_parameters(graph, placement, chosen.quantizers, numbers.weights, int32_bias=numbers.int32_bias)
    if repairs(form):
        repaired, _ = repair_layers(
            graph,
            placement,
            chosen.quantizers,
            parameters,
            images[:REPAIR_IMAGES],
            imgsz=imgsz,
            form=numbers.weights,
            rounder=ROUNDINGS[form.rounding].choose,
            bias=form.bias_correction,
            int32_bias=numbers.int32_bias,
            progress=progress,
        )
        for layer in placement.layers:
            found = repaired[layer.node]
            if found.weight is not None:
                assert found.bias is not None  # BatchNorm leaves one in every block that is quantized
                set_folded_(unwrap_model(model), layer.name, found.weight.values, found.bias)
    weights = {layer.name: parameters[layer.node].weight for layer in placement.layers}
    scales = {name: known.scales for name, known in weights.items() if known is not None}
    tables = {name: known.table for name, known in weights.items() if known is not None and known.table is not None}
    activations = [chosen.quantizers[group] for group in placement.groups]
    start = Quantizers(sites(Wiring(graph.graph), placement), activations, scales, numbers.weights, tables)
    return start, tuple(group.tensors for group in placement.groups), len(placement.layers)
