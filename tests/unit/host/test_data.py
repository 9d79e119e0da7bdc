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


@pytest.mark.parametrize("shape", [(640, 480), (300, 500), (2100, 700), (90, 40)])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_luma_is_that_of_the_whole_image_made_smaller(tmp_path, shape, suffix):
    import cv2

    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (9, 7, 3), dtype=np.uint8), shape[::-1], interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), image)
    luma = data.read_luma(tmp_path / f"a{suffix}", 128)
    whole = cv2.imread(str(tmp_path / f"a{suffix}"), cv2.IMREAD_GRAYSCALE)
    side = min(128, max(shape))
    wanted = cv2.resize(whole, [round(n * side / max(shape)) for n in shape[::-1]], interpolation=cv2.INTER_AREA)
    assert luma.shape == wanted.shape
    assert np.abs(luma.astype(int) - wanted).mean() < 2  # levels; a reduced decoding averages in another order


@pytest.mark.parametrize(("longest", "factor"), [(0, 1), (255, 1), (256, 2), (511, 2), (512, 4), (1024, 8), (9999, 8)])
def test_a_jpeg_is_decoded_no_smaller_than_it_is_looked_at(longest, factor):
    assert data._reduction(longest, 128) == factor


def test_the_size_of_a_jpeg_is_read_from_its_header(tmp_path):
    import cv2

    image = np.zeros((31, 77, 3), np.uint8)
    for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]):
        coded = cv2.imencode(".jpg", image, options)[1].tobytes()
        assert data._jpeg_side(coded) == 77
        assert data._jpeg_side(coded[:2] + b"\xff\xe1\x00\x08" + b"notes!" + coded[2:]) == 77
        assert data._jpeg_side(coded[:20]) == 0
    assert data._jpeg_side(cv2.imencode(".png", image)[1].tobytes()) == 0
    assert data._jpeg_side(b"") == 0


def test_luma_of_what_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a picture")
    for name in ("a.jpg", "none.jpg"):
        with pytest.raises(DataError, match=rf"{name}' cannot be read"):
            data.read_luma(tmp_path / name, 128)


def test_the_root_is_what_paths_in_the_yaml_refer_to(tiny_data, tmp_path):
    assert data.read_data(tiny_data).root == tiny_data.parent
    other = tmp_path / "other.yaml"
    other.write_text(f"path: {tiny_data.parent}\n{tiny_data.read_text()}")
    assert data.read_data(other).root == tiny_data.parent
