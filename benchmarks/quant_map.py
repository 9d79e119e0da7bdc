# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Mixed precision by measured time: accuracy and paired latency of maps between all in INT8 and float.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.quant_map [MODEL ...]

Per model and target: float, plain INT8, the map of `max_drop` (ranked by cost alone), the fastest map that holds the
same drop (`timed`), and maps for latencies between those of plain INT8 and of float. All files of a model and target
are timed in one run, in turns, against the float one. Everything calibrates on the same images of the training set.
Rows that a call before has measured are kept; a map that cannot be met is a row that says so.

Environment variables QUANT_MAP_IMGSZ, QUANT_MAP_IMAGES, QUANT_MAP_VAL, QUANT_MAP_ROUNDS and QUANT_MAP_OUT make a small
trial of it, whose rows go to another file.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import Experiment, claim
from yolo_compress.bench.result import Candidate
from yolo_compress.bench.run import run_bench
from yolo_compress.context import Context
from yolo_compress.engines import get_engine
from yolo_compress.errors import GateNotMet
from yolo_compress.host.export import export_onnx
from yolo_compress.quantizing import quantize_checkpoint
from yolo_compress.recipe import BenchSection, QuantizeSection, Recipe

NAME = os.environ.get("QUANT_MAP_OUT", "quant_map")
IMGSZ = int(os.environ.get("QUANT_MAP_IMGSZ", "640"))
IMAGES = int(os.environ.get("QUANT_MAP_IMAGES", "256"))
VAL = int(os.environ["QUANT_MAP_VAL"]) if "QUANT_MAP_VAL" in os.environ else None
ROUNDS = int(os.environ.get("QUANT_MAP_ROUNDS", "130"))
MODELS = ("yolov8n", "yolov8s")
TARGETS = ("openvino", "onnxruntime")
MAX_DROP = 0.1  # points; what both ways of choosing by a drop are given
SHARES = (0.25, 0.5, 0.75)  # of the way from plain INT8 to float, where latencies are asked for
FLOAT, PLAIN = "float", "int8"
DROPS: dict[str, dict[str, Any]] = {
    "max_drop": {"max_drop": MAX_DROP},
    "max_drop timed": {"max_drop": MAX_DROP, "timed": True},
}


def main(models: list[str]) -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ, calibration_images=IMAGES, max_drop=MAX_DROP, rounds=ROUNDS)
    for model in models or MODELS:
        for target in TARGETS:
            if not made.has(model=model, target=target):
                with tempfile.TemporaryDirectory() as place:
                    for row in _Maps(made, Path(place), model, target).rows():
                        made.add(row)
    return made.finish(_claims(made.rows))


class _Maps:
    """The files of one model on one target."""

    def __init__(self, made: Experiment, place: Path, model: str, target: str) -> None:
        self.made, self.place, self.model, self.target = made, place, model, target
        self.engine = get_engine(target)
        weights = made.folder / "weights" / f"{model}.pt"
        self.floating = export_onnx(weights, place / "float.onnx", imgsz=IMGSZ)
        self.built: dict[str, Path] = {}
        self.facts: dict[str, dict[str, Any]] = {}

    def rows(self) -> list[dict[str, Any]]:
        """Make every file and measure them together; return a row per way."""
        self.built[FLOAT] = self._build(self.floating, FLOAT, "fp32")
        self._add(PLAIN, {})
        for way, options in DROPS.items():
            self._add(way, options)
        full = self._bench([FLOAT, PLAIN])[PLAIN]["latency_ratio"]
        for share in SHARES:
            latency = round(full + share * (1 - full), 3)
            way = f"latency at {share:g}"
            self.facts[way] = {"asked": latency, "share": share}
            if latency < 1:
                self._add(way, {"latency": latency})
            else:
                self.facts[way]["refused"] = f"plain INT8 takes {full:.3f} of the float time"
        measured = self._bench(list(self.built))
        setting = {"model": self.model, "target": self.target}
        ways = dict.fromkeys([*self.built, *self.facts])
        return [{**setting, "way": way, **self.facts.get(way, {}), **measured.get(way, {})} for way in ways]

    def _add(self, way: str, options: dict[str, Any]) -> None:
        section = QuantizeSection(target=self.target, images=IMAGES, **options)
        recipe = Recipe(bench=BenchSection(images=VAL)) if VAL else Recipe()
        context = Context(recipe, self.floating, self.made.data, IMGSZ, "cpu", self.place, print)
        folder = self.place / way.replace(" ", "_")
        facts = self.facts.setdefault(way, {})
        try:
            found = quantize_checkpoint(self.floating, folder, context, section)
        except GateNotMet as error:
            facts["refused"] = str(error).replace(str(self.place), "")
            return
        rows = found.tables["quantize"]
        facts["in_float"] = [row["name"] for row in rows if row["why"].startswith(("keep=", "costs "))]
        facts["int8_layers"] = sum(row["precision"] == "int8" for row in rows)
        if "latency_ratio" in found.metrics:
            facts["ratio_when_chosen"] = found.metrics["latency_ratio"]
        precision = "int8" if facts["int8_layers"] else "fp32"
        self.built[way] = self._build(found.outputs["qdq"], way, precision)

    def _build(self, graph: Path, way: str, precision: str) -> Path:
        folder = self.place / "built" / way.replace(" ", "_")
        return self.engine.build(graph, folder, precision=precision, imgsz=IMGSZ).path

    def _bench(self, ways: list[str]) -> dict[str, dict[str, Any]]:
        candidates = [Candidate(way, self.built[way]) for way in ways]
        rows = run_bench(
            candidates, self.made.data, imgsz=IMGSZ, rounds=ROUNDS, images=VAL, memory=False, min_accuracy_share=0
        ).rows
        return {
            row.label: {
                "map50_95_points": 100 * row.map50_95,
                "latency_ms_p50": row.latency_ms_p50,
                "latency_ratio": row.latency_ratio_p50,
                "latency_ratio_interval": row.latency_ratio_interval,
            }
            for row in rows
        }


def _claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the rows at hand can show."""
    timed = [row for row in rows if "asked" in row and row.get("latency_ratio") is not None]
    claims = []
    if timed:
        worst = max(timed, key=lambda row: row["latency_ratio"] / row["asked"])
        over = 100 * (worst["latency_ratio"] / worst["asked"] - 1)
        claims.append(
            claim(
                "quant.map_latency",
                "maps for latency=, measured again beside the other files, take at most so much more than was asked: "
                + "; ".join(f"{_name(row)} {row['latency_ratio']:.3f} of {row['asked']:.3f}" for row in timed),
                over,
                "%",
                "<= 5",
                holds=over <= 5,
            )
        )
    pairs = [(row, _of(rows, row, "max_drop timed")) for row in rows if row["way"] == "max_drop"]
    both = [(a, b) for a, b in pairs if a.get("latency_ratio") is not None and b.get("latency_ratio") is not None]
    if both:
        slowest = max(b["latency_ratio"] / a["latency_ratio"] for a, b in both)
        claims.append(
            claim(
                "quant.map_timed",
                f"time of the map of max_drop={MAX_DROP:g} timed=True over that of max_drop={MAX_DROP:g}: "
                + "; ".join(
                    f"{_name(a)} {b['latency_ratio'] / a['latency_ratio']:.3f}, mAP {b['map50_95_points']:.2f} of "
                    f"{a['map50_95_points']:.2f}"
                    for a, b in both
                ),
                slowest,
                "of the time",
                "<= 1.0",
                holds=slowest <= 1.0,
            )
        )
    return claims


def _of(rows: list[dict[str, Any]], like: dict[str, Any], way: str) -> dict[str, Any]:
    return next((r for r in rows if (r["model"], r["target"], r["way"]) == (like["model"], like["target"], way)), {})


def _name(row: dict[str, Any]) -> str:
    return f"{row['model']} {row['target']} {row['way']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
