# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Every Ultralytics name that yolo_compress uses, in one place; `tests/contract` checks each of them."""

from __future__ import annotations

from ultralytics import YOLO
from ultralytics import __version__ as version
from ultralytics.cfg import (
    DEFAULT_CFG_DICT,
    check_dict_alignment,
    entrypoint,
    get_cfg,
    merge_equals_args,
    parse_key_value_pair,
)
from ultralytics.data.augment import LetterBox
from ultralytics.data.utils import IMG_FORMATS, img2label_paths
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.modules.block import C2PSA, C3, DFL, SPPF, Attention, Bottleneck, C2f, C3k, C3k2, PSABlock
from ultralytics.nn.modules.conv import Concat, Conv, DWConv
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import DetectionModel, load_checkpoint
from ultralytics.utils import ARGV, DATASETS_DIR, LOGGER, RANK, YAML
from ultralytics.utils.checks import check_yaml
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.torch_utils import ModelEMA, strip_optimizer, unwrap_model

__all__ = (
    "ARGV",
    "C2PSA",
    "C3",
    "DATASETS_DIR",
    "DEFAULT_CFG_DICT",
    "DFL",
    "IMG_FORMATS",
    "LOGGER",
    "RANK",
    "SPPF",
    "YAML",
    "YOLO",
    "Attention",
    "Bottleneck",
    "C2f",
    "C3k",
    "C3k2",
    "Concat",
    "Conv",
    "DWConv",
    "Detect",
    "DetectionModel",
    "DetectionTrainer",
    "LetterBox",
    "ModelEMA",
    "PSABlock",
    "check_dict_alignment",
    "check_yaml",
    "entrypoint",
    "get_cfg",
    "img2label_paths",
    "load_checkpoint",
    "merge_equals_args",
    "non_max_suppression",
    "parse_key_value_pair",
    "strip_optimizer",
    "unwrap_model",
    "version",
)
