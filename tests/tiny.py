# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Small models and data that tests build instead of downloading."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FAMILIES = ("yolov8n", "yolo11n", "yolo26n")


def tiny_yaml(family: str = "yolov8n", *, nc: int = 3, width: float = 0.125) -> dict:
    """Return the YAML of a stock architecture at a fraction of its width, as a dict."""
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_yaml

    tree = YAML.load(check_yaml(f"{family[:-1]}.yaml"))
    depth, _, most = tree["scales"]["n"]
    return {**tree, "nc": nc, "scale": "n", "scales": {"n": [depth, width, most]}, "yaml_file": f"{family}.yaml"}


def tiny_model(family: str = "yolov8n", *, nc: int = 3, seed: int = 0, width: float = 0.125):
    """Build a small random model whose BatchNorm layers are not at their initial values."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(seed)
    model = DetectionModel(tiny_yaml(family, nc=nc, width=width), ch=3, nc=nc, verbose=False)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    model.names = dict(enumerate(("disc", "box", "bar", "ring", "cross")[:nc]))
    model.task = "detect"
    return model.eval()


def export_families(folder: Path, change: Callable[[Any], None] = lambda model: None) -> None:
    """Write a checkpoint and a float ONNX for 64 pixels of each family's small model, changed in place before."""
    from yolo_compress.host import checkpoint
    from yolo_compress.host.export import export_onnx

    for family in FAMILIES:
        model = tiny_model(family)
        change(model)
        checkpoint.save_model(model, folder / f"{family}.pt")
        export_onnx(folder / f"{family}.pt", folder / f"{family}.onnx", imgsz=64)


def write_data(folder: Path, *, train: int = 8, val: int = 4, size: int = 64, seed: int = 0) -> Path:
    """Write a data set of coloured rectangles in three classes and return its YAML."""
    import cv2

    rng = np.random.default_rng(seed)
    colours = ((40, 40, 220), (40, 220, 40), (220, 40, 40))
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            image = rng.integers(90, 160, (size, size, 3), dtype=np.uint8)
            rows = []
            for _ in range(2):
                cls = int(rng.integers(3))
                w, h = rng.integers(size // 5, size // 2, 2)
                x, y = rng.integers(0, size - w), rng.integers(0, size - h)
                image[y : y + h, x : x + w] = colours[cls]
                rows.append(f"{cls} {(x + w / 2) / size} {(y + h / 2) / size} {w / size} {h / size}")
            for kind in ("images", "labels"):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / "images" / split / f"{index:03}.png"), image)
            (folder / "labels" / split / f"{index:03}.txt").write_text("\n".join(rows) + "\n")
    path = folder / "data.yaml"
    path.write_text("train: images/train\nval: images/val\nnames: {0: disc, 1: box, 2: bar}\n")
    return path


def losses(folder: Path) -> list[dict[str, str]]:
    """Return the losses of each epoch as they stand in results.csv of a run, without times."""
    with (folder / "results.csv").open() as stream:
        return [{k.strip(): v for k, v in row.items() if "loss" in k} for row in csv.DictReader(stream)]


def assert_same_losses(one: Path, other: Path, *, epochs: int) -> None:
    """Hold the losses of two runs against each other, epoch by epoch."""
    import pytest

    ours, theirs = ([{k: float(v) for k, v in row.items()} for row in losses(run)] for run in (one, other))
    assert len(ours) == len(theirs) == epochs
    for expected, found in zip(ours, theirs, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
