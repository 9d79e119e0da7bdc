# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The recipe as typed objects: the one definition of every option, for YAML files, flags, help and JSON Schema."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ValidationError, field_validator, model_validator
from pydantic_core import PydanticUndefined

from yolo_compress.errors import RecipeError, suggest
from yolo_compress.recipe.distill import SELF, DistillSection, Loss, LossOptions, TeacherOptions
from yolo_compress.recipe.grow import GrowSection
from yolo_compress.recipe.options import ENGINE_PRECISIONS, PROFILED, Section, option
from yolo_compress.recipe.prune import PRUNE_TARGETS, ImportanceName, OutputTerm, PruneSection
from yolo_compress.recipe.stages import (
    CORRUPTION_NAMES,
    NATIVE_CANDIDATES,
    BenchSection,
    BuildSection,
    GateSection,
    QatSection,
    QuantizeSection,
    Target,
    TrainSection,
)
from yolo_compress.recipe.tensorrt import TensorRtSection

__all__ = (
    "CORRUPTION_NAMES",
    "ENGINE_PRECISIONS",
    "NATIVE_CANDIDATES",
    "PROFILED",
    "PRUNE_TARGETS",
    "BenchSection",
    "BuildSection",
    "DistillSection",
    "Flag",
    "GateSection",
    "GrowSection",
    "ImportanceName",
    "Loss",
    "OutputTerm",
    "PruneSection",
    "QatSection",
    "QuantizeSection",
    "Recipe",
    "Section",
    "Target",
    "TensorRtSection",
    "TrainSection",
    "flags",
    "from_flags",
    "json_schema",
    "load",
    "section_options",
    "sections",
    "shipped",
    "validate",
    "validate_section",
)

SCHEMA_VERSION = 1
INNER = {("distill", "losses"): LossOptions, ("distill", "teacher"): TeacherOptions}  # sections within a section


class Recipe(Section):
    """A whole compression run; a section that is absent is a stage that does not run."""

    schema_version: int = option(SCHEMA_VERSION, "Version of this format.")
    name: str = option("custom", "Name that reports show and that the folder of a run gets.")
    description: str = option("", "What the recipe is for, in one sentence.")
    prune: PruneSection | None = None
    distill: DistillSection | None = None
    grow: GrowSection | None = None
    train: TrainSection | None = None
    qat: QatSection | None = None
    quantize: QuantizeSection | None = None
    build: BuildSection | None = None
    tensorrt: TensorRtSection | None = None
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
        if self.distill is not None and not self.distill.teacher:
            raise ValueError("distillation needs a teacher; give a checkpoint, or teacher=self for the model as it was")
        if self.grow is not None and self.train is None:
            raise ValueError("a 'grow' section without a 'train' section would do nothing; add: train: {}")
        if self.qat is not None and (self.train is None or self.quantize is None):
            missing = "train" if self.train is None else "quantize"
            raise ValueError(f"a 'qat' section without a '{missing}' section would do nothing; add: {missing}: {{}}")
        scheduled = self.prune is not None and self.prune.scheduled
        if self.prune is not None and scheduled and self.train is None:
            raise ValueError(
                f"schedule={self.prune.schedule} prunes while a model trains, and there is no 'train' section; add: "
                "train: {}, or leave schedule out"
            )
        inside = [name for name, loss in (self.distill.losses.items() if self.distill else ()) if loss.inside(name)]
        if scheduled and inside:
            raise ValueError(
                f"{inside[0]} compares layers inside the model, whose channels schedule={self.prune.schedule} takes "
                "out while it trains; leave its layers out, or give schedule=one_shot"
            )
        if self.grow is not None and (scheduled or self.qat is not None):
            other = "a pruning schedule" if scheduled else "qat"
            raise ValueError(
                f"grow lets channels sleep while the model trains, and {other} would choose by what is awake; leave "
                "one of them out, or train twice: grow first"
            )
        if self.qat is not None and self.quantize is not None:
            idle = [name for name in ("max_drop", "latency") if getattr(self.quantize, name) is not None]
            if idle:
                raise ValueError(
                    f"{idle[0]} belongs to quantization without training, and qat trains; leave one of them out"
                )
            if not self.quantize.learned:
                raise ValueError("qat learns scales and learned=False throws them away; leave one of them out")
            if self.quantize.activations == "dynamic":
                raise ValueError(
                    "qat learns ranges and activations=dynamic finds them while the model runs; give "
                    "activations=static, or activations=none to train weights alone"
                )
            if self.prune is not None and scheduled and self.qat.freeze < self.prune.window:
                raise ValueError(
                    f"freeze={self.qat.freeze:g} holds scales from there on, and steps of the pruning schedule, up to "
                    f"window={self.prune.window:g}, choose them anew; give freeze={self.prune.window:g} or more"
                )
            defaults = QuantizeSection()
            given = {name: getattr(self.quantize, name) for name in ("rounding", "bias_correction")}
            fitted = [name for name, value in given.items() if value != getattr(defaults, name)]
            if self.prune is not None and scheduled and fitted:
                raise ValueError(
                    f"{fitted[0]}={given[fitted[0]]} fits weights to images before training, which every step of "
                    f"schedule={self.prune.schedule} would undo; leave it out, or give schedule=one_shot"
                )
        wants_int8 = self.build is not None and any(e.endswith(":int8") for e in self.build.engines)
        if wants_int8 and self.quantize is None:
            raise ValueError("an int8 engine is asked for without a 'quantize' section; add: quantize: {}")
        built = self.build.engines if self.build is not None else ()
        if self.tensorrt is not None and not any(engine.startswith("tensorrt") for engine in built):
            raise ValueError(
                "a 'tensorrt' section without such an engine would do nothing; add: build: {engines: [tensorrt:fp16]}"
            )
        quantized = [engine for engine in built if engine.startswith("tensorrt") and engine.endswith(":int8")]
        if quantized and self.tensorrt is not None and self.tensorrt.dynamic_batch is not None:
            raise ValueError(
                f"{quantized[0]} is built from the graph that a recipe quantizes, which takes one image, and "
                "dynamic_batch is given; leave it out, or build that engine alone with: yolo-compress build"
            )
        return self

    def taught_by(self, model: str) -> Recipe:
        """Return the recipe with a model file in the place of 'self', and as the teacher that quantized training needs.

        A model that was pruned has more to learn than its float self can tell it, and keeps its labels.
        """
        distill = self.distill
        if distill is None and self.qat is not None and self.qat.self_distill:
            distill = DistillSection(teacher=(TeacherOptions(path=SELF),), labels=self.prune is not None)
        return self if distill is None else self.model_copy(update={"distill": distill.with_self(model)})


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
    distillation or a pruning schedule, quantization for an int8 engine. `prune`, `prune_flops` and `prune_latency`
    replace whichever of the three the base has.

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
    while_training = (tree.get("prune") or {}).get("schedule", "one_shot") != "one_shot"
    if (while_training or tree.get("distill") or tree.get("qat") or tree.get("grow")) and not tree.get("train"):
        tree["train"] = {}
    if tree.get("qat") and not tree.get("quantize"):
        tree["quantize"] = {}
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
        raise RecipeError(f"recipe '{source}' is not known; {suggest(str(source), list(shipped()))}")
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
        folder = Path(__file__).resolve().parents[2] / "configs"
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


def validate_section(name: str, options: Mapping[str, Any], *, source: str) -> Section:
    """Build one section from plain data, for a command that needs no whole recipe.

    Raises:
        RecipeError: It does not validate; options are called as in the section.
    """
    names = {f"{name}.{flag.field}": flag.field for flag in section_options(name)}
    try:
        return sections()[name].model_validate(dict(options))
    except ValidationError as error:
        lines = [_explain({**item, "loc": (name, *item["loc"])}, names) for item in error.errors()]
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
        parent = INNER.get(item["loc"][:2]) or (sections().get(item["loc"][0], Recipe) if item["loc"][1:] else Recipe)
        return f"'{name}' is not an option; {suggest(str(item['loc'][-1]), list(parent.model_fields))}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return message if name == "the recipe" else f"{name}: {message}"
    return f"{name}={item['input']!r}: {message[0].lower()}{message[1:]}"


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
        return "weights" if typing.get_args(annotation)[1] in (float, LossOptions) else "mapping"
    return getattr(annotation, "__name__", str(annotation))
