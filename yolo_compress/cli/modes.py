# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The table of modes: which keys each one takes, and what it calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from yolo_compress import recipe
from yolo_compress.cli import flags
from yolo_compress.cli.arguments import Key, Mode
from yolo_compress.errors import UsageError
from yolo_compress.recipe import Flag

MODEL = Key("model", "Checkpoint to work on; it is never changed.", "path", required=True)
DATA = Key("data", "Data YAML, as for `yolo`.", "path", required=True)
IMGSZ = Key("imgsz", "Side of the images in pixels, a multiple of 32.", "int", 640)
DEVICE = Key("device", "Where it computes: cpu, or the number of a CUDA device.", default="cpu")
PROJECT = Key("project", "Folder that collects results.", "path", "runs/compress")


def _name(help: str, default: str | None = None) -> Key:
    return Key("name", help, default=default)


def _optional(key: Key, help: str) -> Key:
    return dataclasses.replace(key, required=False, help=help)


def _options(section: str, *, without: tuple[str, ...] = ()) -> dict[str, Flag]:
    return {flag.field: flag for flag in recipe.section_options(section) if flag.field not in without}


def _api(name: str, first: str | None = "model") -> Callable[..., Any]:
    def call(**given: Any) -> Any:
        from yolo_compress import api  # imports torch

        return getattr(api, name)(*([given.pop(first)] if first in given else []), **given)

    return call


def _demo(*, project: str = "runs/demo", seed: int = 0) -> Any:
    from yolo_compress.demo import run_demo

    return run_demo(project, seed=seed)


def _doctor(*words: str) -> Any:
    if words:
        raise UsageError(f"doctor takes no keys; remove {' '.join(words)}")
    from yolo_compress import doctor

    return doctor.examine()


def _list(*words: str) -> str:
    from yolo_compress.cli import listing

    if len(words) > 1:
        raise UsageError(f"list takes one kind, not {' '.join(words)}; see: yolo-compress list help")
    return listing.listing(*words)


RECIPE_KEYS = (
    Key("recipe", "A shipped recipe or a YAML file; flags override it.", "path"),
    _optional(MODEL, "Checkpoint to compress; it is never changed."),
    _optional(DATA, "Data YAML, as for `yolo`."),
    IMGSZ,
    DEVICE,
)
_ALL = (
    Mode(
        "train",
        "`yolo train` with pruning, distillation and quantization among its settings.",
        flags.train,
        keys=(
            dataclasses.replace(MODEL, help="Checkpoint to start from, or the last.pt of a run to continue."),
            Key("recipe", "A shipped recipe or a YAML file, of which the sections that train apply.", "path"),
        ),
        more=flags.train_keys,
        implied=("detect", "mode=train", "task=detect"),
    ),
    Mode(
        "prune",
        "Remove channels from a checkpoint and write a stock checkpoint.",
        _api("prune"),
        keys=(
            MODEL,
            DATA,
            IMGSZ,
            PROJECT,
            _name("File name of the result, without suffix; the model's with _pruned when not given."),
        ),
        options=_options("prune"),
    ),
    Mode(
        "classes",
        "Leave classes out of a checkpoint and of a data set, so that what follows works for the others alone.",
        _api("classes"),
        keys=(
            Key("keep", "Classes to keep, by name or number, numbered anew in this order.", "list", required=True),
            _optional(MODEL, "Checkpoint that gets fewer class outputs; it is never changed."),
            _optional(DATA, "Data YAML, of which labels are left out; its files are never changed."),
            PROJECT,
            _name("Folder of the result; the model's name with _classes when not given."),
        ),
    ),
    Mode(
        "calib",
        "Choose training images to calibrate on, so that they cover the data set, and write their manifest.",
        _api("calib", "data"),
        keys=(
            DATA,
            Key("n", "Images to choose.", "int", 512),
            Key("seed", "Says which of equally useful images is taken, and draws the random ones.", "int", 0),
            Key("method", "How: cover, or random.", default="cover"),
            Key("labels", "Take classes, numbers and sizes of objects from the labels.", "bool", True),
            _optional(MODEL, "Float checkpoint: its activations count, and without labels its detections."),
            dataclasses.replace(IMGSZ, help="Side of the images in pixels, which sizes of objects refer to."),
            Key("weights", "Of features, such as classes=2,clutter=0; 1 where not given.", "list", ()),
            Key("balance", "From 0, bins as often as in the data set, to 1, all alike.", "float", 0.5),
            Key(
                "candidates",
                "Sets to quantize the model on, of which the one that moves detections least is kept.",
                "int",
                1,
            ),
            Key("target", "Runtime that candidates are quantized for; openvino when not given."),
            Key("range", "How their ranges are chosen, as with the set that is kept; mse when not given."),
            Key("skip_unreadable", "Leave out, and count, images that cannot be read.", "bool", False),
            Key("hashes", "Note the hash of every image, which is checked when the manifest is used.", "bool", True),
            Key("plot", "Draw the coverage beside the manifest.", "bool", True),
            Key("out", "Manifest to write; calib_data/DATA-N.json when not given.", "path"),
        ),
    ),
    Mode(
        "quantize",
        "Choose INT8 ranges on training images and write a Q/DQ ONNX.",
        _api("quantize"),
        keys=(
            MODEL,
            _optional(DATA, "Data YAML; ranges are chosen on its training images. Either this or cache."),
            Key("cache", "Calibration cache of TensorRT whose scales are taken; target is tensorrt then.", "path"),
            IMGSZ,
            PROJECT,
            _name("Folder of the result; the model's name with _int8 when not given."),
        ),
        options=_options("quantize"),
    ),
    Mode(
        "cache",
        "Turn a Q/DQ ONNX into a float ONNX and a calibration cache for TensorRT up to 10.16.",
        _api("cache"),
        keys=(
            dataclasses.replace(MODEL, help="ONNX with symmetric int8 quantizers; it is never changed."),
            Key(
                "trt_version",
                "TensorRT that is to read the cache, such as 10.3.0 or 100300; others ignore it.",
                required=True,
            ),
            Key(
                "algorithm",
                "Calibrator that is to read it: EntropyCalibration2 or MinMaxCalibration.",
                default="EntropyCalibration2",
            ),
            PROJECT,
            _name("Folder of the result; the model's name with _cache when not given."),
        ),
    ),
    Mode(
        "sensitivity",
        "Narrow or quantize each layer alone and rank layers by what that costs per time saved.",
        _api("sensitivity"),
        keys=(
            MODEL,
            DATA,
            Key("kind", "What is done to each layer: prune or quantize.", default="prune"),
            Key("share", "Share of a layer's channels to take, in (0, 1); for prune.", default=0.25),
            IMGSZ,
            Key("importance", "Score that says which channels go; for prune.", default="l2"),
            Key("range", "How activation ranges are chosen; for quantize.", default="mse"),
            Key("images", "Training images used.", "int", 64),
            Key("val_images", "Validation images for the loss of mAP; 0 goes by the detections alone.", "int", 0),
            Key("target", "Runtime and precision for milliseconds, such as openvino:int8."),
            PROJECT,
            _name("File name of the result, without suffix; the model's with _sensitivity when not given."),
        ),
    ),
    Mode(
        "build",
        "Make the file or folder that one runtime loads.",
        _api("build"),
        keys=(
            MODEL,
            Key("engine", f"Runtime: {', '.join(recipe.ENGINE_PRECISIONS)}.", default="openvino"),
            Key("precision", "fp32, fp16, bf16 or int8, as far as the runtime has it.", default="fp32"),
            _optional(DATA, "Data YAML; an int8 engine chooses its ranges on the training images."),
            IMGSZ,
            Key("calibrator", "Algorithm of a TensorRT that calibrates: entropy, minmax, percentile or legacy."),
            Key(
                "cache", "Its calibration cache: read where it fits, else written; without data=, one from mode cache."
            ),
            Key("calibration_batch", "Most images that it looks at together, 8 to 32; 16 when not given.", "int"),
            Key("float_layers", "File that names layers which it leaves in half precision, from mode cache.", "path"),
            PROJECT,
            _name("Folder of the result; the model's name, runtime and precision when not given."),
        ),
        options={**_options("quantize", without=("target",)), **_options("tensorrt")},
    ),
    Mode(
        "bench",
        "Measure accuracy and latency of checkpoints and engines, alternately in one process.",
        _api("bench"),
        keys=(
            Key("model", "What to measure, separated by commas; the first is the reference.", "list", ()),
            DATA,
            IMGSZ,
            DEVICE,
            Key(
                "cascade",
                "A cheap and a precise engine, to be measured as one as well: int8.onnx,fp32.onnx.",
                "list",
                (),
            ),
            Key("cascade_share", "Share of the images that is to go to the precise one.", "float", 0.25),
            Key(
                "native",
                f"Native exports of the first checkpoint to measure as well: {', '.join(recipe.NATIVE_CANDIDATES)}.",
                "list",
                (),
            ),
            PROJECT,
            _name("Folder of the result.", "bench"),
        ),
        options=_options("bench", without=("candidates",)),
    ),
    Mode(
        "run",
        "Do a whole recipe, from pruning to the report; or continue one.",
        flags.run,
        keys=(
            *RECIPE_KEYS,
            PROJECT,
            _name("Folder of the run; the recipe's name when not given."),
            Key("folds", "Folds of all images to run the recipe on again, for cross-validated figures.", "int", 0),
            Key("resume", "Folder of a run to continue; stands alone.", "path"),
        ),
        more=flags.run_keys,
    ),
    Mode(
        "sweep",
        "Do a recipe with several values of its flags, side by side, and report what none beats; or continue that.",
        flags.sweep,
        keys=(
            *RECIPE_KEYS,
            Key("search", "optuna, to search instead of trying every combination."),
            Key("trials", "Suggestions of a search.", "int", 20),
            Key("objective", "What a search wants beside accuracy: latency or size.", default="latency"),
            Key("search_seed", "Seed of a search.", "int", 0),
            Key("ray", "Ray cluster that trials run on: local, auto, or an address; none when not given."),
            Key("workers", "Trials at once, on Ray; loader processes of a training are set in the recipe.", "int", 1),
            Key("resume", "Folder of a sweep to continue, with ray, workers and retry_failed at most.", "path"),
            Key("retry_failed", "Run the failed trials of a continued sweep again.", "bool", False),
            PROJECT,
            _name("Folder of the sweep.", "sweep"),
        ),
        more=flags.run_keys,
    ),
    Mode(
        "report",
        "Write tables, plot and page again from what was measured.",
        _api("report", None),
        keys=(
            Key("run", "Folder of a run.", "path"),
            Key("bench", "A bench.json; either this or run.", "path"),
            Key("latency", "Most milliseconds of one image, for the recommendation of an edge device.", "float"),
            Key("size", "Most MB on disk, for the recommendation of a microcontroller-like device.", "float"),
            Key("max_drop", "Most mAP50-95 points below the first candidate, for every recommendation.", "float"),
        ),
    ),
    Mode("list", "Print what is registered.", _list, plain=True),
    Mode("doctor", "Print what this machine can do, and what it lacks.", _doctor, plain=True),
    Mode(
        "demo",
        "Draw a data set, train a detector on it, compress it and report; nothing is downloaded.",
        _demo,
        keys=(
            Key("project", "Folder for everything that is made.", "path", "runs/demo"),
            Key("seed", "Seed of the drawing and of training.", "int", 0),
        ),
    ),
)
MODES = {mode.name: mode for mode in _ALL}
