# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Ranges chosen by layers' outputs, against a plain computation of those outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from yolo_compress.quantize.affine import from_range
from yolo_compress.quantize.choice import best_by_output
from yolo_compress.quantize.placement import Group, Layer, Placement

SIZE = 32


def graph(weights, strides=(1, 1), *, activation=True):
    """Return a model with one convolution per weight, all reading what a first one puts out."""
    make, kind = onnx.helper, onnx.TensorProto
    first = np.random.default_rng(9).normal(size=(4, 3, 1, 1)).astype(np.float32)
    nodes = [make.make_node("Conv", ["images", "model.0.conv.weight"], ["x"], "first")]
    constants = {"model.0.conv.weight": first}
    for number, weight in enumerate(weights, 1):
        name = f"model.{number}.conv.weight"
        constants |= {name: weight, f"{name}.b": np.linspace(-1, 1, len(weight)).astype(np.float32)}
        nodes.append(
            make.make_node(
                "Conv", ["x", name, f"{name}.b"], [f"y{number}"], f"conv{number}", strides=strides, pads=[1, 1, 1, 1]
            )
        )
        if activation:
            nodes.append(make.make_node("Sigmoid", [f"y{number}"], [f"s{number}"]))
            nodes.append(make.make_node("Mul", [f"y{number}", f"s{number}"], [f"a{number}"]))
    made = make.make_graph(
        nodes,
        "g",
        [make.make_tensor_value_info("images", kind.FLOAT, [1, 3, SIZE, SIZE])],
        [make.make_tensor_value_info(nodes[-1].output[0], kind.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return make.make_model(made, ir_version=9, opset_imports=[make.make_opsetid("", 17)])


@pytest.fixture
def images(tmp_path):
    import cv2

    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        cv2.imwrite(str(file), np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    return files


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("strides", "activation"), [((1, 1), True), ((2, 2), True), ((1, 1), False)])
def test_the_method_is_the_one_whose_outputs_change_least(images, seed, strides, activation):
    from yolo_compress.host.data import image_batches

    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(5, 4, 3, 3)).astype(np.float32) for _ in range(2)]
    model = graph(weights, strides, activation=activation)
    layers = tuple(
        Layer(index, node.name) for index, node in enumerate(model.graph.node) if node.name.startswith("conv")
    )
    group = Group(("x",), ("x",))
    candidates = {
        f"{low}:{high}": from_range(low, high, signed=False, symmetric=False)
        for low, high in rng.uniform([-4, 0.1], [0, 4], size=(6, 2))
    }
    found = best_by_output(model, Placement(layers, (group,), frozenset()), {group: candidates}, images, imgsz=SIZE)

    first = torch.tensor(onnx.numpy_helper.to_array(model.graph.initializer[0]))
    behind = torch.nn.functional.silu if activation else torch.nn.Identity()
    shares = dict.fromkeys(candidates, 0.0)
    for weight in weights:
        bias = torch.linspace(-1, 1, len(weight))
        error, energy = dict.fromkeys(candidates, 0.0), 0.0
        for batch in image_batches(images, SIZE, batch=1):
            x = torch.nn.functional.conv2d(torch.from_numpy(batch), first)

            def out(x, weight=weight, bias=bias):
                return behind(torch.nn.functional.conv2d(x, torch.from_numpy(weight), bias, strides, 1))

            energy += float((out(x) ** 2).sum())
            for name, quantizer in candidates.items():
                changed = out(torch.from_numpy(quantizer.round_trip(x.numpy())))
                error[name] += float(((changed - out(x)) ** 2).sum())
        shares = {name: shares[name] + error[name] / energy for name in shares}
    assert found == {group: min(shares, key=shares.__getitem__)}


def test_what_no_quantized_layer_reads_is_left_to_others(images):
    model = graph([np.ones((2, 4, 3, 3), np.float32)])
    group = Group(("x",), ("x",))
    kept = Placement((Layer(1, "conv1", why="keep=model.1"),), (group,), frozenset())
    assert best_by_output(model, kept, {group: {}}, images, imgsz=SIZE) == {}
