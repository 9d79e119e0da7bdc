# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The PyTorch model with quantizers against the Q/DQ graph that ONNX Runtime computes."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.tiny import FAMILIES, tiny_model
from yolo_compress.errors import UnsupportedModel, UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.data import image_batches
from yolo_compress.quantize import SCHEMES, Learned, emulation, quantize_learned
from yolo_compress.quantize.attachment import QuantizationAware
from yolo_compress.quantize.calibration import Runner
from yolo_compress.quantize.emulation import CHILD, Quantizers, aside, current, hold_statistics, install, remove
from yolo_compress.quantize.graph import Names
from yolo_compress.quantize.placement import Wiring, place
from yolo_compress.quantize.weights import WeightForm
from yolo_compress.recipe import QatSection, QuantizeSection


@pytest.fixture
def begun(graphs):
    """Return a function that gives a model, what its quantizers begin with, and the attachment's view of it."""

    def begin(family: str, **options):
        model = checkpoint.load_model(graphs / f"{family}.pt")
        args = SimpleNamespace(imgsz=64, data=str(graphs / "data/data.yaml"))
        attachment = QuantizationAware(QatSection(), QuantizeSection(**options))
        attachment.start, attachment._groups = attachment._begin(SimpleNamespace(args=args), model)
        return model, attachment.start, attachment

    return begin


def run(path, images) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as they are written
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": image[None]})[0] for image in images])


def answers(model, images) -> np.ndarray:
    with torch.no_grad():
        found = model(torch.from_numpy(images))
    return (found[0] if isinstance(found, tuple) else found).numpy()


def flat(found):
    """Yield the tensors in what a model returns in training."""
    if isinstance(found, torch.Tensor):
        yield found
    else:
        for part in found.values() if isinstance(found, dict) else found:
            yield from flat(part)


def scores(found: np.ndarray, family: str) -> np.ndarray:
    """Boxes that are ranked may change places; their scores in order may not."""
    return found[..., 4] if family == "yolo26n" else found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", SCHEMES)
def test_training_sees_what_the_graph_computes(graphs, images, begun, tmp_path, family, target):
    model, start, attachment = begun(family, target=target)
    install(model, start)
    batch = next(image_batches(images, 64))
    found = scores(answers(model, batch), family)
    with attachment.aside(model):
        learned = Learned.read(model)
    quantize_learned(graphs / f"{family}.onnx", tmp_path / "int8.onnx", learned)
    graph = scores(run(tmp_path / "int8.onnx", batch), family)
    exact = scores(run(graphs / f"{family}.onnx", batch), family)
    error = np.abs(graph - exact).mean()
    assert error > 0
    # weights are folded in another order and int32 biases are rounded, so that some code falls to the other side of a
    # tie and moves what is behind it; a quantizer that is missing or in the wrong place gives about the whole error
    share = {"onnxruntime": 0.95}.get(target, 0.5)
    assert np.abs(found - graph).mean() < share * error


def made_by(wiring: Wiring, node: int, quantized: set[str]) -> str:
    """Return what a convolution's block puts out: behind SiLU, else behind its quantizer where it has one."""
    output = wiring.nodes[node].output[0]
    behind = [wiring.nodes[i] for i, _ in wiring.readers[output] if wiring.nodes[i].op_type == "Mul"]
    if behind:
        return behind[0].output[0]
    return Names.of(output).values if output in quantized else output


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", SCHEMES)
def test_each_block_computes_what_the_graph_does(graphs, images, begun, tmp_path, family, target):
    """Given what enters it in the graph; from block to block, a value on the other side of a tie would spread."""
    model, start, attachment = begun(family, target=target)
    plain = deepcopy(model)
    install(model, start)
    with attachment.aside(model):
        learned = Learned.read(model)
    made = onnx.load(str(quantize_learned(graphs / f"{family}.onnx", tmp_path / "int8.onnx", learned).path))
    floating = onnx.load(str(graphs / f"{family}.onnx")).graph
    wiring, placement = Wiring(floating), place(floating, SCHEMES[target])
    read = {wiring.nodes[index].input[position] for index, position in placement.reads}
    checks = {
        layer.name: (wiring.nodes[layer.node].input[0], made_by(wiring, layer.node, read))
        for layer in placement.layers
        if not layer.why
    }
    by_name = {layer.name: layer.node for layer in placement.layers}
    for end in (name for name, site in start.sites.items() if (site.branch, site.skip) != (None, None)):
        block = end.removesuffix(".cv2")
        if block != end and f"{block}.cv1" in by_name:  # of a PSABlock, attention would have to be run as well
            adds = [n for n in wiring.nodes if n.op_type == "Add" and made_by(wiring, by_name[end], set()) in n.input]
            checks[block] = (wiring.nodes[by_name[f"{block}.cv1"]].input[0], adds[0].output[0])
    tensors = sorted({tensor for pair in checks.values() for tensor in pair} - {"images"})
    assert any(name not in by_name for name in checks)
    for values in Runner(made, tensors, 64).run(images[:2], "", None):
        for name, (source, result) in checks.items():
            with torch.no_grad():  # activations may work in place
                found, exact = (
                    which.get_submodule(name)(torch.from_numpy(values[source].copy())).numpy()
                    for which in (model, plain)
                )
            # a code at a tie may fall to the other side; a quantizer that is missing moves most values
            assert np.abs(found - values[result]).mean() < 0.15 * np.abs(exact - values[result]).mean(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_without_quantizers_folding_changes_nothing(graphs, images, begun, family):
    model, start, _ = begun(family)
    batch = next(image_batches(images, 64))
    before = answers(model, batch)
    install(model, Quantizers({}, [], {}, start.form))
    np.testing.assert_allclose(answers(model, batch), before, rtol=1e-3, atol=1e-3)


def test_what_is_taken_out_leaves_no_trace_and_comes_back(graphs, images, begun):
    model, start, _ = begun("yolo11n")
    keys, batch = set(model.state_dict()), next(image_batches(images, 64))
    install(model, start)
    quantized = answers(model, batch)
    twin = deepcopy(model)  # as the average is
    with torch.no_grad():
        for parameter in getattr(model, CHILD).parameters():
            parameter += 1.0
    assert np.array_equal(answers(twin, batch), quantized)
    assert not np.array_equal(answers(model, batch), quantized)
    with aside(twin, start):
        assert set(twin.state_dict()) == keys
        assert not any("forward" in vars(module) for module in twin.modules())
    assert np.array_equal(answers(twin, batch), quantized)
    remove(twin)
    assert set(twin.state_dict()) == keys


def test_a_start_survives_plain_data(begun):
    model, start, _ = begun("yolov8n", weight_bits=4, weight_group=4, keep=("model.2",))
    install(model, start)
    now = Quantizers.read(current(model, start).plain())
    assert now.sites == start.sites
    assert now.form == start.form
    for a, b in zip(now.activations, start.activations, strict=True):
        assert a.scale == pytest.approx(float(b.scale), rel=1e-5)
        assert (a.zero_point, a.signed) == (b.zero_point, b.signed)
    for name, scales in start.weights.items():
        np.testing.assert_allclose(now.weights[name], scales, rtol=1e-5)
    assert not any(name.startswith("model.2.") for name in start.weights)


OTHER_FORMS = [
    {"target": "onnxruntime", "weight_form": "ternary"},
    {"target": "openvino", "weight_form": "codebook", "weight_group": 4},
    {"target": "tensorrt", "weight_form": "pow2", "activation_bits": 6},
    {"target": "openvino", "weight_form": "binary", "activations": "none"},
    {"target": "openvino", "weight_form": "bf16", "activation_bits": 12},
]


@pytest.mark.parametrize("options", OTHER_FORMS, ids=str)
def test_other_forms_are_trained_as_the_graph_has_them(graphs, images, begun, tmp_path, options):
    model, start, attachment = begun("yolov8n", **options)
    install(model, start)
    with torch.no_grad():  # as training does
        for parameter in getattr(model, CHILD).parameters():
            parameter += 0.01
    batch = next(image_batches(images, 64))
    found = answers(model, batch)
    now = Quantizers.read(current(model, start).plain())
    assert now.form == start.form
    assert now.tables.keys() == start.tables.keys()
    assert all(a.bits == options.get("activation_bits", 8) for a in now.activations)
    with attachment.aside(model):
        learned = Learned.read(model)
    result = quantize_learned(graphs / "yolov8n.onnx", tmp_path / "a.onnx", learned)
    graph, exact = run(result.path, batch), run(graphs / "yolov8n.onnx", batch)
    assert np.abs(found - graph).mean() < 0.5 * np.abs(graph - exact).mean()
    if options["weight_form"] in ("ternary", "codebook", "binary"):
        packed = quantize_learned(graphs / "yolov8n.onnx", tmp_path / "b.onnx", learned, weight_storage="packed")
        assert packed.size_bytes < result.size_bytes
        assert np.array_equal(run(packed.path, batch), graph)
    facts = json.loads({m.key: m.value for m in onnx.load(str(result.path)).metadata_props}["yolo_compress"])
    assert (facts["weight_form"], facts["range"]) == (options["weight_form"], "learned")


def test_options_that_training_has_settled_are_compared_by_what_they_mean(begun):
    model, start, attachment = begun("yolov8n", weight_form="pow2", activations="none")
    install(model, start)
    with attachment.aside(model):
        learned = Learned.read(model)
    learned.check(QuantizeSection(weight_bits=4, weight_storage="packed"))
    learned.check(QuantizeSection.model_validate(learned.options.model_dump()))  # as a recipe that names every option
    with pytest.raises(UsageError, match="was trained for weight_bits=4 and weight_bits=3 was given; leave it out"):
        learned.check(QuantizeSection(weight_bits=3))
    with pytest.raises(UsageError, match="was trained for activations=none and activations=static was given"):
        learned.check(QuantizeSection(activations="static"))


def test_scales_from_before_there_were_other_forms_are_read(begun):
    _, start, _ = begun("yolov8n")
    plain = start.plain()
    old = {**plain, "activations": [row[:3] for row in plain["activations"]]}
    old["form"] = {key: value for key, value in plain["form"].items() if key != "kind"}
    del old["tables"]
    again = Quantizers.read(old)
    assert again.form == start.form
    assert list(again.activations) == list(start.activations)
    assert again.tables == {}


def test_statistics_of_batchnorm_can_be_held_in_training(begun):
    model, start, _ = begun("yolov8n")
    install(model, start)
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    model.train()
    hold_statistics(model)
    model(torch.rand(2, 3, 64, 64))
    assert before
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    model.train()
    model(torch.rand(2, 3, 64, 64))
    assert not all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_training_normalizes_as_stock_blocks_do(begun, family):
    """All layers kept in float: what is left is BatchNorm, whose own module is the oracle."""
    model, _, _ = begun(family)
    blocks = [m for m in model.modules() if type(m) in emulation.FOLDED]
    with torch.no_grad():
        blocks[0].bn.weight[:2] = torch.tensor([0.0, -0.5])
    twin = deepcopy(model).train()
    install(model.train(), Quantizers({}, [], {}, WeightForm()))
    x = torch.rand(2, 3, 64, 64)
    ours, theirs = (list(flat(m(x))) for m in (model, twin))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    for values in (ours, theirs):
        sum(value.square().mean() for value in values).backward()
    remove(model)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    wanted = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.dist(found[name], gradient) <= 1e-2 * gradient.norm() + 1e-6, name


FORMS = [
    {"target": "tensorrt"},
    {"target": "openvino", "weight_bits": 4, "weight_group": 4},
    OTHER_FORMS[1],
    OTHER_FORMS[3],
]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_scales_follow_what_batchnorm_multiplies_by(graphs, images, begun, options):
    """Statistics that move, as they do in training, change no code: ranges of weights are neither cut off nor empty."""
    model, start, _ = begun("yolov8n", **options)
    install(model, start)
    norms = {name: model.get_submodule(name).bn for name in start.weights}
    factors = {name: 2 ** (torch.rand(norm.num_features) * 4 - 2) for name, norm in norms.items()}
    for norm in norms.values():
        norm.momentum = 0.0  # so that looking changes nothing
    batch = torch.from_numpy(next(image_batches(images, 64)))
    with torch.no_grad():
        before = [value.clone() for value in flat(model.train()(batch))]
        for name, norm in norms.items():
            gains = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            norm.running_var.copy_((norm.running_var + norm.eps) * factors[name] - norm.eps)
            after = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            assert not torch.allclose(gains, after, rtol=0.1)
        found = list(flat(model(batch)))
    for one, other in zip(before, found, strict=True):
        torch.testing.assert_close(one, other)
    for name, scales in current(model.eval(), start).weights.items():
        expected = start.weights[name] / np.sqrt(factors[name].numpy())[:, None]
        np.testing.assert_allclose(scales, expected, rtol=1e-4, err_msg=name)


def test_a_channel_that_batchnorm_has_silenced_can_come_back(graphs, images, begun):
    model, _, attachment = begun("yolov8n", target="tensorrt")
    block = model.get_submodule("model.2.cv1")
    with torch.no_grad():
        block.bn.weight[:3] = torch.tensor([0.0, -0.7, 0.7])
    weights = {"model.2.cv1": attachment.start.weights["model.2.cv1"].copy()}
    weights["model.2.cv1"][0] = 1e-12  # what calibration makes of a channel of zeros
    start = replace(attachment.start, weights=weights)
    install(model, start)
    batch = torch.from_numpy(next(image_batches(images, 64)))
    with torch.no_grad():
        block.bn.weight[0] = 1.0
        scales = current(model, start).weights["model.2.cv1"]
    weight = (block.conv.weight[0] / torch.sqrt(block.bn.running_var[0] + block.bn.eps)).detach()
    assert scales[0, 0] * 127 == pytest.approx(float(weight.abs().max()), rel=1e-4)
    assert torch.isfinite(torch.cat([value.flatten() for value in flat(model.train()(batch))])).all()


def test_a_block_gets_the_folded_parameters_that_it_is_given():
    model = tiny_model()
    block, draw = model.get_submodule("model.0"), np.random.default_rng(0)
    with torch.no_grad():
        block.bn.running_var.uniform_(0.5, 2)
        block.bn.weight[1] = 0  # a channel that shows nothing of its weights
    before = block.conv.weight.detach().clone()
    weight = draw.normal(size=tuple(before.shape)).astype(np.float32)
    bias = draw.normal(size=len(weight)).astype(np.float32)
    emulation.set_folded_(model, "model.0", weight, bias)
    folded = torch.nn.utils.fusion.fuse_conv_bn_eval(block.conv.eval(), block.bn.eval())
    alive = [channel for channel in range(len(weight)) if channel != 1]
    np.testing.assert_allclose(folded.weight.detach().numpy()[alive], weight[alive], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(folded.bias.detach().numpy(), bias, rtol=1e-4, atol=1e-5)
    assert torch.equal(block.conv.weight[1], before[1])
    with pytest.raises(UnsupportedModel, match=r"'model\.0\.conv' is in no Conv block"):
        emulation.set_folded_(model, "model.0.conv", weight, bias)
