# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The recipe as typed objects: the one definition of every option, for YAML files, flags, help and JSON Schema."""

from __future__ import annotations

import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticUndefined

from yolo_compress.errors import RecipeError

SCHEMA_VERSION = 1
ENGINE_PRECISIONS = {
    "pytorch": ("fp32", "bf16"),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
}
Loss = Literal["cwd", "response"]
OutputTerm = Literal["confidence", "localisation", "discrimination"]
ImportanceName = Literal[
    "obs", "output", "taylor", "fisher", "hessian", "l1", "l2", "bn_scale", "lamp", "fpgm", "random"
]
Target = Literal["openvino", "onnxruntime", "tensorrt"]
PRUNE_TARGETS = ("ratio", "flops", "latency")
NATIVE_CANDIDATES = ("native:fp32", "native:int8", "native:onnx-fp32", "native:onnx-int8")


def option(default: Any, help: str, *, flag: str | None = None, **limits: Any) -> Any:
    """Declare an option: its help sentence, its limits and the flag that `yolo-compress train` and `run` know it by."""
    return Field(default, description=help, json_schema_extra={"flag": flag} if flag else None, **limits)


def _parts(value: Any) -> Any:
    """Read `a,b` as a list, the way a shell gives it; brackets around it are allowed, as `yolo` allows them."""
    if isinstance(value, str):
        return [part for part in (text.strip(" '\"") for text in value.strip("[]()").split(",")) if part]
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_parts)]
Setting = bool | int | float | str | list[bool | int | float | str] | None


class Section(BaseModel):
    """A group of options; unknown keys are refused and a value cannot change once it is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PruneSection(Section):
    """Channel pruning."""

    ratio: float | None = option(None, "Share of the parameters to remove, in (0, 1).", flag="prune", gt=0, lt=1)
    flops: float | None = option(None, "Share of the operations to remove, in (0, 1).", flag="prune_flops", gt=0, lt=1)
    latency: float | None = option(
        None,
        "Time that the model may still take, as a share of today's on `target`, in (0, 1).",
        flag="prune_latency",
        gt=0,
        lt=1,
    )
    target: str | None = option(
        None, "Runtime and precision that `latency` refers to, such as openvino:int8.", flag="prune_target"
    )
    importance: ImportanceName = option(
        "obs", "Score that ranks channels; `yolo-compress list importances` says what each is.", flag="prune_importance"
    )
    scope: Literal["budget", "savings", "local", "global"] = option(
        "budget",
        "Where channels go: where the model changes least per saving (budget), where each saves most (savings), the "
        "same share everywhere (local), or the lowest scores anywhere (global).",
        flag="prune_scope",
    )
    round_to: int | None = option(
        None,
        "Widths become multiples of this, to the nearest one; when not given 8, or with `latency` what the runtime "
        "rewards.",
        flag="prune_round_to",
        ge=1,
    )
    max_share: float = option(
        0.7, "Most of a layer's channels that may go, in (0, 1).", flag="prune_max_share", gt=0, lt=1
    )
    blocks: int = option(
        0,
        "Residual blocks to take out whole, those that change the detections least for what they save; channels make "
        "up the rest of the target, if there is one.",
        flag="prune_blocks",
        ge=0,
    )
    # not "none", which a command line reads as "not given"
    mask: Literal["nothing", "unstructured", "2:4"] = option(
        "nothing",
        "Single weights set to zero after channels went: the lowest scores anywhere, or two of every four in a row.",
        flag="prune_mask",
    )
    mask_share: float = option(
        0.5,
        "Share of the weights that an unstructured mask sets to zero, in (0, 1).",
        flag="prune_mask_share",
        gt=0,
        lt=1,
    )
    mask_importance: Literal["magnitude", "gradient"] = option(
        "magnitude",
        "What a single weight is worth: its size within its layer, or how much the detections change without it.",
        flag="prune_mask_importance",
    )
    keep: Names = option(
        (), "Layers left whole, by module name or prefix, such as model.0 or model.22.", flag="prune_keep"
    )
    images: int = option(256, "Training images for the score and for repair.", flag="prune_images", ge=1)
    # not "none", for the same reason
    repair: Literal["reconstruct", "batchnorm", "nothing"] = option(
        "reconstruct",
        "What is done after surgery, without training: least squares towards the full model's layer outputs "
        "(reconstruct), BatchNorm statistics anew (batchnorm), or nothing.",
        flag="prune_repair",
    )
    schedule: Literal["one_shot", "iterative", "gradual"] = option(
        "one_shot",
        "When a training run prunes: before it begins, in equal steps at equal distances, or in steps that shrink and "
        "wait for accuracy to come back.",
        flag="prune_schedule",
    )
    steps: int = option(4, "Steps of an iterative or gradual schedule.", flag="prune_steps", ge=1)
    start: float = option(
        0.0, "Share of the epochs that train before the first step of a schedule.", flag="prune_start", ge=0, lt=1
    )
    window: float = option(
        0.6, "Share of the epochs after which a schedule has met the target.", flag="prune_window", gt=0, le=1
    )
    tolerance: float = option(
        1.0,
        "mAP50-95 points below the accuracy before a step at which a gradual schedule goes on.",
        flag="prune_tolerance",
        ge=0,
    )
    # not "none", for the same reason
    sparsity: Literal["nothing", "bn_l1", "group_lasso"] = option(
        "nothing",
        "Penalty that draws channels towards zero until a schedule has ended: on BatchNorm scales or on all weights of "
        "a channel.",
        flag="prune_sparsity",
    )
    sparsity_weight: float = option(0.1, "Weight of that penalty.", flag="prune_sparsity_weight", gt=0)
    rewind: bool = option(
        False,
        "After the last step of a schedule, go back to the weights that the run began with, in the structure found.",
        flag="prune_rewind",
    )
    output_weights: dict[OutputTerm, float] = option(
        {"confidence": 1.0, "localisation": 1.0, "discrimination": 1.0},
        "What counts as a change of the detections in `obs` and `output`, such as localisation=2.",
        flag="prune_output_weights",
    )

    @field_validator("output_weights", mode="before")
    @classmethod
    def _output_weights(cls, value: Any) -> Any:
        """Read `localisation=2,confidence=1`; terms that are not named keep a weight of 1."""
        if isinstance(value, str):
            pairs = (str(part).partition("=" if "=" in str(part) else ":") for part in _parts(value))
            value = {name.strip(): weight.strip() or 1.0 for name, _, weight in pairs}
        if not isinstance(value, dict):
            return value
        terms = typing.get_args(OutputTerm)
        if unknown := [name for name in value if name not in terms]:
            raise ValueError(f"'{unknown[0]}' is not a term; {_suggest(str(unknown[0]), terms)}")
        return dict.fromkeys(terms, 1.0) | value

    @field_validator("output_weights")
    @classmethod
    def _finite_weights(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(math.isfinite(weight) and weight >= 0 for weight in value.values()) or not any(value.values()):
            raise ValueError("weights are numbers of at least 0, and one of them is above 0")
        return value

    @field_validator("target")
    @classmethod
    def _known_target(cls, value: str | None) -> str | None:
        known = [f"{engine}:{p}" for engine, row in ENGINE_PRECISIONS.items() if engine != "pytorch" for p in row]
        if value is not None and value not in known:
            raise ValueError(f"'{value}' is not an engine and precision; {_suggest(value, known)}")
        return value

    @model_validator(mode="after")
    def _one_target(self) -> PruneSection:
        given = [name for name in PRUNE_TARGETS if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.blocks or self.mask != "nothing"):
            said = " and ".join(given) + " given" if given else "none of ratio, flops and latency given"
            raise ValueError(f"{said}; give exactly one, such as ratio=0.3 (as a flag: prune=0.3)")
        if self.start >= self.window:
            raise ValueError(
                f"start={self.start:g} is not before window={self.window:g}, where the schedule ends; raise window or "
                "lower start"
            )
        if self.blocks and self.schedule != "one_shot":
            raise ValueError(
                f"blocks={self.blocks} takes whole layers out, which schedule={self.schedule} cannot do while a model "
                "trains; give schedule=one_shot, or leave blocks out"
            )
        scheduled = {"sparsity": self.sparsity != "nothing", "rewind": self.rewind}
        if self.schedule == "one_shot" and any(scheduled.values()):
            named = next(name for name, given in scheduled.items() if given)
            raise ValueError(
                f"{named} acts while a schedule prunes, and schedule=one_shot prunes before training; give "
                "schedule=iterative (as a flag: prune_schedule=iterative)"
            )
        if self.mask == "2:4" and self.mask_share != 0.5:
            raise ValueError(f"mask_share={self.mask_share:g} with mask=2:4, which takes half; leave mask_share out")
        if (self.latency is None) != (self.target is None):
            missing = "target" if self.target is None else "latency"
            raise ValueError(
                f"latency and target belong together and {missing} is missing; give both, such as latency=0.6 "
                "target=openvino:int8 (as flags: prune_latency=0.6 prune_target=openvino:int8)"
            )
        return self


class DistillSection(Section):
    """Knowledge distillation."""

    teacher: str | None = option(
        None, "Teacher checkpoint; in a run, 'self' is the model before compression.", flag="teacher"
    )
    losses: dict[Loss, float] = option(
        {"cwd": 1.0, "response": 1.0}, "Weight of each loss, such as cwd=1.0,response=0.5.", flag="distill"
    )
    temperature: float = option(1.0, "Softmax temperature of the cwd loss.", flag="distill_temperature", gt=0)
    close_epochs: int = option(
        0, "Last epochs that train without the distillation losses.", flag="distill_close_epochs", ge=0
    )

    @field_validator("losses", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """Read `cwd,response` and `cwd=1.0,response=0.5`, the way a shell gives them."""
        value = _parts(value)
        if isinstance(value, list | tuple):
            pairs = (str(part).partition("=" if "=" in str(part) else ":") for part in value)
            value = {name.strip(): weight.strip() or 1.0 for name, _, weight in pairs}
        if isinstance(value, dict) and (unknown := [name for name in value if name not in typing.get_args(Loss)]):
            raise ValueError(f"'{unknown[0]}' is not a loss; {_suggest(str(unknown[0]), typing.get_args(Loss))}")
        return value

    @field_validator("losses")
    @classmethod
    def _weights(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of '{name}' is {weight}; give a number of at least 0")
        if not value:
            raise ValueError("no loss is named; name at least one, such as distill=cwd,response")
        return value


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
    """Post-training quantization to INT8."""

    target: Target = option("openvino", "Runtime whose quantization scheme is followed.", flag="quantize_target")
    range: Literal["mse", "minmax"] = option("mse", "How activation ranges are chosen.", flag="quantize_range")
    images: int = option(256, "Training images that ranges are chosen on.", flag="quantize_images", ge=1)
    keep: Names = option((), "Layers left in float, by module name or prefix, such as model.22.", flag="quantize_keep")


class BuildSection(Section):
    """The engines to build, each `runtime:precision`."""

    engines: Names = option(("openvino:int8",), "Engines to build, such as openvino:int8.", flag="engines")

    @field_validator("engines")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = [f"{engine}:{precision}" for engine, row in ENGINE_PRECISIONS.items() for precision in row]
        for name in value:
            if name not in known:
                raise ValueError(f"'{name}' is not an engine and precision; {_suggest(name, known)}")
        return value


class BenchSection(Section):
    """What is measured and against what."""

    candidates: Names = option(
        ("native:fp32", "native:int8"), "Native exports measured beside ours.", flag="bench_candidates"
    )
    rounds: int = option(100, "Timed rounds; in each one every candidate runs once.", flag="bench_rounds", ge=3)
    warmup: int = option(10, "Rounds that are not counted.", flag="bench_warmup", ge=0)
    threads: int | None = option(None, "Threads of each runtime; all cores when not given.", flag="bench_threads", ge=1)
    images: int | None = option(None, "Validation images to use; all when not given.", flag="bench_images", ge=1)

    @field_validator("candidates")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in NATIVE_CANDIDATES:
                raise ValueError(f"'{name}' is not a native candidate; {_suggest(name, NATIVE_CANDIDATES)}")
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


class Recipe(Section):
    """A whole compression run; a section that is absent is a stage that does not run."""

    schema_version: int = option(SCHEMA_VERSION, "Version of this format.")
    name: str = option("custom", "Name that reports show and that the folder of a run gets.")
    description: str = option("", "What the recipe is for, in one sentence.")
    prune: PruneSection | None = None
    distill: DistillSection | None = None
    train: TrainSection | None = None
    quantize: QuantizeSection | None = None
    build: BuildSection | None = None
    bench: BenchSection | None = None
    gates: GateSection = GateSection()

    @field_validator("name")
    @classmethod
    def _folder_name(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w. -]*", value):
            raise ValueError(f"'{value}' cannot name a folder; use letters, digits, '.', '_' and '-'")
        return value

    @field_validator("schema_version", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        if isinstance(value, int) and value > SCHEMA_VERSION:
            raise ValueError(
                f"the recipe has schema_version {value} and this yolo_compress reads up to {SCHEMA_VERSION}; "
                "upgrade with: pip install -U yolo-compress"
            )
        if value != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {value!r}; write schema_version: {SCHEMA_VERSION}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.distill is not None and self.train is None:
            raise ValueError("a 'distill' section without a 'train' section would do nothing; add: train: {}")
        if self.distill is not None and self.distill.teacher is None:
            raise ValueError("distillation needs a teacher; give a checkpoint, or teacher=self for the model as it was")
        wants_int8 = self.build is not None and any(e.endswith(":int8") for e in self.build.engines)
        if wants_int8 and self.quantize is None:
            raise ValueError("an int8 engine is asked for without a 'quantize' section; add: quantize: {}")
        return self


@dataclass(frozen=True)
class Flag:
    """A recipe option as a command line key."""

    name: str
    section: str
    field: str
    default: Any
    help: str
    type: str


def flags() -> dict[str, Flag]:
    """Return every key that `yolo-compress train` and `run` know beside those of `yolo`, by name."""
    found = {}
    for section, model in sections().items():
        for flag in section_options(section):
            extra = model.model_fields[flag.field].json_schema_extra
            if isinstance(extra, dict) and isinstance(name := extra.get("flag"), str):
                found[name] = Flag(name, section, flag.field, flag.default, flag.help, flag.type)
    return found


def sections() -> dict[str, type[Section]]:
    """Return the section classes by their key in a recipe."""
    found = {}
    for name, field in Recipe.model_fields.items():
        for member in (*typing.get_args(field.annotation), field.annotation):
            if isinstance(member, type) and issubclass(member, Section):
                found[name] = member
    return found


def section_options(section: str) -> Iterator[Flag]:
    """Yield the options of one section under their own names, as `yolo-compress prune` and `quantize` take them."""
    for name, field in sections()[section].model_fields.items():
        default = None if field.default is PydanticUndefined else field.default
        yield Flag(name, section, name, default, field.description or "", _type_text(field.annotation))


def from_flags(given: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """Overlay flags such as `{"prune": 0.3, "teacher": "yolov8s.pt"}` on a recipe.

    A flag creates its section when the base has none, and what that section cannot do without: training for
    distillation, quantization for an int8 engine. `prune`, `prune_flops` and `prune_latency` replace whichever of the
    three the base has.

    Raises:
        RecipeError: A value is out of range or of the wrong type; the message names the flag.
    """
    known = flags()
    tree: dict[str, Any] = base.model_dump() if base else {"schema_version": SCHEMA_VERSION}
    for name, value in given.items():
        flag = known[name]
        section = tree.get(flag.section)
        tree[flag.section] = section = dict(section) if section else {}
        if flag.section == "prune" and flag.field in PRUNE_TARGETS:  # replaces the base's; two flags are refused later
            for other in {*PRUNE_TARGETS, *(["target"] if flag.field != "latency" else [])} - {flag.field}:
                if not any(known[f].section == "prune" and known[f].field == other for f in given):
                    section.pop(other, None)
        section[flag.field] = value
    if tree.get("distill") and not tree.get("train"):
        tree["train"] = {}
    if ":int8" in str((tree.get("build") or {}).get("engines")) and not tree.get("quantize"):
        tree["quantize"] = {}
    return validate(tree, source="the command line", names={f"{f.section}.{f.field}": f.name for f in known.values()})


def load(source: str | Path) -> Recipe:
    """Read a recipe file, or a shipped recipe by its name.

    Raises:
        RecipeError: No such recipe, not YAML, or it does not validate.
    """
    path = Path(source)
    if path.is_file():
        text, origin = _read(path), str(path)
    elif str(source) in shipped():
        text, origin = _read(shipped()[str(source)]), str(source)
    elif path.suffix in {".yaml", ".yml"} or path.parent != Path():
        raise RecipeError(f"recipe '{source}' is not a file; give a path that exists, or one of {list(shipped())}")
    else:
        raise RecipeError(f"recipe '{source}' is not known; {_suggest(str(source), list(shipped()))}")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe '{origin}' is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise RecipeError(
            f"recipe '{origin}' holds {type(tree).__name__}, not a mapping; begin it with schema_version: 1"
        )
    return validate(tree, source=f"recipe '{origin}'")


def shipped() -> dict[str, Path]:
    """Return the shipped recipes by name, from the installed package or from the source tree."""
    try:
        folder = Path(str(resources.files("yolo_compress.configs")))
    except ModuleNotFoundError:  # not installed: run from the repository root
        folder = Path(__file__).resolve().parents[1] / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def validate(tree: Mapping[str, Any], *, source: str, names: Mapping[str, str] | None = None) -> Recipe:
    """Build a recipe from plain data, with every mistake told in one message.

    Args:
        tree: The recipe as nested mappings.
        source: Where it came from, for the message.
        names: What the user typed for a dotted option, where that differs.

    Raises:
        RecipeError: It does not validate.
    """
    try:
        return Recipe.model_validate(dict(tree))
    except ValidationError as error:
        lines = [_explain(item, names or {}) for item in error.errors()]
        raise RecipeError(f"{source} cannot be used: " + "; ".join(lines)) from error


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, for editors."""
    return Recipe.model_json_schema()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(
            f"recipe '{path}' cannot be read: {why}; give a YAML file, or one of {list(shipped())}"
        ) from error


def _explain(item: Any, names: Mapping[str, str]) -> str:
    location = ".".join(str(part) for part in item["loc"])
    name = names.get(location, location) or "the recipe"
    if item["type"] == "extra_forbidden":
        parent = sections()[item["loc"][0]] if len(item["loc"]) > 1 and item["loc"][0] in sections() else Recipe
        return f"'{name}' is not an option; {_suggest(str(item['loc'][-1]), list(parent.model_fields))}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return message if name == "the recipe" else f"{name}: {message}"
    return f"{name}={item['input']!r}: {message[0].lower()}{message[1:]}"


def _suggest(given: str, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(given, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(known)}"


def _type_text(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return "|".join(str(value) for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return "|".join(_type_text(part) for part in typing.get_args(annotation) if part is not type(None))
    if origin is Annotated:
        return _type_text(typing.get_args(annotation)[0])
    if origin is tuple:
        return "list"
    if origin is dict:
        return "weights" if typing.get_args(annotation)[1] is float else "mapping"
    return getattr(annotation, "__name__", str(annotation))
