# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The two detectors of the demonstration: YOLOv8 layer for layer, but so narrow that two cores train them fast."""

from __future__ import annotations

from dataclasses import dataclass

# Three levels at strides 8, 16 and 32 as in yolov8.yaml, every block once. reg_max 8 instead of 16: at the stride of 8
# it reaches 56 pixels from the centre, further than half of the largest part, and it halves the cost of the head.
_LAYERS = """\
nc: {classes}
reg_max: 8
backbone:
  - [-1, 1, Conv, [{c1}, 3, 2]]  # 0-P1/2
  - [-1, 1, Conv, [{c2}, 3, 2]]  # 1-P2/4
  - [-1, 1, C2f, [{c2}, True]]
  - [-1, 1, Conv, [{c3}, 3, 2]]  # 3-P3/8
  - [-1, 1, C2f, [{c3}, True]]
  - [-1, 1, Conv, [{c4}, 3, 2]]  # 5-P4/16
  - [-1, 1, C2f, [{c4}, True]]
  - [-1, 1, Conv, [{c5}, 3, 2]]  # 7-P5/32
  - [-1, 1, C2f, [{c5}, True]]
  - [-1, 1, SPPF, [{c5}, 5]]  # 9
head:
  - [-1, 1, nn.Upsample, [None, 2, "nearest"]]
  - [[-1, 6], 1, Concat, [1]]
  - [-1, 1, C2f, [{c4}]]  # 12
  - [-1, 1, nn.Upsample, [None, 2, "nearest"]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C2f, [{c3}]]  # 15-P3/8
  - [-1, 1, Conv, [{c3}, 3, 2]]
  - [[-1, 12], 1, Concat, [1]]
  - [-1, 1, C2f, [{c4}]]  # 18-P4/16
  - [-1, 1, Conv, [{c4}, 3, 2]]
  - [[-1, 9], 1, Concat, [1]]
  - [-1, 1, C2f, [{c5}]]  # 21-P5/32
  - [[15, 18, 21], 1, Detect, [nc]]
"""


@dataclass(frozen=True)
class DemoModel:
    """A detector to train from random weights.

    Attributes:
        name: What its files are called.
        widths: Channels at strides 2, 4, 8, 16 and 32.
        epochs: Passes over the training pictures.
    """

    name: str
    widths: tuple[int, int, int, int, int]
    epochs: int

    def architecture(self, classes: int) -> str:
        """Return the text of its Ultralytics model YAML."""
        c1, c2, c3, c4, c5 = self.widths
        return _LAYERS.format(classes=classes, c1=c1, c2=c2, c3=c3, c4=c4, c5=c5)


TEACHER = DemoModel("teacher", (16, 32, 64, 96, 128), epochs=40)
STUDENT = DemoModel("student", (16, 24, 32, 48, 64), epochs=25)
DEMO_MODELS = (TEACHER, STUDENT)

TRAINING = {  # settings of `yolo train` for both
    "batch": 16,
    "nbs": 16,  # a step on every batch; the default accumulates to 64 images
    "optimizer": "AdamW",
    "lr0": 0.004,
    "cos_lr": True,
    "warmup_epochs": 1,
    "warmup_bias_lr": 0.0,
    "mosaic": 0.0,
    "scale": 0.2,
    "translate": 0.05,
    "flipud": 0.5,  # parts lie either way up
    "hsv_h": 0.0,  # the drawing varies light and colour itself
    "hsv_s": 0.0,
    "hsv_v": 0.0,
    "cls": 1.0,
    "amp": False,  # its check would download a model
    "cache": "ram",
    "workers": 0,
    "plots": False,
    "val": False,  # the last epoch is validated anyway
    "verbose": False,
}
