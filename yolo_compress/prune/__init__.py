# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Pruning: channels, attention heads, blocks and single weights of a trained model, inside the same stock classes."""

from yolo_compress.prune.allocation import Plan, Target, Widths, allocate, check_reachable
from yolo_compress.prune.blocks import BlockRow, residual_blocks, take_blocks, without
from yolo_compress.prune.graph import ChannelGraph, build_graph
from yolo_compress.prune.importance import IMPORTANCES, Importance, normalised
from yolo_compress.prune.inputs import Inputs
from yolo_compress.prune.latency import Timing
from yolo_compress.prune.oneshot import LayerRow, PruneResult, prune
from yolo_compress.prune.reconstruct import reconstruct_
from yolo_compress.prune.repair import reestimate_, repair_
from yolo_compress.prune.surgery import apply
from yolo_compress.prune.timed import layer_times
from yolo_compress.prune.verify import mask, unfold
from yolo_compress.prune.weights import (
    Masks,
    apply_masks_,
    compressed_bytes,
    mask_weights_,
    set_masks_,
    zero_share,
)

__all__ = (
    "IMPORTANCES",
    "BlockRow",
    "ChannelGraph",
    "Importance",
    "Inputs",
    "LayerRow",
    "Masks",
    "Plan",
    "PruneResult",
    "Target",
    "Timing",
    "Widths",
    "allocate",
    "apply",
    "apply_masks_",
    "build_graph",
    "check_reachable",
    "compressed_bytes",
    "layer_times",
    "mask",
    "mask_weights_",
    "normalised",
    "prune",
    "reconstruct_",
    "reestimate_",
    "repair_",
    "residual_blocks",
    "set_masks_",
    "take_blocks",
    "unfold",
    "without",
    "zero_share",
)
