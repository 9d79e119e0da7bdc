# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Calibration caches that are damaged, and our entropy ranges against those of TensorRT and of ONNX Runtime.

Usage: YOLO_COMPRESS_DATA=DIR python -m benchmarks.trt_cache

No TensorRT is needed: what it computes is written here a second time, from the description of its authors.
"""

from __future__ import annotations

import math
import random
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Experiment, claim
from yolo_compress.engines.tensorrt.cache import CalibrationCache
from yolo_compress.errors import DataError
from yolo_compress.host.data import sample
from yolo_compress.host.export import export_onnx
from yolo_compress.quantize.calibration import Runner
from yolo_compress.quantize.histogram import Histogram
from yolo_compress.quantize.placement import place
from yolo_compress.quantize.ranges import Form, entropy
from yolo_compress.quantize.scheme import SCHEMES
from yolo_compress.quantize.source import read_float

NAME = "trt_cache"
CASES = 3000  # damaged files of each kind
SLOW_SECONDS = 2.0  # a case that takes longer counts as one that hangs
MODEL, IMGSZ, IMAGES = "yolov8n", 320, 32
AT_ONCE = 8  # tensors whose values on all images are held at a time
BINS, LEVELS = 2048, 128
FUZZ_TARGET, ENTROPY_TARGET = 0, 0.02

VALID = CalibrationCache(
    8600,
    "EntropyCalibration2",
    {
        "images": 1 / 127,
        **{f"/model.{n}/cv{n % 3}/act/Mul_output_0": 0.01 * 1.3**n for n in range(24)},
        "(Unnamed Layer* 7) [Constant]_output": 3.5,
        "a: b: c": 1e-30,
        "Größe/層": 2.0**-149,
    },
).to_bytes()


def flip(rng: random.Random) -> bytes:
    """Return the valid cache with up to eight bits changed."""
    content = bytearray(VALID)
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def truncate(rng: random.Random) -> bytes:
    """Return its beginning, its end, or what is left without its middle."""
    first, second = sorted(rng.randrange(len(VALID) + 1) for _ in range(2))
    return rng.choice((VALID[:first], VALID[first:], VALID[:first] + VALID[second:]))


def put_in(rng: random.Random) -> bytes:
    """Return it with something put in that parsers trip over."""
    place = rng.randrange(len(VALID) + 1)
    marks = (
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b": ",
        b":",
        b" ",
        b"\xff",
        b"\xed\xa0\x80",
        "\u2028\u0085\x1c".encode(),
        b"-1",
        b"0x",
    )
    return VALID[:place] + rng.choice(marks) * rng.randint(1, 40) + VALID[place:]


def noise(rng: random.Random) -> bytes:
    """Return random bytes, or random text of the characters that caches consist of."""
    size = rng.randrange(2000)
    return rng.randbytes(size) if rng.random() < 0.5 else bytes(rng.choices(b"TRT-8600EntropyMinMaxabf0: \n", k=size))


def long_lines(rng: random.Random) -> bytes:
    """Return a cache with a line of up to a million bytes: a name, a header, digits, or nothing but separators."""
    many = int(2 ** rng.uniform(4, 20))
    lines = VALID.split(b"\n")
    long = (
        b"n" * many + b": 3c010a14",
        b"TRT-" + b"8" * many + b"-MinMaxCalibration",
        b"x: " + b"3" * many,
        b": " * (many // 2),
    )
    lines[rng.choice((0, rng.randrange(len(lines))))] = rng.choice(long)
    return b"\n".join(lines)


def numbers(rng: random.Random) -> bytes:
    """Return it with a scale of any bits, those of not a number, the infinities and zeros often among them."""
    special = (0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0, 0x80000000, 1, 0x80000001, 0xBF800000)
    bits = rng.choice(special) if rng.random() < 0.5 else rng.getrandbits(32)
    lines = VALID.split(b"\n")
    row = rng.randrange(1, len(lines) - 1)
    lines[row] = lines[row].rpartition(b": ")[0] + b": " + struct.pack(">I", bits).hex().encode()
    return b"\n".join(lines)


def shuffle(rng: random.Random) -> bytes:
    """Return it with lines repeated, exchanged, joined or gone."""
    lines = VALID.split(b"\n")
    for _ in range(rng.randint(1, 4)):
        place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        change = rng.randrange(4)
        if change == 0:
            lines.insert(place, lines[other])
        elif change == 1:
            lines[place], lines[other] = lines[other], lines[place]
        elif change == 2:
            lines[place] += lines[other]
        elif len(lines) > 2:
            del lines[place]
    return b"\n".join(lines)


def names(rng: random.Random) -> bytes:
    """Return a cache whose names are of any characters."""

    def name() -> str:
        pool = (0x20, 0x2E, 0x3A, 0x85, 0xA0, 0x2028, 0x1F600, rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))
        return "".join(chr(rng.choice(pool)) for _ in range(rng.randrange(12)))

    rows = [f"{name()}: {rng.getrandbits(32):08x}" for _ in range(rng.randrange(6))]
    return "\n".join(["TRT-100300-MinMaxCalibration", *rows, ""]).encode()


MUTATIONS: dict[str, Callable[[random.Random], bytes]] = {
    "bits flipped": flip,
    "cut": truncate,
    "bytes put in": put_in,
    "noise": noise,
    "long lines": long_lines,
    "numbers": numbers,
    "lines moved": shuffle,
    "names": names,
}


def answer(content: bytes) -> str:
    """Return `read` or `refused` as the parser answers, and what is wrong where it does neither as it should."""
    begin = time.perf_counter()
    try:
        cache = CalibrationCache.parse(content)
    except DataError as error:
        return (
            "refused"
            if "calibration cache" in str(error) and _quick(begin)
            else f"refused slowly, or not said what: {error}"
        )
    except Exception as error:  # what must not happen, whatever it is
        return f"raised {type(error).__name__}: {error}"
    if not all(math.isfinite(scale) and scale > 0 for scale in cache.scales.values()):
        return "read a scale that is not finite and above zero"
    if CalibrationCache.parse(cache.to_bytes()) != cache:
        return "read what it does not write again"
    return "read" if _quick(begin) else "read slowly"


def _quick(begin: float) -> bool:
    return time.perf_counter() - begin < SLOW_SECONDS


def documented(counts: np.ndarray) -> int:
    """Return how many bins of absolute values TensorRT keeps, by Migacz 2017, written down candidate by candidate."""
    from scipy.special import rel_entr

    best, found = math.inf, len(counts)
    for kept in range(LEVELS, len(counts) + 1):
        reference = counts[:kept].astype(float)
        reference[-1] += counts[kept:].sum()
        level = np.floor(np.arange(kept) / (kept / LEVELS)).astype(int)
        held = counts[:kept] > 0
        merged = np.bincount(level, weights=counts[:kept], minlength=LEVELS)
        share = merged / np.maximum(np.bincount(level[held], minlength=LEVELS), 1)
        expanded = np.where(held, share[level], 0.0)
        if not expanded.any():
            continue
        value = rel_entr(reference / reference.sum(), expanded / expanded.sum()).sum()
        if value < best:
            best, found = value, kept
    return found


def documented_range(values: np.ndarray, *, bins: int = BINS) -> float:
    """Return TensorRT's threshold for all values of a tensor, from their histogram."""
    peak = float(np.abs(values).max())
    counts, _ = np.histogram(np.abs(values), bins=bins, range=(0, peak))
    return min((documented(counts) + 0.5) * peak / bins, peak)


def onnxruntime_range(values: np.ndarray) -> float:
    """Return the upper end that ONNX Runtime's entropy calibrator gives for all values of a tensor.

    With 4097 bins, since its default of 128 leaves no candidate but the whole range, and its default of 128 levels.
    """
    from onnxruntime.quantization.calibrate import HistogramCollector

    options = {"symmetric": False, "num_bins": 2 * BINS + 1, "num_quantized_bins": LEVELS}
    collector = HistogramCollector(method="entropy", percentile=None, scenario="same", **options)
    collector.collect_value({"tensor": values})
    return float(collector.get_entropy_threshold(collector.histogram_dict["tensor"], LEVELS)[1])


def main() -> int:
    """Measure what is missing and write the result file; return 1 when a claim does not hold."""
    made = Experiment(NAME, imgsz=IMGSZ, model=MODEL, images=IMAGES)
    for kind, mutate in MUTATIONS.items():
        if not made.has(what="fuzz", kind=kind):
            made.add({"what": "fuzz", "kind": kind, **_fuzz(kind, mutate)})
    with tempfile.TemporaryDirectory() as place_:
        graph = export_onnx(made.folder / "weights" / f"{MODEL}.pt", Path(place_) / "float.onnx", imgsz=IMGSZ)
        model = read_float(graph)
    tensors = [name for group in place(model.graph, SCHEMES["tensorrt"]).groups for name in group.tensors]
    images = sample(made.data.train, IMAGES, seed=0)
    left = [name for name in tensors if not made.has(what="entropy", tensor=name)]
    for start in range(0, len(left), AT_ONCE):
        chosen = left[start : start + AT_ONCE]
        values = [batch.copy() for batch in Runner(model, chosen, IMGSZ).run(images, "", None)]
        for name in chosen:
            made.add({"what": "entropy", "tensor": name, **_compare([batch[name] for batch in values])})
    return made.finish(_claims(made.rows))


def _fuzz(kind: str, mutate: Callable[[random.Random], bytes]) -> dict[str, Any]:
    rng = random.Random(kind)
    answers = [answer(mutate(rng)) for _ in range(CASES)]
    wrong = [text for text in answers if text not in ("read", "refused")]
    return {
        "cases": CASES,
        "read": answers.count("read"),
        "refused": answers.count("refused"),
        "failures": len(wrong),
        "first_failures": wrong[:5],
    }


def _compare(arrays: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return the ranges of one tensor: ours as quantization gets them, image by image, the others from all values."""
    seen = Histogram()
    for array in arrays:
        seen.add(array)
    values = np.concatenate([array.ravel() for array in arrays])
    found = {
        "peak": max(-seen.low, seen.high),
        "ours": entropy(seen, Form(signed=True, symmetric=True))[1],
        "documented": documented_range(values),
        "ours_asymmetric": entropy(seen, Form(signed=False, symmetric=False))[1],
        "onnxruntime": onnxruntime_range(values),
    }
    differences = {
        "difference_documented": abs(found["ours"] / found["documented"] - 1),
        "difference_onnxruntime": abs(found["ours_asymmetric"] / found["onnxruntime"] - 1),
        # not of ours but of the original, to tell how well one can agree with a calibration on a device at all
        "original_with_1024_bins": abs(documented_range(values, bins=BINS // 2) / found["documented"] - 1),
    }
    return {key: round(value, 6) for key, value in (found | differences).items()}


def _claims(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    fuzzed = [row for row in rows if row["what"] == "fuzz"]
    cases, failures = (sum(row[key] for row in fuzzed) for key in ("cases", "failures"))
    compared = [row for row in rows if row["what"] == "entropy"]

    def median(key: str) -> float:
        return statistics.median(row[key] for row in compared)

    worse = [max(row["difference_documented"], row["difference_onnxruntime"]) for row in compared]
    value = statistics.median(worse)
    moved = median("original_with_1024_bins")
    fuzz = (
        f"of {cases} damaged calibration caches ({', '.join(row['kind'] for row in fuzzed)}: {CASES} each), so many "
        f"made the parser raise anything but DataError, take over {SLOW_SECONDS:g} s, read a scale that is not finite "
        "and above zero, or read what it does not write again"
    )
    told = (
        f"median over the {len(compared)} activation tensors of {MODEL} that the tensorrt scheme quantizes, {IMAGES} "
        f"training images at {IMGSZ} px, of the larger of two relative differences: our symmetric entropy range to the "
        "one by TensorRT's documented algorithm on all values, and our asymmetric one to that of ONNX Runtime's "
        f"calibrator ({2 * BINS + 1} bins); medians of the two {median('difference_documented'):.4f} and "
        f"{median('difference_onnxruntime'):.4f}, {sum(w < ENTROPY_TARGET for w in worse)} tensors below "
        f"{ENTROPY_TARGET}, the largest {max(worse):.2f}. The original itself moves by {moved:.3f} (median) where its "
        f"histogram has {BINS // 2} bins instead of {BINS}"
    )
    return [
        claim("trt.cache_fuzz", fuzz, failures, "failures", f"<= {FUZZ_TARGET}", holds=cases >= 20000 and not failures),
        claim("trt.entropy_difference", told, value, "relative", f"< {ENTROPY_TARGET}", holds=value < ENTROPY_TARGET),
    ]


if __name__ == "__main__":
    sys.exit(main())
