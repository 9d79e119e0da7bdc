# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The precision map that a latency or a drop allows: which layers stay in float, what each costs and what it saves."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from yolo_compress.bench.latency import summarize
from yolo_compress.bench.paired import noise_image, paired_seconds
from yolo_compress.engines.protocol import Engine
from yolo_compress.errors import GateNotMet
from yolo_compress.quantize.format import format_of, format_options
from yolo_compress.quantize.knapsack import Choice, Knapsack
from yolo_compress.quantize.mixed import first_that_holds
from yolo_compress.quantize.placement import place
from yolo_compress.quantize.result import QuantizeResult
from yolo_compress.quantize.savings import Savings, measure_savings, precision_of, runtime_for
from yolo_compress.quantize.sensitivity import onnx_sensitivity
from yolo_compress.quantize.source import read_float
from yolo_compress.quantize.timed import Measured, Tried, fit_latency
from yolo_compress.quantize.widths import placed
from yolo_compress.recipe import QuantizeSection

STEPS = 100  # maps that a drop is sought among, from the fastest to float: one per cent of what INT8 saves between two


class Quantized(Protocol):
    """Writes the Q/DQ graph with some more layers in float."""

    def __call__(self, keep: Sequence[str], *, repaired: bool = True) -> QuantizeResult:
        """Write it; repair of biases and rounding, which takes no part in time, may be left out."""
        ...


@dataclass(frozen=True)
class PrecisionMap:
    """What was chosen and written.

    Attributes:
        result: The Q/DQ graph; its table says of each layer that went back what it costs in INT8 and what that saves.
        keep: Layers that went back to float, in the order of the model.
        metrics: Times of the finished artifact and of the float one, and the paired ratio.
        notes: What there is to say.
    """

    result: QuantizeResult
    keep: tuple[str, ...]
    metrics: Mapping[str, float]
    notes: tuple[str, ...]


def wants_time(section: QuantizeSection) -> bool:
    """Tell whether the options ask for measured times."""
    return section.latency is not None or section.timed


def check_runtime(section: QuantizeSection) -> Engine | None:
    """Return the runtime that the options are measured on, None where they ask for no time.

    Raises:
        UsageError: It cannot run here.
    """
    if not wants_time(section):
        return None
    option = "timed=True" if section.latency is None else f"latency={section.latency:g}"
    return runtime_for(section.target, option=option, instead="give max_drop= alone, which measures no time")


def precision_map(
    section: QuantizeSection,
    floating: Path,
    quantized: Quantized,
    *,
    accuracy: Callable[[Path], float],
    images: Sequence[Path],
    imgsz: int,
    cache: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> PrecisionMap:
    """Choose the layers that stay in float by what INT8 costs in each, how the detections move, and what it saves.

    With `latency`, the cheapest map whose finished model takes that share of the float model's time, and with
    `max_drop` beside it, that map has to hold the drop as well. With `max_drop` alone, the fastest map that was
    measured to hold it.

    Args:
        section: The options.
        floating: The float graph.
        quantized: Writes the Q/DQ graph.
        accuracy: Returns mAP50-95 of a graph as a share.
        images: Calibration images; the detections are compared on the first of them.
        imgsz: Side of the square input in pixels.
        cache: Folder that node times are kept in.
        progress: Takes a line now and then.

    Raises:
        UsageError: The runtime cannot run here.
        GateNotMet: No map holds what was asked; the nearest is what was written last.
        EngineError: The runtime refused an artifact, or names no layer in its profile.
    """
    engine = check_runtime(section)
    assert engine is not None
    with tempfile.TemporaryDirectory() as place_:
        bench = _Bench(engine, Path(place_), floating, imgsz, progress)
        model = read_float(floating)
        numbers = format_of(section)
        placement = placed(place(model.graph, numbers.scheme, keep=section.keep), numbers)
        savings = measure_savings(
            engine,
            floating,
            lambda: quantized((), repaired=False).path,
            model,
            placement,
            imgsz=imgsz,
            numbers=numbers,
            cache=cache,
            progress=progress,
        )
        full = accuracy(floating) if section.max_drop is not None else 0.0

        def drop(path: Path) -> float | None:
            return 100 * (full - accuracy(path)) if section.max_drop is not None else None

        timed: dict[tuple[str, ...], Measured] = {}

        def measure(keep: tuple[str, ...]) -> Measured:
            if keep not in timed:
                timed[keep] = bench.measure(quantized(keep, repaired=False).path)
            return timed[keep]

        if section.latency is not None:  # before layers are ranked, which takes longer
            free = Knapsack(dict.fromkeys(savings.layers, 0.0), savings.ms)
            found = fit_latency(free, measure, latency=section.latency, progress=progress)
            if not found.holds(section.latency):
                nearest = quantized(found.choice.keep).path
                _judge(found, free, section, nearest, drop(nearest))
        rows = onnx_sensitivity(
            floating,
            images=images,
            imgsz=imgsz,
            range=section.range,
            progress=progress,
            **format_options(section),
        )
        costs = {row.layer: max(row.output_change, 0.0) for row in rows}
        knapsack = Knapsack({layer: costs[layer] for layer in savings.layers}, savings.ms)
        if section.latency is None:
            choice = _fastest_within(section, knapsack, lambda keep: drop(quantized(keep).path), progress)
        else:
            choice = fit_latency(knapsack, measure, latency=section.latency, progress=progress).choice
        written = quantized(choice.keep)
        if choice.keep not in timed or section.bias_correction or section.rounding != "nearest":
            timed[choice.keep] = bench.measure(written.path)  # what was timed so far is not what is written
        finished = Tried(choice, timed[choice.keep])
        lost = drop(written.path)
        _judge(finished, knapsack, section, written.path, lost)
        return _map(written, finished, knapsack, savings, section, lost)


class _Bench:
    """Times Q/DQ graphs against the float graph on one runtime."""

    def __init__(
        self, engine: Engine, folder: Path, floating: Path, imgsz: int, progress: Callable[[str], None]
    ) -> None:
        self.engine, self.folder, self.imgsz, self.progress = engine, folder, imgsz, progress
        self.built = 0
        self.floating = engine.build(floating, folder / "float", precision="fp32", imgsz=imgsz).path

    def build(self, graph: Path) -> Path:
        self.built += 1
        place_ = self.folder / str(self.built)
        return self.engine.build(graph, place_, precision=precision_of(graph), imgsz=self.imgsz).path

    def measure(self, graph: Path) -> Measured:
        seconds = paired_seconds(
            self.engine, self.floating, self.build(graph), noise_image(self.imgsz), progress=self.progress
        )
        floating, coded = summarize(seconds)
        return Measured(coded.ratio_p50, coded.ratio_interval, coded.p50_ms, floating.p50_ms)


def _fastest_within(
    section: QuantizeSection,
    knapsack: Knapsack,
    drop: Callable[[tuple[str, ...]], float | None],
    progress: Callable[[str], None],
) -> Choice:
    """Return the map that saves most of those that were measured to hold a drop."""
    maps = knapsack.steps(STEPS)
    number, _ = first_that_holds(
        lambda number: drop(maps[number].keep) or 0.0,
        lambda: len(maps) - 1,
        max_drop=section.max_drop or 0.0,
        words=lambda number: f"{len(maps[number].keep)} layers in float",
        progress=progress,
    )
    return maps[number]


def _judge(finished: Tried, knapsack: Knapsack, section: QuantizeSection, written: Path, lost: float | None) -> None:
    """Refuse what does not hold all that was asked, and say what it is.

    Raises:
        GateNotMet: It takes too long, or costs too much.
    """
    late = section.latency is not None and not finished.holds(section.latency)
    dear = section.max_drop is not None and lost is not None and lost > section.max_drop
    if not late and not dear:
        return
    found = f"with {len(finished.choice.keep)} layers in float, was measured at {finished.measured}"
    if lost is not None:
        found += f" and costs {lost:.2f} mAP50-95 points"
    if late:
        slower = sum(saved <= 0 for saved in knapsack.savings.values())
        ratio = math.ceil(100 * finished.measured.ratio) / 100
        advice = f"ask for latency={ratio:g} or more, or prune the model"
        if ratio >= 1:
            advice = "INT8 does not pay here: leave the model in float, or prune it"
        raise GateNotMet(
            f"latency={section.latency:g} cannot be met on {section.target}: the nearest map, {found}; by its profile "
            f"INT8 saves nothing in {slower} of {len(knapsack.savings)} layers; it is in '{written}': {advice}"
        )
    asked = f"latency={section.latency:g}" if section.latency is not None else "timed=True"
    raise GateNotMet(
        f"{asked} and max_drop={section.max_drop:g} cannot be met together on {section.target}: the cheapest map that "
        f"is fast enough, {found}; it is in '{written}': allow more time, or a larger drop"
    )


def _map(
    written: QuantizeResult,
    finished: Tried,
    knapsack: Knapsack,
    savings: Savings,
    section: QuantizeSection,
    lost: float | None,
) -> PrecisionMap:
    keep, measured = finished.choice.keep, finished.measured
    why = {layer: worth(knapsack.costs[layer], knapsack.savings[layer]) for layer in keep}
    layers = tuple(replace(row, why=why.get(row.name, row.why)) for row in written.layers)
    figures = {
        "latency_ratio": measured.ratio,
        "latency_ms_p50": measured.ms,
        "float_latency_ms_p50": measured.float_ms,
    }
    asked = f", latency={section.latency:g} was asked" if section.latency is not None else ""
    notes = [f"measured on {section.target}: {measured}{asked}"]
    if lost is not None:
        notes.append(f"quantization costs {lost:.2f} mAP50-95 points, max_drop={section.max_drop:g} was asked")
    named = ", ".join(f"{layer} ({told})" for layer, told in why.items())
    count = f"{len(keep)} {'layer' if len(keep) == 1 else 'layers'} went back to float: {named}"
    notes += [count if keep else "no layer had to go back to float", savings.note]
    return PrecisionMap(replace(written, layers=layers), keep, figures, tuple(notes))


def worth(cost: float, saving: float) -> str:
    """Say what INT8 would cost in a layer, as a change of the detections, and what it would save, in ms."""
    gained = f"saves {saving:.2f} ms" if saving > 0 else f"takes {-saving:.2f} ms more"
    return f"costs {cost:.3g}, {gained}"
