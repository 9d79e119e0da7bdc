# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Histograms against numpy's, ranges against onnxruntime's calibrators on the same histograms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.trt_cache import documented, documented_range, onnxruntime_range
from yolo_compress.quantize import histogram, ranges
from yolo_compress.quantize.histogram import BINS, SAMPLE, Histogram
from yolo_compress.quantize.ranges import (
    HALF_BINS,
    RANGES,
    Form,
    cut,
    entropy_length,
    entropy_threshold,
    relative_error,
)

OF_HISTOGRAMS = {name: method for name, method in RANGES.items() if method.choose}  # layers decide about the others


def seen_of(*arrays):
    seen = Histogram()
    for values in arrays:
        seen.add(np.asarray(values, np.float32))
    return seen


def skewed(size, seed=0):
    """Return values as a SiLU gives them: most near zero, a long tail above, none below -0.279."""
    x = np.random.default_rng(seed).normal(0, 3, size)
    return (x / (1 + np.exp(-x))).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    scales=st.lists(st.floats(-30, 30), min_size=1, max_size=6),
    offsets=st.lists(st.floats(-5, 5), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_counts_are_exact_whatever_comes_later(scales, offsets, seed):
    """In whatever order ranges widen, a count is that of its bin, and more than half of the bins are in use."""
    rng = np.random.default_rng(seed)
    arrays = [
        (rng.normal(0, 1, 200) * 2.0**scale + offset * 2.0**scale).astype(np.float32)
        for scale, offset in zip(scales, offsets, strict=False)
    ]
    seen = seen_of(*arrays)
    values = np.concatenate(arrays)
    assert (seen.low, seen.high) == (float(values.min()), float(values.max()))
    edges = (seen.first + np.arange(BINS + 1)) * seen.width
    assert edges[0] <= seen.low
    assert seen.high < edges[-1]
    expected, _ = np.histogram(values.astype(np.float64), bins=edges)
    assert seen.counts.sum() == len(values)
    assert np.abs(np.cumsum(seen.counts) - np.cumsum(expected)).max() <= 2  # float32 at the edge of a bin
    assert seen.average == pytest.approx(tuple(np.mean([(a.min(), a.max()) for a in arrays], axis=0)), rel=1e-6)


def test_half_of_the_bins_are_in_use_even_where_the_range_has_grown():
    seen = seen_of([0.001, 0.002], [5.0], [-0.3, 77.7])
    assert (seen.high - seen.low) / seen.width > BINS / 2


@pytest.mark.parametrize("value", [0.0, 3.5, -1e-20])
def test_a_constant_tensor_has_a_histogram(value):
    seen = seen_of([value] * 5, [value] * 3)
    assert seen.counts.sum() == 8
    for method in OF_HISTOGRAMS.values():
        for symmetric in (True, False):
            low, high = method.choose(seen, Form(symmetric, symmetric), None)
            assert low <= high
            assert np.isfinite([low, high]).all()


def test_of_a_large_array_a_sample_that_leaves_no_column_out_is_counted():
    columns = np.tile(np.arange(160, dtype=np.float32), 160 * 20)
    seen = seen_of(columns)
    assert SAMPLE / 2 < seen.counts.sum() < 2 * SAMPLE
    assert (seen.low, seen.high) == (0, 159)
    found = np.bincount(np.floor(np.repeat(seen.centres, seen.counts)).astype(int), minlength=160)
    assert found.min() > 0.5 * found.mean()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), shift=st.floats(-2, 2), half=st.integers(5, 300))
def test_bins_about_zero_hold_the_same_values(seed, shift, half):
    values = np.random.default_rng(seed).normal(shift, 1, 500).astype(np.float32)
    seen = seen_of(values)
    counts, width = seen.about_zero(half)
    assert len(counts) == 2 * half + 1
    assert counts.sum() == 500
    edges = (np.arange(2 * half + 2) - half - 0.5) * width
    expected, _ = np.histogram(values.astype(np.float64), bins=edges)
    assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 2


def collector(method, **options):
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    given = {"symmetric": False, "num_bins": 128, "num_quantized_bins": 128, "percentile": 99.99, "scenario": "same"}
    return calibrate.HistogramCollector(method=method, **{**given, **options})


@pytest.mark.parametrize("levels", [16, 64, 128])
@pytest.mark.parametrize("kind", ["normal", "silu", "outliers", "sparse"])
def test_entropy_equals_that_of_onnxruntime(levels, kind):
    rng = np.random.default_rng(levels)
    values = {
        "normal": lambda: rng.normal(0, 1, 20000),
        "silu": lambda: skewed(20000),
        "outliers": lambda: np.concatenate([rng.normal(0, 1, 20000), rng.normal(0, 20, 40)]),
        "sparse": lambda: np.round(rng.normal(0, 5, 20000)),
    }[kind]()
    peak = np.abs(values).max()
    counts, edges = np.histogram(values, bins=401, range=(-peak, peak))
    theirs = collector("entropy").get_entropy_threshold((counts, edges, values.min(), values.max(), peak), levels)
    keep = entropy_threshold(counts, levels)
    assert float(theirs[1]) == pytest.approx(min(edges[200 + keep + 1], values.max()))


@pytest.mark.parametrize("kind", ["normal", "silu", "outliers", "sparse"])
def test_symmetric_entropy_is_that_of_tensorrts_description(kind):
    """A second implementation looks at all values; ours at a histogram that grew, so edges differ by a bin or so."""
    rng = np.random.default_rng(3)
    values = {
        "normal": lambda: rng.normal(0, 1, 20000),
        "silu": lambda: skewed(20000),
        "outliers": lambda: np.concatenate([rng.normal(0, 1, 20000), rng.normal(0, 20, 40)]),
        "sparse": lambda: np.round(rng.normal(0, 5, 20000)),
    }[kind]().astype(np.float32)
    peak = float(np.abs(values).max())
    counts, _ = np.histogram(np.abs(values), bins=HALF_BINS, range=(0, peak))
    assert entropy_length(counts, 128) == documented(counts)
    low, high = RANGES["entropy"].choose(seen_of(*np.array_split(values, 2)), Form(True, True), None)
    assert low == -high
    if kind != "sparse":  # where whole numbers lie at the edges of bins, they are shared between two
        assert high == pytest.approx(documented_range(values), rel=0.15)


def test_asymmetric_entropy_has_the_bins_of_onnxruntime():
    values = skewed(30000)
    _, high = RANGES["entropy"].choose(seen_of(*np.array_split(values, 3)), Form(False, False), None)
    assert high == pytest.approx(onnxruntime_range(values), rel=1e-3)


def test_counts_between_edges_are_those_of_the_values():
    values = skewed(9000)
    seen = seen_of(*np.array_split(values, 3))
    edges = (np.arange(-40, 200, 7)) * 16 * seen.width
    expected, _ = np.histogram(values.astype(np.float64), bins=edges)
    found = seen.between(edges)
    assert found.dtype == np.int64
    assert np.abs(np.cumsum(found) - np.cumsum(expected)).max() <= 2  # float32 at the edge of a bin
    assert seen.between(np.array([seen.low, 0.0, seen.high])).sum() == len(values)
    assert seen.between(np.array([-1e3, seen.low, seen.high, 1e3])).tolist() == [0, len(values), 0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("share", [90.0, 99.0, 99.99])
def test_percentile_cuts_where_onnxruntime_does(symmetric, share):
    values = skewed(50000)
    given = np.abs(values) if symmetric else values
    counts, edges = np.histogram(given, bins=2000)
    theirs = collector("percentile", symmetric=symmetric, percentile=share)
    theirs.histogram_dict = {"x": (counts, edges, values.min(), values.max())}
    low, high = (float(v) for v in theirs.compute_percentile()["x"][:2])
    if symmetric:
        assert edges[cut(counts, share / 100)] == pytest.approx(min(high, values.max()))
        return
    outside = (100 - share) / 200
    assert (edges[cut(counts, outside)], edges[cut(counts, 1 - outside)]) == pytest.approx((low, high))


def test_each_method_finds_its_range_in_a_long_tail():
    """Of values with one wild outlier: the limits keep it, the others do not, and mse has the least error of all."""
    values = np.concatenate([skewed(200000), [90.0]]).astype(np.float32)
    seen = seen_of(*np.array_split(values, 20))
    errors = {}
    for symmetric in (True, False):
        form = Form(symmetric, symmetric)
        found = {name: method.choose(seen, form, None) for name, method in OF_HISTOGRAMS.items()}
        assert found["minmax"][1] == 90
        assert found["average"][1] < 20
        assert 8 < found["percentile"][1] < 16
        assert 5 < found["entropy"][1] < 30
        low = {name: limits[0] for name, limits in found.items()}
        if symmetric:
            assert all(low[name] == -found[name][1] for name in ("percentile", "entropy", "mse"))
        else:
            assert all(-0.3 < value <= -0.2 for value in low.values())
        errors = {name: relative_error(seen, form.quantizer(*limits)) for name, limits in found.items()}
        assert min(errors, key=errors.__getitem__) == "mse"


def test_percentile_of_a_symmetric_form_is_that_of_absolute_values():
    values = np.random.default_rng(1).normal(0, 1, 100000).astype(np.float32)
    low, high = ranges.percentile(seen_of(*np.array_split(values, 10)), Form(True, True))
    assert low == -high
    assert high == pytest.approx(np.quantile(np.abs(values), ranges.PERCENTILE / 100), rel=0.02)


def test_memory_does_not_grow_with_the_arrays():
    seen = Histogram()
    for index in range(50):
        seen.add(skewed(1000, index) * (index + 1))
    assert len(seen.counts) == histogram.BINS
    assert {type(value) for value in vars(seen).values()} <= {float, int, np.ndarray}
    assert sum(value.nbytes for value in vars(seen).values() if isinstance(value, np.ndarray)) < 100_000
