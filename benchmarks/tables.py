# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Write the generated blocks of README.md and docs/: `python -m benchmarks.tables`, or with --check only compare.

A block stands between `<!-- begin: NAME -->` and `<!-- end -->`, where NAME is

* `results`: the table of benchmarks/results/spine_run.json, whose rows are those of a bench.json (`BenchRow`), and
  which has `imgsz`, `images` and `model` beside the keys of every result file;
* `training_free`: benchmarks/results/prune_training_free.json, a line per way to prune and a column per model;
* `recovery`: benchmarks/results/prune_recovery.json, a line per way to prune, means over seeds;
* `sibling`: benchmarks/results/prune_sibling.json, a line per model and way to train it, means over seeds;
* `classes`: benchmarks/results/prune_classes.json, a line per model of one class, means over seeds;
* `weights`: benchmarks/results/prune_weights.json, a line per mask;
* `quantize`: benchmarks/results/quant_ptq.json, accuracy by target and way, a column per model;
* `agreement`: benchmarks/results/quant_agreement.json, a line per form, model and what computes it;
* `calib`: benchmarks/results/calib_cover.json, chosen images among random draws, a line per way and range;
* `distill`: benchmarks/results/distill_recovery.json, a line per candidate and a column per seed;
* `losses`: distill_recovery.json and distill_step_cost.json, what each distillation loss alone gives and costs;
* `qat`: benchmarks/results/quant_qat.json, a line per way to train, as INT8 and as float;
* `native`: what several result files measured of Ultralytics and of this package in one run, a line per comparison;
* `modes`: the help of the whole command;
* `help MODE`: the help of a mode;
* `section NAME`: the options of a recipe section.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims import measured_on
from yolo_compress import recipe
from yolo_compress.artifacts import atomic_write
from yolo_compress.cli import text
from yolo_compress.cli.modes import MODES
from yolo_compress.report import content, markdown

ROOT = Path(__file__).resolve().parents[1]
SPINE_RUN = ROOT / "benchmarks" / "results" / "spine_run.json"
TRAINING_FREE = ROOT / "benchmarks" / "results" / "prune_training_free.json"
RECOVERY = ROOT / "benchmarks" / "results" / "prune_recovery.json"
SIBLING = ROOT / "benchmarks" / "results" / "prune_sibling.json"
CLASSES = ROOT / "benchmarks" / "results" / "prune_classes.json"
WEIGHTS = ROOT / "benchmarks" / "results" / "prune_weights.json"
QUANTIZE = ROOT / "benchmarks" / "results" / "quant_ptq.json"
AGREEMENT = ROOT / "benchmarks" / "results" / "quant_agreement.json"
CALIB = ROOT / "benchmarks" / "results" / "calib_cover.json"
DISTILL = ROOT / "benchmarks" / "results" / "distill_recovery.json"
STEP_COST = ROOT / "benchmarks" / "results" / "distill_step_cost.json"
QAT = ROOT / "benchmarks" / "results" / "quant_qat.json"
RATES = ROOT / "benchmarks" / "results" / "recipe_training.json"
JOINT = ROOT / "benchmarks" / "results" / "joint_training.json"
CPU_TRAINING = ROOT / "benchmarks" / "results" / "spine_cpu_training.json"
COLUMNS = (
    "Candidate",
    "Engine",
    "mAP50-95",
    "Ratio to first",
    "Ratio quartiles",
    "Latency p50 (ms)",
    "Size (MB)",
    "Params (M)",
)
FILES = (
    "README.md",
    "docs/calib.md",
    "docs/classes.md",
    "docs/cli.md",
    "docs/distill.md",
    "docs/prune.md",
    "docs/qat.md",
    "docs/quantize.md",
    "docs/recipes.md",
)
BLOCK = re.compile(r"(<!-- begin: (?P<name>[^>]+?) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
PIPE = r"\|"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the blocks, or with --check return 1 if a file is not what would be written."""
    check = list(sys.argv[1:] if argv is None else argv) == ["--check"]
    stale = []
    for name in FILES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = render(before)
        if after != before:
            stale.append(name)
            if not check:
                atomic_write(path, after)
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    return 1 if check and stale else 0


def render(document: str) -> str:
    """Return Markdown with every block made anew; a block whose data does not exist stays as it is."""

    def block(found: re.Match[str]) -> str:
        kind, _, argument = found["name"].partition(" ")
        body = RENDERERS[kind](argument)
        return found[0] if body is None else f"{found[1]}{body}\n{found[4]}"

    return BLOCK.sub(block, document)


def results_table(tree: dict[str, Any]) -> str:
    """Return the rows of a benchmark as a Markdown table with the circumstances below it."""
    whole = content.candidates_table(tree)
    places = [whole.header.index(title) for title in COLUMNS]
    rows = tuple(tuple(row[place] for place in places) for row in whole.rows)
    words = frozenset(index for index, place in enumerate(places) if place in whole.words)
    device = tree["device"]
    circumstances = (
        f"{tree['model']} on {tree['images']} images at {tree['imgsz']} px; {device['cpu_model']}, "
        f"{device['cpus_usable']} cores; Ultralytics {tree['versions']['ultralytics']}; {tree['date'][:10]}. "
        f"Ratios are of paired rounds, to the first row. Made by `{tree['command']}`."
    )
    return f"{markdown.table(content.Table(COLUMNS, rows, words))}\n\n{circumstances}"


def training_free_table(tree: dict[str, Any]) -> str:
    """Return mAP50-95 after pruning, by way and model; a cell also says the share of the full model's."""
    rows = [row for row in tree["rows"] if "int8dq" not in row["model"]]
    models = list(dict.fromkeys(row["model"] for row in rows))
    dense = {row["model"]: row["map50_95_points"] for row in rows if row["importance"] == "none"}
    ways: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        if row["importance"] != "none":
            way = tuple(row[key] for key in ("importance", "scope", "repair", "images"))
            ways.setdefault(way, {})[row["model"]] = row["map50_95_points"]
    best_first = sorted(ways.items(), key=lambda item: -item[1].get(models[0], 0.0))
    lines = [["importance", "scope", "repair", "images", *models], ["---"] * 4 + ["---:"] * len(models)]
    lines.append(["not pruned", "", "", "", *(f"{dense[model]:.1f}" for model in models)])
    for way, found in best_first:
        cells = [f"{found[m]:.1f} ({100 * found[m] / dense[m]:.0f} %)" if m in found else "-" for m in models]
        lines.append([*map(str, way), *cells])
    return f"{_markdown(lines)}\n\n{_circumstances(tree)}"


def recovery_table(tree: dict[str, Any]) -> str:
    """Return share of the time and mAP50-95 before and after the same training, means over seeds."""
    lines = [["pruned by", "share of the time", "mAP50-95 before", "trained", "seeds"], ["---", *["---:"] * 4]]
    for name in dict.fromkeys(row["candidate"] for row in tree["rows"]):
        rows = [row for row in tree["rows"] if row["candidate"] == name]
        keys = ("latency_ratio", "map50_95_points_before", "map50_95_points")
        ratio, before, after = (statistics.mean(row[key] for row in rows) for key in keys)
        lines.append([name, f"{ratio:.3f}", f"{before:.1f}", f"{after:.1f}", str(len(rows))])
    return f"{_markdown(lines)}\n\n{_circumstances(tree)}"


def timed_table(tree: dict[str, Any]) -> str:
    """Return share of the time and mAP50-95 of every candidate, means over seeds."""
    lines = [["", "share of the time", "mAP50-95", "seeds"], ["---", *["---:"] * 3]]
    for name in dict.fromkeys(row["candidate"] for row in tree["rows"]):
        rows = [row for row in tree["rows"] if row["candidate"] == name]
        ratio, points = (statistics.mean(row[key] for row in rows) for key in ("latency_ratio", "map50_95_points"))
        lines.append([name, f"{ratio:.3f}", f"{points:.2f}", str(len(rows)) if "seed" in rows[0] else "-"])
    return f"{_markdown(lines)}\n\n{_circumstances(tree)}"


def distill_table(tree: dict[str, Any]) -> str:
    """Return mAP50-95 of every candidate by seed, and its mean."""
    trained = [row for row in tree["rows"] if "seed" in row]
    seeds = sorted({row["seed"] for row in trained})
    lines = [["trained with", *(f"seed {seed}" for seed in seeds), "mean"]]
    lines.append(["---", *["---:"] * (len(seeds) + 1)])
    for name in dict.fromkeys(row["candidate"] for row in trained):
        rows = {row["seed"]: row for row in trained if row["candidate"] == name}
        points = [f"{rows[seed]['map50_95_points']:.2f}" if seed in rows else "-" for seed in seeds]
        mean = statistics.mean(row["map50_95_points"] for row in rows.values())
        lines.append([name, *points, f"{mean:.2f}"])
    before = next(row["map50_95_points"] for row in tree["rows"] if row["candidate"] == "before")
    return f"{_markdown(lines)}\n\nBefore training {before:.2f}. {_circumstances(tree)}"


def losses_table(distill: dict[str, Any], cost: dict[str, Any]) -> str:
    """Return what each loss alone gives, and what a step with it takes of one without a teacher in the same turn."""
    points = {row["candidate"]: row["map50_95_points"] for row in distill["rows"] if row.get("seed") == 0}
    taken: dict[str, dict[int, dict[str, Any]]] = {}
    single = [row for row in cost["rows"] if row["part"] == "single"]
    for row in single:
        taken.setdefault(row["candidate"], {})[row["turn"]] = row
    alone = taken.pop("none")
    lines = [["loss", "mAP50-95", "over none", "time of a step", "peak memory"], ["---", *["---:"] * 4]]
    for name, turns in taken.items():
        found = points.get(f"{name} yolov8n")
        gives = ["-", "-"] if found is None else [f"{found:.2f}", f"{found - points['none']:+.2f}"]
        ratios = [
            statistics.median(row[key] / alone[turn][key] for turn, row in turns.items())
            for key in ("step_seconds", "peak_resident_mib")
        ]
        label = "cwd and response, the default" if name == "ours" else name
        lines.append([label, *gives, *(f"{ratio:.2f}" for ratio in ratios)])
    told = f"mAP50-95 at {distill['imgsz']} px, seed 0, with yolov8n as teacher (none: {points['none']:.2f}). "
    told += "Time and memory are of a step of yolov8n with yolov8s as teacher, over one with none"
    return f"{_markdown(lines)}\n\n{told}; {_origin({**cost, 'rows': single})}"


def _losses(_: str) -> str | None:
    if not all(file.is_file() for file in (DISTILL, STEP_COST)):
        return None
    return losses_table(*(json.loads(file.read_text(encoding="utf-8")) for file in (DISTILL, STEP_COST)))


def qat_table(tree: dict[str, Any]) -> str:
    """Return mAP50-95 of every way to train quantized, by seed and as a mean, and that of its weights as float."""
    seeds = sorted({row["seed"] for row in tree["rows"] if "seed" in row})
    lines = [["", *(f"INT8, seed {seed}" for seed in seeds), "INT8, mean", "its float weights, mean"]]
    lines.append(["---", *["---:"] * (len(seeds) + 2)])
    for name in dict.fromkeys(row["candidate"] for row in tree["rows"]):
        rows = [row for row in tree["rows"] if row["candidate"] == name]
        by_seed = {row.get("seed"): row["map50_95_points"] for row in rows}
        points = [f"{by_seed[seed]:.2f}" if seed in by_seed else "-" for seed in seeds]
        own = [row["float_map50_95_points"] for row in rows if "float_map50_95_points" in row]
        whole = f"{statistics.mean(own):.2f}" if own else "-"
        lines.append([name, *points, f"{statistics.mean(by_seed.values()):.2f}", whole])
    return f"{_markdown(lines)}\n\n{_circumstances(tree)}"


def rates_table(tree: dict[str, Any]) -> str:
    """Return mAP50-95 of every way to recover, a mean over seeds."""
    lines = [["trained with", "mAP50-95", "seeds"], ["---", "---:", "---:"]]
    for name in dict.fromkeys(row["candidate"] for row in tree["rows"]):
        points = [row["map50_95_points"] for row in tree["rows"] if row["candidate"] == name]
        lines.append([name, f"{statistics.mean(points):.2f}", "-" if name == "not trained" else str(len(points))])
    return f"{_markdown(lines)}\n\n{_circumstances(tree)}"


def quantize_table(tree: dict[str, Any]) -> str:
    """Return mAP50-95 without training by target and way, a column per model."""
    rows = [row for row in tree["rows"] if "map50_95_points" in row]
    models = list(dict.fromkeys(row["model"] for row in rows))
    ways: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        target = "" if row["way"] == "float" else row["target"]
        ways.setdefault((target, row["way"]), {})[row["model"]] = row["map50_95_points"]
    lines = [["target", "way", *models], ["---", "---", *["---:"] * len(models)]]
    for way in sorted(ways, key=lambda way: way[0]):
        lines.append([*way, *(f"{ways[way][m]:.2f}" if m in ways[way] else "-" for m in models)])
    return f"{_markdown(lines)}\n\n{_circumstances(tree)}"


def agreement_table(tree: dict[str, Any]) -> str:
    """Return what computes one quantized model, and how far its detections lie from those of the written graph."""
    every = any("map50_95_points_all" in row for row in tree["rows"])
    lines = [["form", "model", "computed by", "mAP50-95", *["of all images"] * every]]
    lines[0] += ["unpaired", "score", "score, 95 %", "side", "side, 95 %"]
    lines.append(["---"] * 3 + ["---:"] * (len(lines[0]) - 3))
    models = list(dict.fromkeys((row["target"], row["model"]) for row in tree["rows"]))
    for row in sorted(tree["rows"], key=lambda row: models.index((row["target"], row["model"]))):
        line = [row["target"], row["model"], row["computed_by"], f"{row['map50_95_points']:.2f}"]
        if every:
            line.append(f"{row['map50_95_points_all']:.2f}" if "map50_95_points_all" in row else "-")
        if "unpaired" in row:
            line.append(f"{100 * row['unpaired']:.1f} %")
            line += [f"{row[key]:.3f}" for key in ("score_median", "score_p95")]
            line += [f"{row[key]:.2f}" for key in ("side_px_median", "side_px_p95")]
        lines.append([*line, *["-"] * (len(lines[0]) - len(line))])
    return (
        f"{_markdown(lines)}\n\nDistances are of detections from a score of 0.25 on to those of the graph as written, "
        f"in pixels for the farthest side; {tree['calibration_images']} calibration images. {_circumstances(tree)}"
    )


def calib_table(tree: dict[str, Any]) -> str:
    """Return mAP50-95 of chosen images beside that of random draws, by part, range and way."""
    lines = [["measured on", "range", "way", "chosen", "random: least", "median", "most", "draws", "draws beaten"]]
    lines.append(["---"] * 3 + ["---:"] * 6)
    for part, range_ in dict.fromkeys((row["part"], row["range"]) for row in tree["rows"]):
        points = {r["way"]: r["map50_95_points"] for r in tree["rows"] if (r["part"], r["range"]) == (part, range_)}
        drawn = [value for way, value in points.items() if way.startswith("random ")]
        spread = [f"{f(drawn):.2f}" if drawn else "-" for f in (min, statistics.median, max)]
        for way, value in points.items():
            if not way.startswith("random "):
                beaten = str(sum(value > other for other in drawn)) if drawn else "-"
                words = {"eval": "400 validation images", "tune": "292 training images"}[part]
                lines.append([words, range_, way, f"{value:.2f}", *spread, str(len(drawn)), beaten])
    return (
        f"{_markdown(lines)}\n\nmAP50-95 in points of {tree['model']} at {tree['imgsz']} px in the `{tree['target']}` "
        f"form, {tree['calibration_images']} images; {_origin(tree)}"
    )


def weights_table(tree: dict[str, Any]) -> str:
    """Return accuracy, compressed size and times of masked models."""
    runtimes = list(dict.fromkeys(name for row in tree["rows"] for name in row.get("ratios", {})))
    lines = [["mask", "zeros", "score", "repair", "mAP50-95", "compressed MB", *runtimes]]
    lines.append(["---"] * 4 + ["---:"] * (2 + len(runtimes)))
    for row in tree["rows"]:
        times = [f"{row['ratios'][name]:.3f}" if row.get("ratios") else "-" for name in runtimes]
        zeros = f"{100 * row['zero_share']:.0f} %" if "zero_share" in row else ""
        words = [row["mask"], zeros, row.get("mask_importance", ""), row.get("repair", "")]
        lines.append([*words, f"{row['map50_95_points']:.1f}", f"{row['bytes'] / 1e6:.2f}", *times])
    return f"{_markdown(lines)}\n\n{_circumstances(tree)} Times are shares of the dense model's, measured in turns."


def native_table(
    quantize: dict[str, Any], qat: dict[str, Any], distill: dict[str, Any], training: dict[str, Any]
) -> str:
    """Return what was measured of Ultralytics and of this package in one run: accuracies in points, times as ratios."""
    lines = [["", "Ultralytics", "yolo_compress"], ["---", "---:", "---:"]]
    points = {
        (row["model"], row["target"], row["way"]): row["map50_95_points"]
        for row in quantize["rows"]
        if "map50_95_points" in row
    }
    runtimes = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    for model, target in dict.fromkeys((model, target) for model, target, way in points if way == "native"):
        whole = points[model, "onnxruntime", "float"]
        found = [f"{points[model, target, way]:.2f}" for way in ("native", "mse")]
        lines.append([f"INT8 without training, {runtimes[target]}, {model} (float {whole:.2f}): mAP50-95", *found])
        for row in quantize["rows"]:
            if (row["model"], row["target"], row["way"]) == (model, target, "latency"):
                cpu, _, told = row["cpu"].partition(": ")
                flags = told.split()
                unit = next((name for name in ("amx_int8", "avx512_vnni", "avx_vnni") if name in flags), "avx2")
                unit = unit if row["amx"] else unit.replace("amx_int8", "avx512_vnni")
                lines.append([f"its time in {runtimes[target]} ({cpu}, {unit})", "1", f"{row['ratio']:.3f}"])
    trained: dict[str, list[float]] = {}
    for row in (*qat["rows"], *distill["rows"]):
        trained.setdefault(row["candidate"], []).append(row["map50_95_points"])
    found = [f"{statistics.mean(trained[who]):.2f}" for who in ("native", "ours")]
    start = next(row["float_map50_95_points"] for row in qat["rows"] if "seed" not in row)
    lines.append([f"{qat['model']} trained quantized (float {start:.2f}), as INT8: mAP50-95", *found])
    for teacher in ("yolov8n", "yolov8s"):
        found = [f"{statistics.mean(trained[f'{who} {teacher}']):.2f}" for who in ("native", "ours")]
        lines.append([f"pruned yolov8n after 500 steps of training with {teacher} as teacher: mAP50-95", *found])
    claim = next(claim for claim in training["claims"] if claim["id"] == "spine.cpu_training")
    lines.append(["an epoch of training on a CPU that has bfloat16: time", "1", f"{claim['value']:.3f}"])
    names = ", ".join(f"`{tree['command'].split()[2]}`" for tree in (quantize, qat, distill, training))
    return f"{_markdown(lines)}\n\nMade by {names}; `benchmarks/results/` says on which machine each was run."


def _native(_: str) -> str | None:
    files = (QUANTIZE, QAT, DISTILL, CPU_TRAINING)
    if not all(file.is_file() for file in files):
        return None
    return native_table(*(json.loads(file.read_text(encoding="utf-8")) for file in files))


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _circumstances(tree: dict[str, Any]) -> str:
    return f"mAP50-95 on 400 images at {tree['imgsz']} px; {_origin(tree)}"


def _origin(tree: dict[str, Any]) -> str:
    """Say where, until when and by what rows were measured, without arguments: those are of the last call alone."""
    program = " ".join(tree["command"].split()[:3])
    return f"{measured_on(tree)}, {tree['date'][:10]}. Made by `{program}`."


def _from(file: Path, table: Callable[[dict[str, Any]], str]) -> str | None:
    return table(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def _modes(_: str) -> str:
    return f"```\n{text.overview()}\n```"


def _help(mode: str) -> str:
    return f"```\n{text.mode_help(MODES[mode])}\n```"


def _section(name: str) -> str:
    flags = {(flag.section, flag.field): flag.name for flag in recipe.flags().values()}
    rows = [("Option", "Flag", "Type", "Default", "Meaning"), ("---",) * 5]
    for option in recipe.section_options(name):
        flag = flags.get((name, option.field))
        kind = option.type.replace("|", f" {PIPE} ")
        rows.append((f"`{option.field}`", f"`{flag}`" if flag else "-", kind, text.show(option.default), option.help))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


RENDERERS: dict[str, Callable[[str], str | None]] = {
    "results": lambda _: _from(SPINE_RUN, results_table),
    "training_free": lambda _: _from(TRAINING_FREE, training_free_table),
    "recovery": lambda _: _from(RECOVERY, recovery_table),
    "sibling": lambda _: _from(SIBLING, timed_table),
    "classes": lambda _: _from(CLASSES, timed_table),
    "weights": lambda _: _from(WEIGHTS, weights_table),
    "quantize": lambda _: _from(QUANTIZE, quantize_table),
    "calib": lambda _: _from(CALIB, calib_table),
    "distill": lambda _: _from(DISTILL, distill_table),
    "losses": _losses,
    "qat": lambda _: _from(QAT, qat_table),
    "rates": lambda _: _from(RATES, rates_table),
    "joint": lambda _: _from(JOINT, qat_table),
    "agreement": lambda _: _from(AGREEMENT, agreement_table),
    "native": _native,
    "modes": _modes,
    "help": _help,
    "section": _section,
}

if __name__ == "__main__":
    raise SystemExit(main())
