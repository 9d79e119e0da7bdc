# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Rank layers by what compressing each alone costs: a table, a CSV and a picture."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from yolo_compress import recipe as recipes
from yolo_compress.artifacts import atomic_write
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.bench.response import OutputWeights
from yolo_compress.bench.run import evenly
from yolo_compress.context import Context, context_for
from yolo_compress.engines import get_engine
from yolo_compress.engines.protocol import Session
from yolo_compress.engines.pytorch import ModelSession
from yolo_compress.errors import UsageError, require
from yolo_compress.host import checkpoint
from yolo_compress.host.cpu import use_all_cores
from yolo_compress.host.data import DataSpec, image_batches, labelled_batches, sample
from yolo_compress.host.export import export_onnx
from yolo_compress.prune import IMPORTANCES, Inputs, Widths, build_graph, layer_times, normalised
from yolo_compress.prune.sensitivity import SensitivityRow, prune_sensitivity
from yolo_compress.quantize import QuantizeSensitivityRow, onnx_sensitivity, quantize_onnx
from yolo_compress.quantize.format import format_of, format_options
from yolo_compress.quantize.placement import Placement
from yolo_compress.quantize.savings import measure_savings, runtime_for
from yolo_compress.recipe import PruneSection, QuantizeSection, Section
from yolo_compress.timing import RANGE_IMAGES, cache_folder, timing_for

if TYPE_CHECKING:
    import onnx

SHOWN = 15  # layers that are printed; the CSV has them all
KINDS = ("prune", "quantize")
SHARE, IMPORTANCE, RANGE = 0.25, "l2", "mse"
Row = SensitivityRow | QuantizeSensitivityRow


@dataclass(frozen=True)
class SensitivityFiles:
    """A ranking and where it was written: the cheapest layer to prune first, or the most costly one to quantize."""

    rows: tuple[Row, ...]
    csv: Path
    picture: Path

    def __str__(self) -> str:
        """Return the head of the ranking and the places of the files."""
        lines = [_line(row) for row in self.rows[:SHOWN]]
        if len(self.rows) > SHOWN:
            lines.append(f"and {len(self.rows) - SHOWN} more")
        return "\n".join([_heading(self.rows), *lines, f"wrote {self.csv}", f"wrote {self.picture}"])


def sensitivity(
    model: str | Path,
    *,
    data: str | Path,
    kind: str = "prune",
    share: str | float = SHARE,
    imgsz: int = 640,
    importance: str = IMPORTANCE,
    range: str = RANGE,
    images: int = 64,
    val_images: int = 0,
    target: str | None = None,
    project: str | Path = "runs/compress",
    name: str | None = None,
    progress: Callable[[str], None] = print,
) -> SensitivityFiles:
    """Narrow or quantize each layer of a checkpoint alone, and rank layers by the loss for what it saves.

    Args:
        model: Trained checkpoint.
        data: Data YAML; training images score channels, choose ranges and show how the detections change.
        kind: What is done to each layer, `prune` or `quantize`.
        share: Share of a layer's channels to take, in (0, 1); for `prune`.
        imgsz: Side of the square input in pixels.
        importance: Score that says which channels go; for `prune`.
        range: How activation ranges are chosen; for `quantize`.
        images: Training images used.
        val_images: Validation images for the loss of mAP50-95; 0 ranks by the change of the detections alone.
        target: Runtime and precision for milliseconds, such as openvino:int8. When not given, `prune` goes by GFLOPs
            and `quantize` by the loss alone. For `quantize` a bare runtime, such as tensorrt, names whose scheme is
            followed; that is OpenVINO's when nothing is given.
        project: Folder that the result goes into.
        name: File name without suffix; the model's with `_sensitivity` when not given.
        progress: Takes a line now and then.

    Raises:
        UsageError: An option cannot be used, or the runtime is absent.
        DataError: Weights or data are missing or damaged.
        MissingDependency: matplotlib is not installed.
    """
    if kind not in KINDS:
        raise UsageError(f"kind={kind} is not known; choose from {', '.join(KINDS)}")
    others = {"share": share != SHARE, "importance": importance != IMPORTANCE}
    foreign = {"prune": {"range": range != RANGE}, "quantize": others}[kind]
    if wrong := [key for key, given in foreign.items() if given]:
        raise UsageError(f"{wrong[0]}= has no meaning for kind={kind}; leave it out")
    rank = _pruner(share, importance, images, target) if kind == "prune" else _quantizer(range, images, target)
    require("matplotlib", extra="report", purpose="sensitivity pictures")
    context = context_for(model, data, imgsz=imgsz, device="cpu", run_dir=Path(project), progress=progress)
    use_all_cores()
    rows = rank(context, val_images)
    stem = Path(project) / (name or f"{context.model.stem}_sensitivity")
    files = SensitivityFiles(tuple(rows), stem.with_suffix(".csv"), stem.with_suffix(".png"))
    atomic_write(files.csv, _csv(rows))
    atomic_write(files.picture, picture(rows))
    return files


Rank = Callable[[Context, int], Sequence[Row]]


def _pruner(share: str | float, importance: str, images: int, target: str | None) -> Rank:
    """Check the options of `kind=prune` and return what ranks."""
    taken = _share(share)
    options = {"importance": importance, "images": images, **({"latency": 0.5, "target": target} if target else {})}
    section = _checked("prune", options if target else {**options, "ratio": 0.5})
    assert isinstance(section, PruneSection)

    def rank(context: Context, val_images: int) -> Sequence[Row]:
        imgsz, progress = context.imgsz, context.progress
        network = checkpoint.load_model(context.model)
        graph = build_graph(network, imgsz=imgsz)
        chosen = sample(context.data.train, images, seed=0)
        inputs = Inputs(
            labelled=lambda: labelled_batches(context.data, imgsz, limit=images),
            images=lambda: image_batches(chosen, imgsz),
            weights=OutputWeights(**section.output_weights),
        )
        entry = IMPORTANCES[section.importance]
        scores = normalised(entry.function(network, graph, inputs, progress), graph, additive=entry.additive)
        with timing_for(section, network, imgsz=imgsz, images=chosen, progress=progress) as timing:
            times = layer_times(network, graph, timing, progress=progress) if timing is not None else None
        measure = _accuracy(context.data, imgsz, val_images) if val_images else None

        def accuracy(changed: nn.Module) -> float:
            assert measure is not None
            return measure(ModelSession(changed))

        return prune_sensitivity(
            network,
            graph,
            scores,
            share=taken,
            widths=Widths(8, 0.9),
            images=lambda: image_batches(chosen, imgsz),
            weights=inputs.weights,
            times=times,
            accuracy=accuracy if measure else None,
            progress=progress,
        )

    return rank


def _quantizer(range: str, images: int, target: str | None) -> Rank:
    """Check the options of `kind=quantize` and return what ranks."""
    runtime, _, precision = (target or "openvino").partition(":")
    if precision not in ("", "int8"):
        raise UsageError(f"target={target} is not what layers are quantized to; write target={runtime}:int8")
    section = _checked("quantize", {"target": runtime, "range": range, "images": images})
    assert isinstance(section, QuantizeSection)
    instead = f"write target={runtime} to rank layers by what they cost in its form"
    engine = runtime_for(runtime, option="saved time", instead=instead) if precision else None

    def rank(context: Context, val_images: int) -> Sequence[Row]:
        chosen = sample(context.data.train, images, seed=0)
        measure = _accuracy(context.data, context.imgsz, val_images) if val_images else None
        with tempfile.TemporaryDirectory() as place:

            def accuracy(graph: onnx.ModelProto) -> float:
                assert measure is not None
                file = Path(place) / "graph.onnx"
                file.write_bytes(graph.SerializeToString())
                return measure(get_engine("onnxruntime").load(file))

            source = export_onnx(context.model, Path(place) / "float.onnx", imgsz=context.imgsz)

            def ms_saved(model: onnx.ModelProto, placement: Placement) -> Mapping[str, float]:
                assert engine is not None

                def coded() -> Path:
                    few = chosen[:RANGE_IMAGES]  # how ranges are chosen does not change what a layer takes
                    out = Path(place) / "int8.onnx"
                    given = {"imgsz": context.imgsz, **format_options(section)}
                    return quantize_onnx(source, out, images=few, range="minmax", **given).path

                savings = measure_savings(
                    engine,
                    source,
                    coded,
                    model,
                    placement,
                    imgsz=context.imgsz,
                    numbers=format_of(section),
                    cache=cache_folder(),
                    progress=context.progress,
                )
                context.progress(savings.note)
                return savings.ms

            return onnx_sensitivity(
                source,
                images=chosen,
                imgsz=context.imgsz,
                range=section.range,
                ms_saved=ms_saved if precision else None,
                accuracy=accuracy if measure else None,
                progress=context.progress,
                **format_options(section),
            )

    return rank


def picture(rows: Sequence[Row]) -> bytes:
    """Return a PNG of bars, one per layer in the order of the ranking, on a logarithmic axis.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    require("matplotlib", extra="report", purpose="sensitivity pictures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: the caller's choice of backend stays as it is

    figure = Figure(figsize=(7.2, 0.6 + 0.17 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    values = [row.change_per_saving for row in rows]
    floor = min((value for value in values if 0 < value < float("inf")), default=1.0)
    shown = [min(max(value, floor / 2), 1e6 * floor) for value in values]
    axes.barh(range(len(rows)), shown, color="#0f766e", edgecolor="#111827", linewidth=0.3)
    axes.set_yticks(range(len(rows)), [row.layer for row in rows], fontsize=6)
    axes.invert_yaxis()
    axes.set_xscale("log")
    loss = "mAP50-95 points" if rows and rows[0].map_drop_points is not None else "change of the detections"
    unit = _unit(rows)
    advice = "short bars: the layers to prune" if _narrowed(rows) else "long bars: the layers to keep in float"
    axes.set_xlabel(f"{loss}{f' per {unit} saved' if unit else ''} ({advice})", fontsize=7)
    axes.tick_params(axis="x", labelsize=6)
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _narrowed(rows: Sequence[Row]) -> bool:
    return not rows or isinstance(rows[0], SensitivityRow)


def _unit(rows: Sequence[Row]) -> str:
    if any(row.ms_saved is not None for row in rows):
        return "ms"
    return "GFLOP" if _narrowed(rows) else ""


def _heading(rows: Sequence[Row]) -> str:
    unit = _unit(rows)
    width = f" {'width':>11s}" if _narrowed(rows) else ""
    saved, per = f"{unit} saved" if unit else "", f"per {unit}" if unit else "ranked by"
    return f"{'layer':24s}{width} {saved:>13s} {'mAP lost':>9s} {'output':>9s} {per:>11s}"


def _line(row: Row) -> str:
    lost = "-" if row.map_drop_points is None else f"{row.map_drop_points:.2f}"
    saved = row.ms_saved
    width = ""
    if isinstance(row, SensitivityRow):
        width = f" {f'{row.width_before} -> {row.width_after}':>11s}"
        saved = row.gflops_saved if saved is None else saved
    told = "" if saved is None else f"{saved:.3f}"
    return f"{row.layer:24s}{width} {told:>13s} {lost:>9s} {row.output_change:9.3f} {row.change_per_saving:11.2f}"


def _csv(rows: Sequence[Row]) -> str:
    stream = io.StringIO()
    kind = SensitivityRow if _narrowed(rows) else QuantizeSensitivityRow
    writer = csv.DictWriter(stream, [item.name for item in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return stream.getvalue()


def _accuracy(data: DataSpec, imgsz: int, limit: int) -> Callable[[Session], float]:
    """Return what measures mAP50-95 of a session as a share, and closes it."""
    images = evenly(data.val, limit)

    def measure(session: Session) -> float:
        try:
            truth, found = detect([session], images, imgsz=imgsz)
        finally:
            session.close()
        return evaluate(truth, found[0], classes=len(data.names)).map50_95

    return measure


def _share(given: str | float) -> float:
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise UsageError(f"share={given} is not a share in (0, 1); write, for example, share=0.25")
    return value


def _checked(name: str, options: dict[str, object]) -> Section:
    """Check options as those of a recipe's section."""
    tree = {"schema_version": recipes.SCHEMA_VERSION, name: options}
    names = {f"{name}.{flag.field}": flag.field for flag in recipes.section_options(name)}
    section = getattr(recipes.validate(tree, source="the command", names=names), name)
    assert section is not None
    return section
