# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Repair of whole graphs: what it sees against torch's convolution, what it gains, what it writes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import FAMILIES
from yolo_compress.errors import UsageError
from yolo_compress.host.data import image_batches
from yolo_compress.host.export import onnx_metadata
from yolo_compress.quantize import ROUNDINGS, SCHEMES, quantize_onnx
from yolo_compress.quantize.foreground import Places
from yolo_compress.quantize.placement import Wiring, place
from yolo_compress.quantize.ranges import silu
from yolo_compress.quantize.repair import POSITIONS, Seen, best_shift, waves_of
from yolo_compress.quantize.rounding import output_error


def scores(path, images) -> np.ndarray:
    """Run a graph as it is written and return its class scores."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": batch})[0] for batch in image_batches(images, 64, batch=1)])


@settings(max_examples=30, deadline=None)
@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_what_is_seen_equals_a_convolution(groups, inputs, outputs, kernel, stride, seed):
    """Every position is looked at in so small an image, so means are those of torch's own outputs."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(groups * outputs, inputs, kernel, kernel)).astype(np.float32)
    other = rng.normal(size=weight.shape).astype(np.float32)
    x, z = rng.normal(size=(2, 3, groups * inputs, 9, 7)).astype(np.float32)
    pad = kernel // 2
    node = onnx.helper.make_node(
        "Conv", ["x", "w"], ["y"], group=groups, strides=[stride, stride], pads=[pad] * 4, kernel_shape=[kernel] * 2
    )
    seen = Seen(weight, node)
    seen.add(x, z, seed, Places(0, ()))
    conv = {"stride": stride, "padding": pad, "groups": groups}
    y, made = (
        torch.nn.functional.conv2d(torch.from_numpy(a), torch.from_numpy(w), **conv).numpy()
        for a, w in ((x, weight), (z, other))
    )
    assert y[0, 0].size <= POSITIONS
    expected = ((y - made) ** 2).mean(axis=(0, 2, 3))
    assert output_error(other, seen.moments) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    exact, got = seen.outputs(other)
    assert exact.mean(axis=1) == pytest.approx(y.mean(axis=(0, 2, 3)), abs=1e-4)
    assert got.mean(axis=1) == pytest.approx(made.mean(axis=(0, 2, 3)), abs=1e-4)


def test_without_a_function_the_shift_is_the_mean_difference():
    exact, got = np.random.default_rng(0).normal(size=(2, 5, 300))
    assert best_shift(exact, got, np.asarray) == pytest.approx((exact - got).mean(axis=1), abs=1e-6)


def test_behind_silu_no_other_shift_is_better():
    """Against a fine grid; outputs are mostly cut off, and there the quantized ones are far too low."""
    rng = np.random.default_rng(0)
    exact = rng.normal(-4, 3, size=(4, 500))
    got = exact + 0.2 * rng.normal(size=exact.shape) - 0.3 - 2 * (exact < -6)
    shift = best_shift(exact, got, silu)
    for output in range(4):
        errors = [((silu(exact[output]) - silu(got[output] + s)) ** 2).sum() for s in np.linspace(-2, 2, 2001)]
        ours = ((silu(exact[output]) - silu(got[output] + shift[output])) ** 2).sum()
        assert ours <= min(errors) * 1.001
    assert (np.abs(shift - (exact - got).mean(axis=1)) > 0.1).all()


def test_an_output_that_is_cut_off_on_all_images_is_shifted_no_further_than_it_was_off():
    """Further down, SiLU brings it nearer and nearer to zero; on another image it may be needed."""
    rng = np.random.default_rng(0)
    exact = np.full((1, 200), -40.0)
    got = -6 + rng.normal(0, 0.5, size=exact.shape)
    shift = best_shift(exact, got, silu)
    assert (exact - got).min() <= shift[0] < 0
    assert best_shift(exact, got - 60, silu)[0] <= (exact - got + 60).max()


def test_an_output_that_cannot_be_improved_is_not_shifted():
    exact = np.random.default_rng(0).normal(size=(3, 50))
    assert not best_shift(exact, exact, silu).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_come_after_those_they_read(graphs, family):
    model = onnx.load(str(graphs / f"{family}.onnx"))
    wiring, layers = Wiring(model.graph), place(model.graph, SCHEMES["tensorrt"]).layers
    waves = waves_of(wiring, layers)
    assert sorted(layer.node for wave in waves for layer in wave) == [layer.node for layer in layers if not layer.why]
    done: set[int] = set()
    for wave in waves:
        for layer in wave:
            before, pending = set(), [layer.node]
            while pending:
                for _, name in wiring.data_inputs(pending.pop()):
                    if name in wiring.makers and wiring.makers[name] not in before:
                        before.add(wiring.makers[name])
                        pending.append(wiring.makers[name])
            assert {other.node for other in layers if not other.why} & before <= done
        done |= {layer.node for layer in wave}


@pytest.mark.parametrize(
    ("family", "target"), [*((f, "tensorrt") for f in FAMILIES), ("yolov8n", "openvino"), ("yolov8n", "onnxruntime")]
)
def test_repair_brings_a_four_bit_graph_nearer_to_the_float_one(graphs, images, tmp_path, family, target):
    source, error = graphs / f"{family}.onnx", {}
    exact = scores(source, images)
    every = [(rounding, corrected) for rounding in ROUNDINGS for corrected in (False, True)]
    both = [("nearest", False), ("adaround", True)]  # each alone takes a minute more, and is seen in one case
    for rounding, corrected in every if (family, target) == ("yolov8n", "tensorrt") else both:
        out = tmp_path / f"{rounding}{corrected}.onnx"
        repair = {"rounding": rounding, "bias_correction": corrected}
        result = quantize_onnx(source, out, images=images, imgsz=64, target=target, weight_bits=4, **repair)
        error[rounding, corrected] = float(((scores(out, images) - exact) ** 2).sum())
        quantized = [row for row in result.layers if row.precision == "int8"]
        repaired = rounding != "nearest" or corrected
        assert all((row.output_error is not None) == repaired for row in quantized)
        assert all(row.weight.startswith("int4") for row in quantized)
        if repaired:  # a layer is chosen for by all positions and judged by some
            assert all(row.output_error[1] <= 1.1 * row.output_error[0] + 1e-9 for row in quantized)
        assert any("weights have 4 bits and are stored in bytes" in note for note in result.notes)
    assert error["adaround", True] < error["nearest", False]
    if ("nearest", True) in error:
        assert error["nearest", True] < error["nearest", False]


def test_a_scale_per_block_is_what_the_runtime_computes_with(graphs, images, tmp_path):
    source, whole, blocks = graphs / "yolov8n.onnx", tmp_path / "a.onnx", tmp_path / "b.onnx"
    exact, given = scores(source, images), {"images": images, "imgsz": 64, "target": "tensorrt", "weight_bits": 3}
    quantize_onnx(source, whole, **given)
    result = quantize_onnx(source, blocks, weight_group=8, **given)
    assert any("per 8 inputs of a channel" in row.weight for row in result.layers)
    assert any("per channel" in row.weight for row in result.layers)  # the image has three channels
    assert ((scores(blocks, images) - exact) ** 2).sum() < ((scores(whole, images) - exact) ** 2).sum()


def test_what_was_chosen_is_recorded(graphs, images, tmp_path):
    out = tmp_path / "a.onnx"
    quantize_onnx(
        graphs / "yolov8n.onnx",
        out,
        images=images,
        imgsz=64,
        rounding="adaround",
        bias_correction=True,
        weight_group=8,
        repair_images=3,
        foreground=0.5,
    )
    facts = json.loads(onnx_metadata(out)["yolo_compress"])
    assert (facts["rounding"], facts["bias_correction"], facts["weight_group"]) == ("adaround", True, 8)
    assert (facts["repair_images"], facts["foreground"]) == (3, 0.5)


def test_bad_options(graphs, images, tmp_path):
    given = {"source": graphs / "yolov8n.onnx", "out": tmp_path / "a.onnx", "images": images, "imgsz": 64}
    with pytest.raises(UsageError, match=r"rounding=adarond is not known; did you mean adaround\?"):
        quantize_onnx(**given, rounding="adarond")
    with pytest.raises(UsageError, match="weight_bits=17 is not possible"):
        quantize_onnx(**given, weight_bits=17)
    with pytest.raises(UsageError, match=r"foreground=1\.5 is not possible; give a share from 0 to 1"):
        quantize_onnx(**given, foreground=1.5)
    with pytest.raises(UsageError, match="repair_images=0 is not possible; give 1 or more, such as 64"):
        quantize_onnx(**given, repair_images=0)
    with pytest.raises(UsageError, match=r"weight_group=7 divides the inputs of no layer; they have .*: give 16 or 32"):
        quantize_onnx(**given, weight_group=7)
    assert not (tmp_path / "a.onnx").exists()


def test_objects_count_only_where_they_are_asked_for(awake, images, tmp_path):
    given = {"images": images, "imgsz": 64, "weight_bits": 4, "rounding": "adaround"}
    files = {share: tmp_path / f"{share}.onnx" for share in (None, 0, 1)}
    for share, out in files.items():
        quantize_onnx(awake / "yolov8n.onnx", out, **given, **({} if share is None else {"foreground": share}))
    assert files[None].read_bytes() == files[0].read_bytes()
    assert not np.array_equal(scores(files[0], images), scores(files[1], images))
