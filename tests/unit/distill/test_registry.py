# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What every loss of the registry has in common, from real heads of every family."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.tiny import FAMILIES, tiny_model
from yolo_compress.distill.answer import Answer, Branch, Pair, Scene, Side, Taps, head_channels
from yolo_compress.distill.projector import Projector
from yolo_compress.distill.registry import LOSSES
from yolo_compress.distill.relation import objects
from yolo_compress.errors import UsageError
from yolo_compress.recipe.distill import LossOptions

CLASSES = (2, 0)
PAIRS = [(a, b) for a in FAMILIES for b in FAMILIES]


@functools.cache
def model_of(family, nc, width, seed):
    return tiny_model(family, nc=nc, width=width, seed=seed)


def pair_of(student="yolov8n", teacher="yolov8n", *, loss="cwd", widths=(0.125, 0.25), **options):
    ours, theirs = (
        model_of(family, nc, width, seed)
        for seed, (family, nc, width) in enumerate(((student, 2, widths[0]), (teacher, 3, widths[1])))
    )
    theirs.requires_grad_(False).eval()
    ours.zero_grad()
    ours.train()
    theirs.model[-1].training = True
    return Pair(
        Side(ours, head_channels(ours), "student"),
        Side(theirs, head_channels(theirs), "teacher"),
        loss,
        LossOptions(**options),
        CLASSES,
    )


def ask(pair, loss, images):
    answers = []
    for part, taps, classes in (
        (pair.student, loss.student_taps, None),
        (pair.teacher, loss.teacher_taps, torch.tensor(CLASSES)),
    ):
        listening = Taps(taps)
        listening.open(part.model)
        outputs = part.model(images)
        answers.append(Answer.read(outputs, listening.close(), classes))
    return answers


def scene(images=2, *, labels=True):
    if not labels:
        return Scene((64, 64), images)
    boxes = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.7, 0.6, 0.3, 0.5], [0.5, 0.5, 0.9, 0.9]])
    return Scene((64, 64), images, boxes, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))


def builds(name, student, teacher):
    """Tell whether a loss can be had from two families: bins for ld, the same attention blocks for psa."""
    if name == "ld":
        return "yolo26n" not in (student, teacher)
    return name != "psa" or student == teacher != "yolov8n"


def alike(*without):
    """Return each loss with each family that it can be had from, student and teacher of the same."""
    return [(n, family) for n in LOSSES if n not in without for family in FAMILIES if builds(n, family, family)]


BUILT = [(name, *pair) for name in LOSSES for pair in PAIRS if builds(name, *pair)]
REFUSED = [(name, *pair) for name in LOSSES for pair in PAIRS if not builds(name, *pair)]


@pytest.mark.parametrize(("name", "student", "teacher"), REFUSED)
def test_a_loss_that_two_models_cannot_give_is_refused(name, student, teacher):
    with pytest.raises(UsageError, match=r"give models of one family and of the same heads|give iou, .* or box"):
        LOSSES[name].build(pair_of(student, teacher))


@pytest.mark.parametrize(("name", "student", "teacher"), BUILT)
@pytest.mark.parametrize("labels", [True, False])
def test_every_loss_teaches_across_families_and_widths(name, student, teacher, labels):
    widths = (0.125, 0.125) if name == "psa" else (0.125, 0.25)
    pair = pair_of(student, teacher, widths=widths)
    loss = LOSSES[name].build(pair)
    ours, theirs = ask(pair, loss, torch.rand(2, 3, 64, 64))
    if not labels:  # the teacher is sure of some objects
        (theirs.sparse or theirs.dense).scores[:, 0, ::9] = 3
    parts = loss(ours, theirs, scene(labels=labels))
    assert parts.ndim == 2
    assert parts.shape[0] in (1, 3)
    assert parts.shape[1] in (1, 2)
    assert torch.isfinite(parts).all()
    parts.sum().backward()
    taught = [p for p in pair.student.model.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert taught
    assert all(p.grad is None for p in pair.teacher.model.parameters())
    assert all(p.grad is not None for p in loss.modules().parameters())


# the masks of mgd are drawn anew, and copies of an image change how images relate to each other
@pytest.mark.parametrize(("name", "family"), alike("mgd", "relation"))
def test_parts_are_a_sum_over_images(name, family):
    """Two images twice are the same loss as once: it is a mean over images, whichever way it is normalised."""
    pair = pair_of(family, family, widths=(0.125, 0.125))
    pair.student.model.eval().model[-1].training = True
    loss = LOSSES[name].build(pair)
    ours, theirs = ask(pair, loss, torch.rand(2, 3, 64, 64))
    for branch in (theirs.dense, theirs.sparse):  # sure of many anchors, beyond the least that a sum is divided by
        if branch is not None:
            branch.scores.add_(5)
    twice = [each_twice(answer) for answer in (ours, theirs)]
    once = scene()
    doubled = Scene(
        (64, 64), 4, once.boxes.repeat(2, 1), torch.cat([once.owner, once.owner + 2]), once.classes.repeat(2)
    )
    assert loss(*twice, doubled).sum().item() == pytest.approx(loss(ours, theirs, once).sum().item(), rel=1e-4)


def each_twice(answer):
    def branch(b):
        return None if b is None else Branch(b.scores.repeat(2, 1, 1), b.boxes.repeat(2, 1, 1))

    features = tuple(feature.repeat(2, 1, 1, 1) for feature in answer.features)
    taps = {name: tap.repeat(2, 1, 1, 1) for name, tap in answer.taps.items()}
    return Answer(branch(answer.dense), branch(answer.sparse), features, taps)


# mimic and mgd change even equal features on their way; for crosskd see below
@pytest.mark.parametrize(("name", "family"), alike("mimic", "mgd", "crosskd"))
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(name, family):
    pair = pair_of(family, family, widths=(0.125, 0.125))
    loss = LOSSES[name].build(pair)
    answer = ask(pair, loss, torch.rand(2, 3, 64, 64))[1]
    ours = Answer(
        *(
            None if b is None else Branch(b.scores.clone().requires_grad_(), b.boxes)
            for b in (answer.dense, answer.sparse)
        ),
        answer.features,
        {ours: answer.taps[theirs] for ours, theirs in zip(loss.student_taps, loss.teacher_taps, strict=True)},
    )
    value = loss(ours, answer, scene()).sum()
    assert value.item() == pytest.approx(0, abs=1e-5)


def test_cross_head_of_the_teacher_s_own_features_is_the_teacher_s_answer():
    pair = pair_of(widths=(0.125, 0.125))
    loss = LOSSES["crosskd"].build(pair)
    answer = ask(pair, loss, torch.rand(2, 3, 64, 64))[1]
    taps = {ours: answer.taps[theirs] for ours, theirs in zip(loss.student_taps, loss.teacher_taps, strict=True)}
    ours = Answer(answer.dense, None, answer.features, taps)
    assert loss(ours, answer, scene()).sum().item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", ["response", "box", "iou"])
def test_a_sparse_branch_never_follows_dense_targets(name):
    pair = pair_of("yolo26n", "yolov8n")
    loss = LOSSES[name].build(pair)
    ours, theirs = ask(pair, loss, torch.rand(2, 3, 64, 64))
    loss(ours, theirs, scene()).sum().backward()
    head = pair.student.head
    tower = "cv3" if name == "response" else "cv2"
    assert all(p.grad is None for p in [*head.one2one_cv2.parameters(), *head.one2one_cv3.parameters()])
    assert any(p.grad is not None for p in getattr(head, tower).parameters())


def test_the_dense_branch_reaches_the_backbone_and_the_sparse_one_its_own_head_only():
    pair = pair_of("yolo26n", "yolo26n")
    loss = LOSSES["response"].build(pair)
    ours, theirs = ask(pair, loss, torch.rand(2, 3, 64, 64))
    loss(ours, theirs, scene()).sum().backward()
    assert any(p.grad is not None for p in pair.student.model.model[0].parameters())
    assert any(p.grad is not None for p in pair.student.head.one2one_cv3.parameters())


def test_taps_are_on_a_model_during_one_pass_alone():
    model = tiny_model()
    taps = Taps(("model.2", "model.4", "model.2"))
    taps.open(model)
    assert len(model.model[2]._forward_hooks) == 1
    model(torch.rand(1, 3, 64, 64))
    assert set(taps.close()) == {"model.2", "model.4"}
    assert not any(m._forward_hooks for m in model.modules())
    assert taps.close() == {}


@pytest.mark.parametrize("name", ["cwd", "mimic", "mgd", "fgd"])
def test_layers_inside_the_models_can_be_compared(name):
    pair = pair_of(layers=("model.4", "model.6"))
    loss = LOSSES[name].build(pair)
    ours, theirs = ask(pair, loss, torch.rand(2, 3, 64, 64))
    loss(ours, theirs, scene()).sum().backward()
    last = pair.student.model.model[6].cv2.conv.weight
    assert last.grad.abs().sum() > 0
    assert pair.student.model.model[8].cv2.conv.weight.grad is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cwd",
            {"layers": ("model.77",)},
            "the student has no layer 'model.77'; give modules that exist, such as model.",
        ),
        ("cwd", {"layers": ("model.22",)}, "layer 'model.22' of the student gives no feature map; name a block"),
        ("cwd", {"layers": ("model.4",), "teacher_layers": ("model.4", "model.6")}, "name as many of both"),
        ("response", {"layers": ("model.4",)}, "response compares what heads take in or answer; leave its layers out"),
        ("at", {"layers": ("model.4",)}, "at compares what heads take in or answer; leave its layers out"),
        ("relation", {"layers": ("model.4",)}, "relation compares what heads take in or answer"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused(name, options, message):
    with pytest.raises(UsageError) as caught:
        LOSSES[name].build(pair_of(loss=name, **options))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["response", "mimic", "at", "iou", "relation", "psa"])
def test_a_temperature_is_refused_where_there_is_none(name):
    with pytest.raises(UsageError, match=rf"{name} has no temperature"):
        LOSSES[name].build(pair_of("yolo11n", "yolo11n", loss=name, temperature=2.0))


@pytest.mark.parametrize("name", ["cwd", "fgd", "attention", "ld", "box", "crosskd"])
def test_a_temperature_changes_the_loss(name):
    found = []
    for options in ({}, {"temperature": 3.0}):
        pair = pair_of(loss=name, widths=(0.125, 0.125), **options)
        pair.student.model.eval().model[-1].training = True
        loss = LOSSES[name].build(pair)
        torch.manual_seed(0)
        found.append(loss(*ask(pair, loss, torch.rand(2, 3, 64, 64)), scene()).sum().item())
    assert found[0] != pytest.approx(found[1], rel=1e-3)


def test_layers_of_two_sizes_are_refused():
    pair = pair_of(layers=("model.4",), teacher_layers=("model.6",))
    loss = LOSSES["cwd"].build(pair)
    with pytest.raises(UsageError, match=r"name layers whose feature maps have the same size"):
        loss(*ask(pair, loss, torch.rand(2, 3, 64, 64)), scene())


def test_ld_without_distributions_says_what_to_give():
    with pytest.raises(UsageError, match=r"head has 1 bins and the teacher's 16; give iou, .* or box"):
        LOSSES["ld"].build(pair_of("yolo26n", "yolov8n"))


def test_a_projector_begins_at_its_least_squares_fit_and_fits_once():
    student, weight = torch.randn(2, 4, 5, 5), torch.randn(6, 4)
    teacher = torch.einsum("tc,nchw->nthw", weight, student) + 3
    projector = Projector(4, 6)
    projector.fit(student, teacher)
    assert torch.allclose(projector(student), teacher, atol=0.05)
    before = projector.weight.clone()
    projector.fit(torch.randn(2, 4, 5, 5), teacher)
    assert torch.equal(projector.weight, before)
    again = Projector(4, 6)
    again.load_state_dict(projector.state_dict())
    again.fit(torch.randn(2, 4, 5, 5), teacher)
    assert torch.equal(again.weight, before)


def test_objects_without_labels_are_those_that_the_teacher_is_sure_of():
    scores = torch.full((1, 2, 20), -9.0)
    scores[0, 1, [0, 1]] = 4.0  # neighbours that see the same box: one of them counts
    sides = torch.full((1, 4, 20), 2.0)
    sides[0, 0, 1], sides[0, 2, 1] = 3.0, 1.0
    answer = Answer(Branch(scores, sides), None, (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)))
    found = objects(answer, Scene((32, 32), 1), (8.0, 16.0))
    assert found.tolist() == [[0, -12, -12, 20, 20]]
    labelled = Scene((32, 64), 1, torch.tensor([[0.5, 0.5, 0.5, 0.25]]), torch.tensor([0]), torch.tensor([1]))
    assert objects(answer, labelled, (8.0, 16.0)).tolist() == [[0, 16, 12, 48, 20]]
