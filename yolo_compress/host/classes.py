# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Some of the classes of a detector, as a detector of its own.

A class costs a detector one row in the last layer of each class tower, so leaving classes out saves next to nothing by
itself. What it changes is what pruning is held to: a channel that only told a cat from a dog is worth nothing to a
detector of persons, and scores and repair that look at the detections see that.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from yolo_compress.errors import UnsupportedModel, UsageError, suggest
from yolo_compress.host.checkpoint import facts, name_classes, names, plain_args, set_facts
from yolo_compress.host.detect import class_outputs
from yolo_compress.host.ultralytics import Detect, DetectionModel

FACT = "classes"


def class_numbers(known: Sequence[str], keep: Sequence[str | int], *, of: str) -> tuple[int, ...]:
    """Return the numbers of the classes to keep, in the order in which they are named.

    Args:
        known: Names of all classes, in class order.
        keep: Names, of which case and surrounding blanks do not count unless only they differ, or numbers.
        of: Whose classes they are, for messages.

    Raises:
        UsageError: Nothing is kept, something is named twice, or a class is not known.
    """
    if not keep:
        raise UsageError("no class is kept; name some, such as keep=person,car")
    exact = {name: number for number, name in enumerate(known)}
    found = []
    for item in keep:
        number = exact.get(str(item))
        alike = [name for name in known if _plain(name) == _plain(item)]
        if number is None and len(alike) > 1:
            raise UsageError(f"'{item}' may be any of {', '.join(alike)} of {of}; write it as one of them")
        number = exact[alike[0]] if number is None and alike else number
        if number is None and str(item).strip().isdecimal():
            number = int(item)
            if number >= len(known):
                raise UsageError(f"{of} has no class {number}; its {len(known)} classes end at {len(known) - 1}")
        if number is None:
            raise UsageError(f"{of} has no class '{item}'; {suggest(str(item), known)}")
        found.append(number)
    twice = next((number for number in found if found.count(number) > 1), None)
    if twice is not None:
        raise UsageError(f"class '{known[twice]}' is named twice in keep; name it once")
    return tuple(found)


def keep_classes(model: DetectionModel, kept: Sequence[int]) -> DetectionModel:
    """Return a copy of a detector that answers for some of its classes, with just the scores that it gave them.

    Args:
        model: Unfused; left as it is.
        kept: Numbers of the classes, which are numbered anew in this order.

    Raises:
        UnsupportedModel: The head is none of those whose class outputs are known.
        UsageError: The model was trained quantized, and its scales are those of all classes.
    """
    if type(model.model[-1]) is not Detect:
        raise UnsupportedModel(
            f"a head of type {type(model.model[-1]).__name__} has class outputs that are not known here; give a "
            "detector of the families YOLOv8, YOLO11 or YOLO26"
        )
    told = facts(model)
    if "qat" in told:
        raise UsageError(
            "the model was trained quantized and carries scales of its class outputs; leave classes out of the float "
            "checkpoint, then train quantized"
        )
    result, before = deepcopy(model), names(model)
    index = torch.tensor(list(kept))
    for name, old in class_outputs(result).items():
        new = nn.Conv2d(old.in_channels, len(kept), old.kernel_size, bias=old.bias is not None)
        new = new.to(old.weight.device, old.weight.dtype).train(old.training)
        with torch.no_grad():
            new.weight.copy_(old.weight[index])
            if old.bias is not None:
                new.bias.copy_(old.bias[index])
        for ours, theirs in zip(new.parameters(), old.parameters(), strict=True):
            ours.requires_grad_(theirs.requires_grad)
        tower, _, place = name.rpartition(".")
        result.get_submodule(tower)[int(place)] = new
    name_classes(result, {number: before[old] for number, old in enumerate(kept)})
    for layer in result.model:
        if hasattr(layer, "np"):  # the parameter count that Ultralytics prints per layer
            layer.np = sum(p.numel() for p in layer.parameters())
    result.args = {**plain_args(result), "data": None}  # stock validation would take data with all classes
    set_facts(result, {**told, FACT: {"before": len(before), "kept": [before[old] for old in kept]}})
    return result


def _plain(name: str | int) -> str:
    return str(name).strip().lower()
