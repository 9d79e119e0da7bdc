# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a report says, as text: columns, sentences and notes that the Markdown and the HTML share.

A value that is absent is shown as "-"; nothing is computed from a value that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yolo_compress.artifacts import MEGABYTE
from yolo_compress.bench.latency import MOST_LEAD

ABSENT = "-"
SETTINGS = (
    "rounds",
    "warmup",
    "threads",
    "settle_ms",
    "min_accuracy_share",
    "accuracy_conf",
    "accuracy_iou",
    "accuracy_max_det",
    "postprocess_conf",
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table as text; the columns named in `text` are words, the others numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Column:
    """A column of the candidates' table."""

    title: str
    show: Callable[[Row], str]
    word: bool = False


def number(value: Any, digits: int = 1, *, scale: float = 1.0) -> str:
    """Show a number, or what stands in its place."""
    if value is None:
        return ABSENT
    if isinstance(value, str):
        return value
    return f"{value * scale:.{digits}f}"


def difference(row: Row) -> str:
    """Show the points of mAP50-95 to the first candidate, with their interval."""
    value, interval = row.get("map50_95_difference"), row.get("map50_95_difference_interval")
    if value is None:
        return ABSENT
    return f"{100 * value:+.2f}" + (f" [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]" if interval else "")


COLUMNS = (
    Column("Candidate", lambda row: str(row.get("label", ABSENT)), word=True),
    Column("Engine", lambda row: " ".join(str(row[key]) for key in ("engine", "precision") if row.get(key)), word=True),
    Column("mAP50-95", lambda row: number(row.get("map50_95"), 2, scale=100)),
    Column("mAP50", lambda row: number(row.get("map50"), 2, scale=100)),
    Column("mAP50-95 to first", difference),
    Column("Latency p50 (ms)", lambda row: number(row.get("latency_ms_p50"), 2) + ("*" if row.get("noisy") else "")),
    Column("Mean (ms)", lambda row: number(row.get("latency_ms_mean"), 2)),
    Column("p95 (ms)", lambda row: number(row.get("latency_ms_p95"), 2)),
    Column("Ratio to first", lambda row: number(row.get("latency_ratio_p50"), 3)),
    Column("Ratio quartiles", lambda row: between(row.get("latency_ratio_spread"))),
    Column("Images/s", lambda row: number(row.get("throughput_images_per_s"))),
    Column("Size (MB)", lambda row: number(row.get("size_bytes"), 2, scale=1 / MEGABYTE)),
    Column("Params (M)", lambda row: number(row.get("params"), 3, scale=1e-6)),
    Column("GFLOPs", lambda row: number(row.get("gflops"), 2)),
    Column("Peak memory (MB)", lambda row: number(row.get("peak_memory_mb"), 0)),
    Column("Status", lambda row: str(row.get("status", ABSENT)), word=True),
)


def _metered(key: str, digits: int, scale: float = 1.0) -> Callable[[Row], str]:
    return lambda row: number(_energy(row).get(key), digits, scale=scale)


def _energy(row: Row) -> Mapping[str, Any]:
    energy = row.get("energy")
    return energy if isinstance(energy, Mapping) else {}


def _throttled(row: Row) -> str:
    energy = _energy(row)
    if not energy:
        return ABSENT
    return "yes" if energy.get("throttled") else "none seen" if energy.get("throttle_watched") else "not watched"


ENERGY_COLUMNS = (
    Column("Candidate", lambda row: str(row.get("label", ABSENT)), word=True),
    Column("Net (mJ/image)", _metered("net_j_per_image", 2, 1e3)),
    Column("Gross (mJ/image)", _metered("gross_j_per_image", 2, 1e3)),
    Column("Mean power (W)", _metered("mean_w", 2)),
    Column("Idle power (W)", _metered("idle_w", 2)),
    Column("Seconds", _metered("seconds", 1)),
    Column("Images", _metered("images", 0)),
    Column("Sensor", lambda row: str(_energy(row).get("sensor", "unavailable")), word=True),
    Column("Measures", lambda row: str(_energy(row).get("measures", ABSENT)), word=True),
    Column("Readings/s", _metered("rate_hz", 1)),
    Column("Throttled", _throttled, word=True),
)


def between(pair: Sequence[float] | None, digits: int = 3) -> str:
    """Show a range."""
    return ABSENT if not pair else f"{pair[0]:.{digits}f} to {pair[1]:.{digits}f}"


def candidates_table(bench: Mapping[str, Any]) -> Table:
    """Return the table of candidates."""
    rows = tuple(tuple(column.show(row) for column in COLUMNS) for row in bench["rows"])
    words = frozenset(index for index, column in enumerate(COLUMNS) if column.word)
    return Table(tuple(column.title for column in COLUMNS), rows, words)


def summary(bench: Mapping[str, Any]) -> str:
    """Say in one sentence what the benchmark found for the fastest candidate of ours, or else for the fastest."""
    reference = bench["rows"][0]
    timed = [row for row in bench["rows"] if row.get("status") == "ok" and row.get("latency_ms_p50") is not None]
    if not timed:
        return "No candidate passed its accuracy check, so no latency is given."
    others = [row for row in timed if row is not reference]
    ours = [row for row in others if row.get("origin") == "yolo_compress"]
    best = min(ours or others or timed, key=lambda row: row["latency_ms_p50"])
    accuracy = f"{number(best.get('map50_95'), 2, scale=100)} mAP50-95"
    time = f"{number(best['latency_ms_p50'], 2)} ms"
    if best is reference or best.get("latency_ratio_p50") is None:
        return f"{best['label']} reaches {accuracy} and takes {time} per image (median)."
    parts = [
        f"{best['label']} takes {best['latency_ratio_p50']:.2f} of the time of {reference['label']} "
        f"({time} against {number(reference.get('latency_ms_p50'), 2)} ms, medians)"
    ]
    if best.get("size_bytes") and reference.get("size_bytes"):
        parts.append(f"{best['size_bytes'] / reference['size_bytes']:.2f} of its size")
    gain = ""
    if best.get("map50_95") is not None and reference.get("map50_95") is not None:
        gain = f" ({100 * (best['map50_95'] - reference['map50_95']):+.2f} points)"
    return ", ".join([*parts, f"and reaches {accuracy}{gain}."])


def notes(bench: Mapping[str, Any], run: Mapping[str, Any] | None) -> list[str]:
    """Return every refusal, fallback and warning, each named by what it is about."""
    found = []
    for row in bench["rows"]:
        if row.get("status") == "refused":
            found.append(f"{row['label']}: latency refused, since {row.get('reason') or 'no reason was recorded'}.")
        if row.get("noisy"):
            found.append(
                f"{row['label']}: its latency is marked *, since the quartiles lie {100 * row['latency_spread']:.0f} % "
                "of the median apart; the machine was not quiet. Trust the paired ratio more than the milliseconds."
            )
        found += [f"{row['label']}: slowed down: {sign}." for sign in _energy(row).get("throttled") or ()]
        found += [f"{row['label']}: {warning}." for warning in (row.get("gpu") or {}).get("warnings") or ()]
        kept = (row.get("describe") or {}).get("notes") or ()
        found += [f"{row['label']}: {note}" for note in (*(row.get("notes") or ()), *kept)]
    found += [str(note) for note in bench.get("notes") or ()]
    for stage in (run or {}).get("stages") or ():
        found += [f"stage {stage.get('name', ABSENT)}: {note}" for note in stage.get("notes") or ()]
    return list(dict.fromkeys(found))


def stages_table(run: Mapping[str, Any] | None) -> Table | None:
    """Return what each stage of a run did to accuracy, size and time, or None without stages."""
    stages = (run or {}).get("stages") or ()
    if not stages:
        return None
    header = ("Stage", "Status", "mAP50-95", "Change (points)", "Params (M)", "GFLOPs", "Size (MB)", "Seconds")
    rows, before = [], None
    for stage in stages:
        metrics = stage.get("metrics") or {}
        after = metrics.get("map50_95")
        change = None if before is None or after is None else 100 * (after - before)
        rows.append(
            (
                str(stage.get("name", ABSENT)),
                str(stage.get("status", ABSENT)),
                number(after, 2, scale=100),
                ABSENT if change is None else f"{change:+.2f}",
                number(metrics.get("params"), 3, scale=1e-6),
                number(metrics.get("gflops"), 2),
                number(metrics.get("size_bytes"), 2, scale=1 / MEGABYTE),
                number(stage.get("seconds")),
            )
        )
        before = before if after is None else after
    return Table(header, tuple(rows), frozenset({0, 1}))


def layer_tables(run: Mapping[str, Any] | None) -> list[tuple[str, Table]]:
    """Return the tables of layers that stages recorded, each with its name."""
    found = []
    for stage in (run or {}).get("stages") or ():
        for name, layers in (stage.get("tables") or {}).items():
            layers = [layer for layer in layers or () if isinstance(layer, Mapping)]
            if not layers:
                continue
            keys = list(dict.fromkeys(key for layer in layers for key in layer))
            rows = tuple(tuple(_plain(layer.get(key)) for key in keys) for layer in layers)
            words = frozenset(
                i for i, key in enumerate(keys) if not all(_is_number(layer.get(key)) for layer in layers)
            )
            found.append((str(name), Table(tuple(key.replace("_", " ") for key in keys), rows, words)))
    return found


def confidence_table(bench: Mapping[str, Any]) -> Table | None:
    """Return what the scores of each candidate mean, and how far the best score limit moved; None where unknown."""
    rows = [row for row in bench["rows"] if row.get("f1_threshold") is not None]
    if not rows:
        return None
    first = rows[0]["f1_threshold"]
    lines = tuple(
        (
            str(row["label"]),
            number(row["f1_threshold"], 3),
            f"{row['f1_threshold'] - first:+.3f}",
            number(row.get("f1"), 3),
            number(row.get("calibration_error"), 3),
        )
        for row in rows
    )
    return Table(("Candidate", "Best score limit", "Shift", "F1 there", "Calibration error"), lines)


def energy_table(bench: Mapping[str, Any]) -> Table | None:
    """Return what each candidate takes, or None where nobody asked; where there is no reading, a note says why."""
    asked = [row for row in bench["rows"] if row.get("energy") is not None]
    if not asked:
        return None
    return Table(
        tuple(column.title for column in ENERGY_COLUMNS),
        tuple(tuple(column.show(row) for column in ENERGY_COLUMNS) for row in asked),
        frozenset(index for index, column in enumerate(ENERGY_COLUMNS) if column.word),
    )


def gpu_table(bench: Mapping[str, Any]) -> Table | None:
    """Return what the parts of a query took on a GPU, or None where none was used."""
    rows = [(row, row["gpu"]) for row in bench["rows"] if row.get("gpu")]
    if not rows:
        return None
    header = ("Candidate", "Compute p50 (ms)", "p95 (ms)", "p99 (ms)", "Variation (%)", "Enqueue p50 (ms)")
    header += ("Upload p50 (ms)", "Download p50 (ms)", "Sum p50 (ms)", "Queued images/s", "Queries", "CUDA graph")
    lines = tuple(
        (
            str(row["label"]),
            *(number(gpu["compute"].get(key), 3) for key in ("median_ms", "p95_ms", "p99_ms")),
            number(gpu["compute"].get("variation"), 1, scale=100),
            *(number(gpu[part].get("median_ms"), 3) for part in ("enqueue", "upload", "download", "latency")),
            number(gpu.get("queued_images_per_s")),
            str(gpu.get("queries", ABSENT)),
            "yes" if gpu.get("graph") else "no",
        )
        for row, gpu in rows
    )
    return Table(header, lines, frozenset({0, 11}))


def classes_table(bench: Mapping[str, Any]) -> Table | None:
    """Return mAP50-95 per class and candidate, the largest loss against the first candidate at the top, or None."""
    rows = bench["rows"]
    columns = [row.get("class_map50_95") or () for row in rows]
    names = bench.get("names") or ()
    if not names or any(len(column) != len(names) for column in columns):
        return None
    found = [index for index in range(len(names)) if columns[0][index] is not None]
    found.sort(key=lambda index: min(column[index] - columns[0][index] for column in columns))
    lines = tuple((str(names[index]), *(number(column[index], 1, scale=100) for column in columns)) for index in found)
    return Table(("Class", *(str(row["label"]) for row in rows)), lines)


def environment(bench: Mapping[str, Any], run: Mapping[str, Any] | None) -> Table:
    """Return the machine and the versions that the numbers belong to."""
    machine = bench.get("machine") or {}
    versions = bench.get("versions") or (run or {}).get("versions") or {}
    rows = [("date", str(bench.get("date", ABSENT))), ("device", str(bench.get("device", ABSENT)))]
    rows += [(key if key.isupper() else key.replace("_", " "), _plain(value)) for key, value in machine.items()]
    rows += [(f"version of {key}", str(value)) for key, value in versions.items()]
    for row in bench["rows"]:
        runtime = {key: value for key, value in (row.get("describe") or {}).items() if key != "notes"}
        rows.append((f"runtime of {row['label']}", _plain(runtime)))
        rows.append((f"sha256 of {row['label']}", str(row.get("sha256", ABSENT))))
    return Table(("What", "Value"), tuple(rows), frozenset({0, 1}))


def method(bench: Mapping[str, Any]) -> list[str]:
    """Return how it was measured, one sentence per item."""
    known = {**dict.fromkeys(SETTINGS, ABSENT), **(bench.get("settings") or {})}
    threads = "the default of each runtime" if known["threads"] is None else known["threads"]
    post = ", ".join(f"{row['label']} {number(row.get('postprocess_ms_p50'), 2)} ms" for row in bench["rows"])
    printed = ", ".join(
        f"{number(row.get('yolo_val_map50_95'), 2, scale=100)} ({row['label']})" for row in bench["rows"]
    )
    return [
        "Accuracy and latency of a candidate come from the same file, loaded in the same way, at "
        f"{bench.get('imgsz', ABSENT)} pixels.",
        f"Accuracy: {bench.get('images', ABSENT)} of {bench.get('images_available', ABSENT)} validation images of "
        f"{bench.get('data', ABSENT)} with {bench.get('objects', ABSENT)} objects, letterboxed to a square; score over "
        f"{known['accuracy_conf']}, NMS at IoU {known['accuracy_iou']}, at most {known['accuracy_max_det']} detections "
        "per image; COCO protocol, box areas.",
        "The best score limit is the one with the highest F1 over all classes at IoU 0.5, its shift is from that of "
        "the first candidate; the calibration error is the mean distance between score and precision of detections "
        "with a score of at least 0.25.",
        f"For the same detections `yolo val`, which integrates the curves by another rule, prints {printed} mAP50-95.",
        f"Latency: batch 1, inference alone, {known['rounds']} rounds after {known['warmup']} of warm-up; in each "
        "round every candidate has its turn on the same image, in changing order, after a rest of at least "
        f"{known['settle_ms']} ms in which threads stop spinning; {_lead(known)} The ratio "
        f"is taken within each round to the first candidate, {bench['rows'][0]['label']}; its median and quartiles "
        + _which_rounds(known),
        f"Not part of a latency: preparing an image ({number(bench.get('preprocess_ms_p50'), 2)} ms, median) and "
        f"post-processing at a score above {known['postprocess_conf']} ({post}).",
        *_gpu_method(bench),
        "Images/s: one candidate at a time fed without a pause, median of three alternating blocks.",
        "Peak memory: the most that a fresh process held which loaded the file and ran it five times, Python included.",
        *_energy_method(bench),
        "A candidate is refused a latency when its output is not finite, when it detects nothing, or when its mAP50-95 "
        f"is below {known['min_accuracy_share']} of the best float candidate of the same weights.",
        f"Threads: {threads}.",
    ]


def _lead(settings: Mapping[str, Any]) -> str:
    if not settings.get("lead_ms"):
        return "of two inferences the second is timed."
    return (
        f"there it runs for {settings['lead_ms']:g} ms (at least once, at most {MOST_LEAD} times) before the inference "
        "that is timed."
    )


def _energy_method(bench: Mapping[str, Any]) -> list[str]:
    measured = next((_energy(row) for row in bench["rows"] if _energy(row)), None)
    if measured is None:
        return []
    period = measured.get("sensor_period_s")
    every = "it does not tell how often it has a new value" if period is None else f"a new value every {period:g} s"
    settings = {key: value for key, value in (measured.get("settings") or {}).items() if value not in ("", None)}
    return [
        "Energy: after the timed rounds, one candidate at a time, batch 1 without a pause; a thread reads the sensor, "
        "power is integrated by the trapezium rule (a counter of energy is subtracted). Net is gross less idle power "
        f"times the duration; idle power is the mean of {number(measured.get('idle_seconds'))} s before. Sensor: "
        f"{measured.get('sensor', ABSENT)}, {every} ({_plain(settings)})."
    ]


def _which_rounds(settings: Mapping[str, Any]) -> str:
    """End the sentence on ratios; files from before candidates were loaded several times do not tell how often."""
    if "loads" not in settings:
        return "are shown."
    told = (
        "are those of the quarter of the rounds that were disturbed least. Rounds are spread over "
        f"{settings['loads']} loads of all candidates."
    )
    if "waited_s" in settings:
        told += (
            f" For cores that no other work slows {settings['waited_s']} s were waited; in "
            f"{settings['rounds_disturbed']} of {settings['rounds']} rounds it was in vain."
        )
    return told


def _gpu_method(bench: Mapping[str, Any]) -> tuple[str, ...]:
    gpu = next((row["gpu"] for row in bench["rows"] if row.get("gpu")), None)
    if gpu is None:
        return ()
    return (
        f"GPU times: one query at a time on one stream, each waited for, over {number(gpu.get('duration_s'))} s after "
        f"{number(gpu.get('warmup_ms'), 0)} ms of warm-up. Compute and copies by events on the device, enqueue by the "
        "host's clock; the sum of upload, compute and download leaves out preparing and post-processing. Queued "
        "images/s: queries queued without waiting and without copies. Candidates follow each other here, so the paired "
        "ratio says more about which one is faster.",
    )


def _plain(value: Any) -> str:
    if value is None or value == "":
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(item)}" for key, item in value.items()) or ABSENT
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "none"
    return str(value)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
