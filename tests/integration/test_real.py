# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Real weights on real images; skipped where YOLO_COMPRESS_DATA does not say where they are."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from yolo_compress.api import classes
from yolo_compress.bench.accuracy import detect, evaluate
from yolo_compress.bench.response import OutputWeights, distance
from yolo_compress.distill import LOSSES
from yolo_compress.distill.answer import Answer, Pair, Scene, Side, head_channels
from yolo_compress.distill.teacher import Teacher
from yolo_compress.engines import engine_for
from yolo_compress.host import checkpoint
from yolo_compress.host.data import image_batches, read_data, sample
from yolo_compress.host.detect import responses
from yolo_compress.host.export import export_onnx
from yolo_compress.prune import mask, prune
from yolo_compress.quantize import quantize_onnx
from yolo_compress.recipe import DistillSection, PruneSection
from yolo_compress.recipe.distill import LossOptions

pytestmark = pytest.mark.real_data
WEIGHTS = ("yolov8n", "yolov8s", "yolo11n-int8dq", "yolo26n-int8dq")
IMGSZ = 320
LOGIT_TOLERANCE = 1e-3  # float32 sums of hundreds of terms, in another order once channels are gone
# of mAP50-95 on 60 images: INT8 loses a few tenths of a point, a misplaced quantizer tens of points
INT8_DROP = 0.03


@pytest.fixture(scope="module")
def data(real_data):
    return read_data(real_data / "coco/coco-mini.yaml")


@pytest.mark.parametrize("name", WEIGHTS)
def test_pruned_weights_equal_masked_ones_and_load_in_stock(real_data, data, tmp_path, name):
    from ultralytics import YOLO

    dense = checkpoint.load_model(real_data / f"weights/{name}.pt")
    result = prune(dense, config=PruneSection(ratio=0.1, importance="l2", repair="nothing"), imgsz=IMGSZ)
    image = torch.from_numpy(next(image_batches(data.val[:2], IMGSZ)))
    with torch.no_grad():
        exact, pruned = (model.eval()(image)[1] for model in (mask(dense, result.plan), result.model))
    for branch in ("one2many", "one2one"):
        for part in ("boxes", "scores"):
            a, b = (output.get(branch, output)[part] for output in (exact, pruned))
            assert torch.allclose(a, b, atol=LOGIT_TOLERANCE)
    checkpoint.save_model(result.model, tmp_path / "pruned.pt", facts={"prune": result.facts()})
    stock = YOLO(str(tmp_path / "pruned.pt"))
    assert sum(p.numel() for p in stock.model.parameters()) == result.params_after < result.params_before
    assert len(stock.predict(str(data.val[0]), imgsz=IMGSZ, verbose=False)) == 1


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n-int8dq", "yolo26n-int8dq"])
def test_reconstruction_brings_the_detections_back(real_data, data, name):
    """On images that it has not seen, the repaired model is nearer to the full one than BatchNorm alone brings it."""
    dense = checkpoint.load_model(real_data / f"weights/{name}.pt").eval()
    images = sample(data.train, 48, seed=0)
    held = torch.from_numpy(next(image_batches(data.val[:8], IMGSZ)))
    changes = {}
    with torch.no_grad():
        full = responses(dense, held)
        for repair in ("nothing", "batchnorm", "reconstruct"):
            config = PruneSection(flops=0.15, importance="l2", repair=repair)
            result = prune(dense, config=config, imgsz=IMGSZ, image_batches=lambda: image_batches(images, IMGSZ))
            changes[repair] = float(distance(full, responses(result.model, held), OutputWeights()).mean())
    assert changes["reconstruct"] < 0.7 * min(changes["nothing"], changes["batchnorm"])


def test_int8_keeps_the_accuracy_of_float(real_data, data, tmp_path):
    source = tmp_path / "yolov8n.pt"
    shutil.copy(real_data / "weights/yolov8n.pt", source)
    floating = export_onnx(source, tmp_path / "float.onnx", imgsz=IMGSZ)
    images = sample(data.train, 32, seed=0)
    made = quantize_onnx(floating, tmp_path / "int8.onnx", images=images, imgsz=IMGSZ, target="onnxruntime")
    sessions = [engine_for(path).load(path, threads=1) for path in (floating, made.path)]
    truth, found = detect(sessions, data.val[:60], imgsz=IMGSZ)
    exact, quantized = (evaluate(truth, detections, classes=80).map50_95 for detections in found)
    assert exact > 0.25
    assert exact - INT8_DROP < quantized
    assert not np.isclose(exact, quantized, atol=1e-9), "nothing was quantized"


TAUGHT = (
    ("yolov8n", "yolov8s"),
    ("yolov8n", "yolo11n-int8dq"),
    ("yolo11n-int8dq", "yolov8s"),
    ("yolo26n-int8dq", "yolo26n-int8dq"),
    ("pruned yolov8n", "yolov8n"),
)


@pytest.mark.parametrize(("student", "teacher"), TAUGHT)
def test_a_step_brings_a_student_nearer_to_its_teacher(real_data, data, student, teacher):
    model = checkpoint.load_model(real_data / f"weights/{student.removeprefix('pruned ')}.pt")
    if student.startswith("pruned"):
        model = prune(model, config=PruneSection(ratio=0.2, importance="l2", repair="nothing"), imgsz=IMGSZ).model
    if student == teacher:  # a student that already says what its teacher says has nothing to learn
        with torch.no_grad():
            model.model[4].cv2.conv.weight.mul_(0.9)
    guide = Teacher(real_data / f"weights/{teacher}.pt")
    side = Side(model, head_channels(model), "student")
    names = checkpoint.names(model)
    guide.check_levels(side)
    numbers = guide.class_index(names)
    guide.prepare(numbers, (), device=torch.device("cpu"), cache=False)
    wanted = DistillSection().losses
    losses = [LOSSES[n].build(Pair(side, guide.side, n, LossOptions(), numbers)) for n in wanted]
    parts = [model, *(loss.modules() for loss in losses)]
    model.requires_grad_().eval().model[-1].training = True
    images = torch.from_numpy(next(image_batches(data.train[:4], IMGSZ)))
    scene = Scene((IMGSZ, IMGSZ), len(images))
    answer = guide(images)

    def total():
        said = Answer.read(model(images), {})
        return sum(loss(said, answer, scene).sum() for loss in losses)

    before = total()
    optimizer = torch.optim.SGD([p for part in parts for p in part.parameters() if p.requires_grad], lr=1e-6)
    before.backward()
    optimizer.step()
    with torch.no_grad():
        after = total()
    assert 0 < after < before


def test_a_detector_of_two_classes_is_as_good_at_them_as_the_detector_of_all(real_data, data, tmp_path):
    weights = real_data / "weights/yolov8n.pt"
    made = classes(weights, data=data.path, keep=["car", "person"], project=tmp_path)
    found = []
    for path, spec, numbers in ((weights, data, (2, 0)), (made.checkpoint.path, read_data(made.data.path), (0, 1))):
        session = engine_for(path).load(path, device="cpu")
        truth, detections = detect([session], spec.val[:60], imgsz=IMGSZ)
        session.close()
        per_class = evaluate(truth, detections[0], classes=len(spec.names)).per_class
        found.append([per_class[number] for number in numbers])
    assert found[1] == pytest.approx(found[0], abs=1e-3)  # the most detections of an image now all go to two classes
    assert min(found[1]) > 0.1
