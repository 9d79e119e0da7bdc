# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Rank layers by what compressing each alone costs: a table, a CSV and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch import nn

from yolo_compress import recipe as recipes
from yolo_compress import stages
from yolo_compress.artifacts import atomic_write
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.bench.response import OutputWeights
from yolo_compress.bench.run import evenly
from yolo_compress.engines.pytorch import ModelSession
from yolo_compress.errors import UsageError, require
from yolo_compress.host import checkpoint
from yolo_compress.host.cpu import use_all_cores
from yolo_compress.host.data import DataSpec, image_batches, labelled_batches, sample
from yolo_compress.prune import IMPORTANCES, Inputs, Widths, build_graph, layer_times, normalised
from yolo_compress.prune.sensitivity import SensitivityRow, prune_sensitivity
from yolo_compress.recipe import PruneSection
from yolo_compress.timing import timing_for

SHOWN = 15  # layers that are printed; the CSV has them all


@dataclass(frozen=True)
class SensitivityFiles:
    """A ranking and where it was written; the cheapest layer to compress comes first."""

    rows: tuple[SensitivityRow, ...]
    csv: Path
    picture: Path

    def __str__(self) -> str:
        """Return the head of the ranking and the places of the files."""
        timed = bool(self.rows) and self.rows[0].ms_saved is not None
        unit = "ms" if timed else "GFLOPs"
        lines = [
            f"{'layer':24s} {'width':>11s} {unit + ' saved':>13s} {'mAP lost':>9s} {'output':>9s} {'per ' + unit:>11s}"
        ]
        for row in self.rows[:SHOWN]:
            saved = row.ms_saved if row.ms_saved is not None else row.gflops_saved
            lost = "-" if row.map_drop_points is None else f"{row.map_drop_points:.2f}"
            width = f"{row.width_before} -> {row.width_after}"
            costs = f"{lost:>9s} {row.output_change:9.3f} {row.change_per_saving:11.2f}"
            lines.append(f"{row.layer:24s} {width:>11s} {saved:13.3f} {costs}")
        if len(self.rows) > SHOWN:
            lines.append(f"and {len(self.rows) - SHOWN} more")
        return "\n".join([*lines, f"wrote {self.csv}", f"wrote {self.picture}"])


def sensitivity(
    model: str | Path,
    *,
    data: str | Path,
    kind: str = "prune",
    share: str | float = 0.25,
    imgsz: int = 640,
    importance: str = "l2",
    images: int = 64,
    val_images: int = 0,
    target: str | None = None,
    project: str | Path = "runs/compress",
    name: str | None = None,
    progress: Callable[[str], None] = print,
) -> SensitivityFiles:
    """Narrow each layer of a checkpoint alone, and rank layers by the loss per millisecond or GFLOP saved.

    Args:
        model: Trained checkpoint.
        data: Data YAML; training images score channels and show how the detections change.
        kind: What is done to each layer; `prune`.
        share: Share of a layer's channels to take, in (0, 1).
        imgsz: Side of the square input in pixels.
        importance: Score that says which channels go.
        images: Training images used.
        val_images: Validation images for the loss of mAP50-95; 0 ranks by the change of the detections alone.
        target: Runtime and precision for milliseconds, such as openvino:int8; GFLOPs when not given.
        project: Folder that the result goes into.
        name: File name without suffix; the model's with `_sensitivity` when not given.
        progress: Takes a line now and then.

    Raises:
        UsageError: An option cannot be used, or the runtime is absent.
        DataError: Weights or data are missing or damaged.
        MissingDependency: matplotlib is not installed.
    """
    if kind != "prune":
        raise UsageError(f"kind={kind} is not known; choose from prune")
    taken = _share(share)
    options = {"importance": importance, "images": images, **({"latency": 0.5, "target": target} if target else {})}
    section = _checked(options if target else {**options, "ratio": 0.5})
    require("matplotlib", extra="report", purpose="sensitivity pictures")
    context = stages.context_for(model, data, imgsz=imgsz, device="cpu", run_dir=Path(project), progress=progress)
    use_all_cores()
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
    rows = prune_sensitivity(
        network,
        graph,
        scores,
        share=taken,
        widths=Widths(8, 0.9),
        images=lambda: image_batches(chosen, imgsz),
        weights=inputs.weights,
        times=times,
        accuracy=_accuracy(context.data, imgsz, val_images) if val_images else None,
        progress=progress,
    )
    stem = Path(project) / (name or f"{context.model.stem}_sensitivity")
    files = SensitivityFiles(tuple(rows), stem.with_suffix(".csv"), stem.with_suffix(".png"))
    atomic_write(files.csv, _csv(rows))
    atomic_write(files.picture, picture(rows))
    return files


def picture(rows: Sequence[SensitivityRow]) -> bytes:
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
    saving = "millisecond" if rows and rows[0].ms_saved is not None else "GFLOP"
    axes.set_xlabel(f"{loss} per {saving} saved (short bars: the layers to prune)", fontsize=7)
    axes.tick_params(axis="x", labelsize=6)
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _csv(rows: Sequence[SensitivityRow]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [item.name for item in fields(SensitivityRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return stream.getvalue()


def _accuracy(data: DataSpec, imgsz: int, limit: int) -> Callable[[nn.Module], float]:
    images = evenly(data.val, limit)

    def measure(model: nn.Module) -> float:
        session = ModelSession(model)
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


def _checked(options: dict[str, object]) -> PruneSection:
    tree = {"schema_version": recipes.SCHEMA_VERSION, "prune": options}
    names = {f"prune.{flag.field}": flag.field for flag in recipes.section_options("prune")}
    section = recipes.validate(tree, source="the command", names=names).prune
    assert section is not None
    return section
