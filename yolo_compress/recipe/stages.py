# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Options of the stages that follow pruning: training, quantization, engines, the benchmark and the gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, field_validator, model_validator

from yolo_compress.errors import suggest
from yolo_compress.recipe.options import ENGINE_PRECISIONS, Names, Section, Setting, option, parts

Target = Literal["openvino", "onnxruntime", "tensorrt"]
CORRUPTION_GROUPS = {
    "noise": ("gaussian_noise", "shot_noise"),
    "blur": ("defocus_blur", "motion_blur"),
    "light": ("brightness", "contrast"),
    "jpeg": ("jpeg",),
    "haze": ("haze",),
}
CORRUPTION_NAMES = tuple(name for group in CORRUPTION_GROUPS.values() for name in group)
NATIVE_CANDIDATES = ("native:fp32", "native:int8", "native:onnx-fp32", "native:onnx-int8")


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else parts(value)


Severities = Annotated[tuple[int, ...], BeforeValidator(_several)]


class TrainSection(Section):
    """The training run that recovers accuracy."""

    fast_cpu: bool = option(
        False,
        "On a CPU: channels_last, loader processes that overlap with compute, and bfloat16 where amp=bf16.",
        flag="fast_cpu",
    )
    settings: dict[str, Setting] = option(
        {}, "Settings of `yolo train`, such as epochs, batch, lr0; checked against the installed Ultralytics."
    )

    @field_validator("settings", mode="before")
    @classmethod
    def _single_values(cls, value: Any) -> Any:
        for name, setting in value.items() if isinstance(value, dict) else ():
            if isinstance(setting, Mapping):
                raise ValueError(f"'{name}' is a mapping; settings of `yolo train` are single values or lists")
        return value


class QuantizeSection(Section):
    """Post-training quantization, to INT8 where nothing else is said."""

    target: Target = option("openvino", "Runtime whose quantization scheme is followed.", flag="quantize_target")
    range: Literal["mse", "minmax", "average", "percentile", "entropy", "auto"] = option(
        "mse", "How activation ranges are chosen.", flag="quantize_range"
    )
    images: int = option(256, "Training images that ranges are chosen on.", flag="quantize_images", ge=1)
    calibration: str | None = option(
        None,
        "Manifest of the images that ranges are chosen on, in place of a random draw; see `yolo-compress calib`.",
        flag="quantize_calibration",
    )
    keep: Names = option((), "Layers left in float, by module name or prefix, such as model.22.", flag="quantize_keep")
    weight_form: Literal["uniform", "binary", "ternary", "pow2", "codebook", "fp16", "bf16"] = option(
        "uniform",
        "Kind of values that weights become; all but the first simulate or save space.",
        flag="quantize_weight_form",
    )
    weight_bits: int | None = option(
        None,
        "Bits of a weight's code; 8 when not given, 4 for pow2 and codebook. Other than 8 a simulation, or packed.",
        flag="quantize_weight_bits",
        ge=1,
        le=16,
    )
    weight_group: int | None = option(
        None,
        "Input channels that share a weight scale; else one per output channel.",
        flag="quantize_weight_group",
        ge=1,
    )
    weight_storage: Literal["bytes", "packed"] = option(
        "bytes", "packed stores codes of at most 4 bits two to a byte, as INT4.", flag="quantize_weight_storage"
    )
    activations: Literal["static", "dynamic", "none"] = option(
        "static",
        "Ranges of activations: chosen on images, found while the model runs, or none at all (float).",
        flag="quantize_activations",
    )
    activation_bits: int = option(
        8, "Bits of an activation's code; other than 8 a simulation.", flag="quantize_activation_bits", ge=2, le=16
    )
    rounding: Literal["nearest", "adaround"] = option(
        "nearest", "How codes of weights are chosen.", flag="quantize_rounding"
    )
    max_drop: float | None = option(
        None,
        "Give layers back to float, the most costly first, until at most so many mAP50-95 points are lost.",
        flag="quantize_max_drop",
        gt=0,
    )
    latency: float | None = option(
        None,
        "Time that the model may take, as a share of the float model's on `target`, in (0, 1); as far as that allows, "
        "layers go back to float, those that cost most for the time that INT8 saves in them.",
        flag="quantize_latency",
        gt=0,
        lt=1,
    )
    timed: bool = option(
        False,
        "With max_drop: give back what costs most for the time that INT8 was measured to save in it on `target`.",
        flag="quantize_timed",
    )
    bias_correction: bool = option(
        False, "Fit biases layer by layer, so that outputs stay what they were.", flag="quantize_bias_correction"
    )
    repair_images: int = option(
        64,
        "Of the calibration images, how many rounding and bias_correction look at; memory and time grow with them.",
        flag="quantize_repair_images",
        ge=1,
    )
    foreground: float = option(
        0.0,
        "Share of what rounding and bias_correction look at in an image that is drawn where the float model detects "
        "something; 0 looks everywhere alike.",
        flag="quantize_foreground",
        ge=0,
        le=1,
    )
    learned: bool = option(
        True,
        "Follow what quantization-aware training has left in a checkpoint; else choose everything anew.",
        flag="quantize_learned",
    )

    @model_validator(mode="after")
    def _repaired_where_it_is_said_how(self) -> QuantizeSection:
        given = [
            name
            for name in ("repair_images", "foreground")
            if getattr(self, name) != type(self).model_fields[name].default
        ]
        if given and self.rounding == "nearest" and not self.bias_correction:
            raise ValueError(
                f"{given[0]}={getattr(self, given[0])} says what rounding and bias_correction look at, and neither is "
                "asked for; give rounding=adaround or bias_correction=True (as flags: quantize_rounding=adaround), or "
                f"leave {given[0]} out"
            )
        return self

    @model_validator(mode="after")
    def _timed_for_something(self) -> QuantizeSection:
        if self.timed and self.max_drop is None and self.latency is None:
            raise ValueError(
                "timed says how layers are chosen that go back to float, and without max_drop or latency none do; give "
                "max_drop=0.3 (as a flag: quantize_max_drop=0.3), or leave timed out"
            )
        return self


class QatSection(Section):
    """Quantization-aware training, in the form that the quantize section describes."""

    precision: Literal["int8"] = option("int8", "Train quantized, in the form of the quantize section.", flag="qat")
    freeze: float = option(
        1.0,
        "Share of the run after which scales and BatchNorm statistics stay as they are.",
        flag="qat_freeze",
        ge=0,
        le=1,
    )
    batchnorm: Literal["batch", "frozen"] = option(
        "frozen",
        "What BatchNorm normalizes by in training: the statistics it came with, or the batch, as in float training.",
        flag="qat_batchnorm",
    )
    self_distill: bool = option(
        True,
        "Where no teacher is named, the float model as it was given teaches: alone, or beside the labels if the recipe "
        "prunes as well. False trains on labels alone.",
        flag="qat_self_distill",
    )


class BuildSection(Section):
    """The engines to build, each `runtime:precision`."""

    engines: Names = option(("openvino:int8",), "Engines to build, such as openvino:int8.", flag="engines")

    @field_validator("engines")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = [f"{engine}:{precision}" for engine, row in ENGINE_PRECISIONS.items() for precision in row]
        for name in value:
            if name not in known:
                raise ValueError(f"'{name}' is not an engine and precision; {suggest(name, known)}")
        return value


class BenchSection(Section):
    """What is measured and against what."""

    candidates: Names = option(
        ("native:fp32", "native:int8"), "Native exports measured beside ours.", flag="bench_candidates"
    )
    rounds: int = option(100, "Timed rounds; in each one every candidate runs once.", flag="bench_rounds", ge=3)
    warmup: int = option(10, "Rounds that are not counted.", flag="bench_warmup", ge=0)
    margin: float = option(
        0.01,
        "Rounds are added, up to four times as many in all, until ratios of latencies are known within this share; 0 "
        "adds none.",
        flag="bench_margin",
        ge=0,
    )
    patience: float = option(
        1.0,
        "Most seconds to wait for undisturbed cores, for each second of measuring latency; 0 does not look.",
        flag="bench_patience",
        ge=0,
    )
    threads: int | None = option(None, "Threads of each runtime; all cores when not given.", flag="bench_threads", ge=1)
    images: int | None = option(None, "Validation images to use; all when not given.", flag="bench_images", ge=1)
    batch: int | None = option(
        None, "Batch size of a second measurement of images/s; none when not given.", flag="bench_batch", ge=1
    )
    streams: int | None = option(
        None,
        "Streams that run at the same time, to measure images/s and latency of each; none when not given.",
        flag="bench_streams",
        ge=1,
    )
    power: bool = option(
        False, "Measure energy as well, where the machine has a sensor that can be read.", flag="bench_power"
    )
    power_seconds: float = option(
        30.0, "Seconds that each candidate runs for its energy.", flag="bench_power_seconds", ge=1
    )
    latency: float | None = option(
        None, "Most milliseconds of one image, for the recommendation of an edge device.", flag="bench_latency", gt=0
    )
    size: float | None = option(
        None, "Most MB on disk, for the recommendation of a microcontroller-like device.", flag="bench_size", gt=0
    )
    max_drop: float | None = option(
        None,
        "Most mAP50-95 points below the first candidate, for every recommendation.",
        flag="bench_max_drop",
        gt=0,
    )
    pictures: int = option(
        4,
        "Validation images to show before and after, those on which candidates differ most; 0 for none.",
        flag="bench_pictures",
        ge=0,
    )
    roofline: bool = option(
        False,
        "Measure what this machine computes and copies at most, and hold the time of every layer to it.",
        flag="bench_roofline",
    )
    robustness: bool = option(
        False, "Measure accuracy on corrupted images as well, under all corruptions.", flag="bench_robustness"
    )
    corruptions: Names = option(
        (), "Only these corruptions, or groups: noise, blur, light, jpeg, haze.", flag="bench_corruptions"
    )
    severities: Severities = option(
        (1, 3, 5), "Severities of each corruption, from 1 to 5; more of them take longer.", flag="bench_severities"
    )
    robustness_images: int = option(
        100, "Validation images to corrupt, evenly spaced over those used.", flag="bench_robustness_images", ge=1
    )

    @property
    def corrupted(self) -> tuple[str, ...]:
        """Return the corruptions to measure under: those named, all of them with `robustness` alone, or none."""
        return self.corruptions or (CORRUPTION_NAMES if self.robustness else ())

    @field_validator("corruptions")
    @classmethod
    def _corruptions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names: list[str] = []
        for name in value:
            if name not in CORRUPTION_GROUPS and name not in CORRUPTION_NAMES:
                known = dict.fromkeys((*CORRUPTION_GROUPS, *CORRUPTION_NAMES))
                raise ValueError(f"'{name}' is not a corruption; {suggest(name, known)}")
            names += CORRUPTION_GROUPS.get(name, (name,))
        return tuple(dict.fromkeys(names))

    @field_validator("severities")
    @classmethod
    def _severities(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not all(1 <= severity <= 5 for severity in value):
            raise ValueError(f"{','.join(map(str, value)) or 'nothing'} are not severities; give some of 1,2,3,4,5")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _corrupted(self) -> BenchSection:
        for name in ("severities", "robustness_images"):
            if not self.corrupted and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of corrupted images, and none are asked for; add robustness=True")
        return self

    @field_validator("candidates")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in NATIVE_CANDIDATES:
                raise ValueError(f"'{name}' is not a native candidate; {suggest(name, NATIVE_CANDIDATES)}")
        return value


class GateSection(Section):
    """Accuracy gates: the most mAP50-95 points each stage may leave the model below the one that was given."""

    train: float | None = option(
        None, "Most mAP50-95 points below the given model after training.", flag="max_drop", gt=0
    )
    quantize: float | None = option(
        None, "Most mAP50-95 points below the given model after quantization.", flag="max_drop_quantize", gt=0
    )
    on_fail: Literal["stop", "step_back"] = option(
        "stop",
        "At a gate that is not met: stop with exit code 3, or carry on from the last artifact that passed.",
        flag="gate_on_fail",
    )
