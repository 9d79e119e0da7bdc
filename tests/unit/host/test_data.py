# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Data: what the validator sees is what we see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model
from yolo_compress.errors import DataError
from yolo_compress.host import data, detect


def test_reads_names_and_images_in_order(tiny_data):
    spec = data.read_data(tiny_data)
    assert spec.names == ("disc", "box", "bar")
    assert len(spec.train) == 8
    assert list(spec.val) == sorted(spec.val)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: a}\ntrain: images/train\n", "has no 'val' images"),
        ("names: {0: a}\nval: images/val\n", "has no 'train' images"),
        ("train: images/train\nval: images/val\n", "has no 'names'"),
        ("names: {0: a}\ntrain: images/train\nval: images/nowhere\n", "correct the path"),
    ],
)
def test_incomplete_yaml(tiny_data, text, message):
    tiny_data.write_text(text)
    with pytest.raises(DataError, match=message):
        data.read_data(tiny_data)


def test_missing_yaml(tmp_path):
    with pytest.raises(DataError, match="give a data YAML"):
        data.read_data(tmp_path / "no.yaml")


def test_list_of_images_as_a_split(tiny_data):
    files = sorted((tiny_data.parent / "images" / "val").iterdir())
    (tiny_data.parent / "val.txt").write_text("\n".join(f"images/val/{f.name}" for f in files[:2]))
    tiny_data.write_text("train: images/train\nval: val.txt\nnames: [disc, box, bar]\n")
    assert data.read_data(tiny_data).val == tuple(files[:2])


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (31, 77), (200, 100), (64, 64)])
def test_letterbox_equals_the_validators(tmp_path, shape):
    import cv2
    from ultralytics.cfg import get_cfg
    from ultralytics.data import YOLODataset

    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind / "val").mkdir(parents=True)
    file = tmp_path / "images" / "val" / "a.png"
    image = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
    cv2.imwrite(str(file), image)
    (tmp_path / "labels" / "val" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    dataset = YOLODataset(
        img_path=str(file.parent),
        imgsz=64,
        augment=False,
        hyp=get_cfg(),
        rect=False,
        data={"names": {0: "a"}, "channels": 3},
    )
    theirs = dataset[0]
    ours, scale, pad = data.letterbox(data.read_image(file), 64)
    assert np.array_equal(theirs["img"].numpy(), ours)
    (gain_y, gain_x), (left, top) = theirs["ratio_pad"]
    assert scale == pytest.approx((gain_x, gain_y))
    assert pad == pytest.approx((left, top), abs=1)


def test_boxes_return_to_where_they_were():
    boxes = np.array([[10, 20, 30, 40, 0.9, 1]], np.float32)
    scale, pad = (0.5, 0.25), (3, 7)
    there = boxes.copy()
    there[:, [0, 2]] = there[:, [0, 2]] * scale[0] + pad[0]
    there[:, [1, 3]] = there[:, [1, 3]] * scale[1] + pad[1]
    assert np.allclose(detect.to_original(there, scale=scale, pad=pad, shape=(200, 100)), boxes)
    assert detect.to_original(there, scale=scale, pad=pad, shape=(30, 25))[0, 2] == 25


def test_labelled_batches_equal_the_trainers_loss(tiny_data):
    from ultralytics.data import YOLODataset

    from yolo_compress.host.checkpoint import training_args

    spec = data.read_data(tiny_data)
    ours = next(data.labelled_batches(spec, 64, batch=8))
    dataset = YOLODataset(
        img_path=str(spec.train[0].parent),
        imgsz=64,
        augment=False,
        hyp=training_args(tiny_model()),
        rect=False,
        data={"names": dict(enumerate(spec.names)), "channels": 3},
    )
    theirs = dataset.collate_fn([dataset[i] for i in range(8)])
    assert np.allclose(ours["img"], theirs["img"].float() / 255)
    for key in ("batch_idx", "cls", "bboxes"):
        assert torch.allclose(ours[key], theirs[key].float(), atol=1e-5), key


@pytest.mark.parametrize("family", ["yolov8n", "yolo26n"])
def test_detection_loss_reaches_every_weight_and_leaves_the_model(tiny_data, family):
    spec, model = data.read_data(tiny_data), tiny_model(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    args = getattr(model, "args", None)
    loss = detect.detection_loss(model, next(data.labelled_batches(spec, 64, batch=4)))
    loss.backward()
    assert loss.ndim == 0
    assert all(p.grad is not None for name, p in model.named_parameters() if ".dfl." not in name)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert getattr(model, "args", None) is args


def test_sample_is_deterministic_and_ordered():
    files = tuple(range(100))
    assert data.sample(files, 10, seed=3) == data.sample(files, 10, seed=3)
    assert list(data.sample(files, 10, seed=3)) == sorted(data.sample(files, 10, seed=3))
    assert data.sample(files, 10, seed=3) != data.sample(files, 10, seed=4)
    assert data.sample(files, None, seed=0) == files


def test_unreadable_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.jpg' cannot be read"):
        data.read_image(tmp_path / "a.jpg")


def test_bad_label_row_is_named(tiny_data):
    spec = data.read_data(tiny_data)
    label = tiny_data.parent / "labels" / "train" / (spec.train[0].stem + ".txt")
    label.write_text("0 0.5 0.5 0.2\n1 a b c d\n")
    with pytest.raises(DataError, match=r"are not rows of"):
        data.labels_for(spec.train[:1])
