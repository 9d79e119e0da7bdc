# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints: read with care, written so that stock Ultralytics loads them without this package."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from yolo_compress.artifacts import Checkpoint, atomic_path, sha256_path
from yolo_compress.errors import DataError, UnsupportedModel
from yolo_compress.host.ultralytics import (
    DEFAULT_CFG_DICT,
    LOGGER,
    Conv,
    Detect,
    DetectionModel,
    get_cfg,
    load_checkpoint,
    unwrap_model,
    version,
)

FACTS = "yolo_compress"  # attribute of the model, a plain dict, that carries our facts through every checkpoint
TRUSTED = {"ultralytics", "torch", "torchvision", "collections", "numpy", "builtins", "__builtin__", "pathlib"}
TRUSTED |= {"_codecs", "functools", "copyreg", "types", "datetime", "argparse"}


def load_model(path: str | Path) -> DetectionModel:
    """Load a detection checkpoint as an unfused float32 model in eval mode on the CPU.

    The classes that a checkpoint names are read before anything is unpickled, and nothing is ever downloaded.

    Raises:
        DataError: The file is missing or is not a readable checkpoint.
        UnsupportedModel: It holds another task, an end product such as a fused model, or classes from elsewhere.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"weights '{path}' do not exist; give the path of a trained checkpoint, such as best.pt")
    if path.suffix != ".pt":
        raise DataError(f"'{path}' is not a checkpoint; give a .pt file, such as best.pt")
    foreign = sorted({name for name in _pickled_classes(path) if name.partition(".")[0] not in TRUSTED})
    if foreign:
        raise UnsupportedModel(
            f"'{path}' refers to classes outside of Ultralytics and torch ({', '.join(foreign[:3])}), which would run "
            "foreign code when loaded; give a checkpoint that stock Ultralytics saved"
        )
    try:
        model, _ = load_checkpoint(path)
    except Exception as error:  # a damaged file surfaces as any of a dozen types
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"'{path}' cannot be loaded as a checkpoint ({reason}); train or copy it again") from error
    check_supported(model, str(path))
    for key, parameter in model.named_parameters():
        parameter.requires_grad = ".dfl." not in key  # saved checkpoints have every gradient off
    return model


def check_supported(model: nn.Module, source: str) -> None:
    """Refuse models that yolo_compress does not handle.

    Raises:
        UnsupportedModel: Not a detection model with a stock Detect head, or already fused.
    """
    task = getattr(model, "task", "detect")
    if not isinstance(model, DetectionModel) or task != "detect":
        raise UnsupportedModel(
            f"'{source}' is a {task} model ({type(model).__name__}); only detect models are supported "
            "(YOLOv8, YOLO11, YOLO26)"
        )
    head = model.model[-1]
    if type(head) is not Detect:
        raise UnsupportedModel(
            f"'{source}' ends in {type(head).__name__}; only models that end in Detect are supported "
            "(YOLOv8, YOLO11, YOLO26)"
        )
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        raise UnsupportedModel(f"'{source}' is fused for inference; give the checkpoint from before fusing")


def save_model(model: nn.Module, path: str | Path, *, facts: Mapping[str, Any] | None = None) -> Checkpoint:
    """Write a model as `write_model` does, and say what the file is, which takes a pass of the model.

    Raises:
        OutputError: The file cannot be written.
    """
    write_model(model, path, facts=facts)
    return describe(path)


def write_model(model: nn.Module, path: str | Path, *, facts: Mapping[str, Any] | None = None) -> None:
    """Write a model as a stock checkpoint in half precision, as training leaves it after stripping.

    Args:
        model: Left untouched; hooks, gradients and training state do not reach the file.
        path: Written whole or not at all.
        facts: What was done, in built-in types; kept on the model as `model.yolo_compress`.

    Raises:
        OutputError: The file cannot be written.
    """
    snapshot = deepcopy(unwrap_model(model)).cpu().float().eval()
    if facts is not None:
        set_facts(snapshot, facts)
    snapshot.criterion = None
    train_args = plain_args(snapshot)
    snapshot.args = train_args
    snapshot.half()
    for parameter in snapshot.parameters():
        parameter.requires_grad = False
        parameter.grad = None
    content = {
        "epoch": -1,
        "best_fitness": None,
        "model": snapshot,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": train_args,
        "date": datetime.now().astimezone().isoformat(),
        "version": version,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def describe(path: str | Path, imgsz: int = 640) -> Checkpoint:
    """Read what a checkpoint is: its hash, class names, parameters and operations at `imgsz` pixels."""
    model = load_model(path)
    params, gflops = count(model, imgsz)
    return Checkpoint(Path(path), sha256_path(path), names(model), params, gflops, imgsz)


def saved_epoch(path: str | Path) -> int | None:
    """Return the last epoch that a training checkpoint holds, -1 for a finished one, None for an unreadable file."""
    try:
        model_classes = _pickled_classes(Path(path))
        if any(name.partition(".")[0] not in TRUSTED for name in model_classes):
            return None
        return int(torch.load(path, map_location="cpu", weights_only=False).get("epoch", -1))
    except (DataError, RuntimeError, EOFError, OSError, pickle.UnpicklingError):
        return None


def facts(model: nn.Module) -> dict[str, Any]:
    """Return what yolo_compress did to a model, or an empty dict."""
    return dict(getattr(unwrap_model(model), FACTS, None) or {})


def set_facts(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Attach facts of built-in types to a model; they travel in its checkpoints and need no class of ours to load."""
    setattr(unwrap_model(model), FACTS, dict(values))


def names(model: nn.Module) -> tuple[str, ...]:
    """Return the class names in class order."""
    found = unwrap_model(model).names
    return tuple(found[key] for key in sorted(found)) if isinstance(found, dict) else tuple(found)


def count(model: nn.Module, imgsz: int) -> tuple[int, float]:
    """Count parameters, and operations in billions at `imgsz` pixels (two per multiply-accumulate, unfused).

    Convolutions and matrix products count, element-wise work does not.
    """
    model = unwrap_model(model)
    parameter = next(model.parameters())
    image = torch.zeros(1, first_channels(model), imgsz, imgsz, device=parameter.device, dtype=parameter.dtype)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
    finally:
        model.train(was_training)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 1e9


def first_channels(model: nn.Module) -> int:
    """Return the number of image channels that a model takes."""
    return next(m.conv.in_channels for m in model.modules() if isinstance(m, Conv))


def restructured(model: nn.Module) -> bool:
    """Tell whether a model's shapes differ from what its YAML builds, so that stock training would rebuild it.

    Class-dependent shapes are compared at the model's own class count.
    """
    head = model.model[-1]
    if type(head) is not Detect:  # nothing that we could have changed
        return False
    if facts(model).get("prune"):
        return True
    level = LOGGER.level
    LOGGER.setLevel("ERROR")
    try:
        built = DetectionModel(deepcopy(model.yaml), ch=first_channels(model), nc=head.nc, verbose=False)
    finally:
        LOGGER.setLevel(level)
    theirs = {key: value.shape for key, value in built.state_dict().items()}
    return theirs != {key: value.shape for key, value in model.state_dict().items()}


def set_classes(model: DetectionModel, class_names: Mapping[int, str]) -> None:
    """Give a model a new class list in place; the last class convolutions start afresh where the count changes."""
    head = model.model[-1]
    count_ = len(class_names)
    if head.nc != count_:
        for branch in (head.cv3, getattr(head, "one2one_cv3", None)):
            for tower in branch or ():
                old = tower[-1]
                tower[-1] = nn.Conv2d(old.in_channels, count_, 1).to(old.weight.device, old.weight.dtype)
        head.nc, head.no = count_, count_ + 4 * head.reg_max
        box_biases = [tower[-1].bias.detach().clone() for tower in head.cv2]
        head.bias_init()
        for tower, bias in zip(head.cv2, box_biases, strict=True):
            tower[-1].bias.data.copy_(bias)  # bias_init also resets the box branch, which is trained and stays
    name_classes(model, class_names)


def name_classes(model: DetectionModel, class_names: Mapping[int, str]) -> None:
    """Write a class list everywhere that a model states it; its class outputs are as many already."""
    head = model.model[-1]
    head.nc = model.nc = len(class_names)
    head.no = head.nc + 4 * head.reg_max
    model.names = dict(class_names)
    model.yaml = {**model.yaml, "nc": head.nc}


def plain_args(model: nn.Module) -> dict[str, Any]:
    """Return the settings that a model was trained with, as far as Ultralytics knows them, with its defaults."""
    args = getattr(model, "args", None) or {}
    given = dict(args) if isinstance(args, Mapping) else dict(vars(args))
    return {key: value for key, value in {**DEFAULT_CFG_DICT, **given}.items() if key in DEFAULT_CFG_DICT}


def training_args(model: nn.Module) -> Any:
    """Return a model's hyperparameters as the namespace that Ultralytics' losses read."""
    return get_cfg(DEFAULT_CFG_DICT, plain_args(model))


def _pickled_classes(path: Path) -> set[str]:
    """Return the dotted module of every global that a checkpoint would import, without importing any.

    Raises:
        DataError: The file is not a torch archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
            if name is None:
                raise DataError(f"'{path}' holds no model; give a trained checkpoint, such as best.pt")
            stream = archive.read(name)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"'{path}' is not a readable checkpoint ({error}); train or copy it again") from error
    modules, strings = set(), []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            modules.add(str(argument).split(" ")[0])
        elif opcode.name == "STACK_GLOBAL":
            modules.add(strings[-2])
        elif isinstance(argument, str):
            strings.append(argument)
    return modules
