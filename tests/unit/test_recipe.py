# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The recipe: what it accepts, what it refuses and how it says so."""

from __future__ import annotations

import json
import typing

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_compress import recipe
from yolo_compress.errors import RecipeError
from yolo_compress.recipe.distill import DistillSection, LossOptions, TeacherOptions

few = settings(max_examples=40, deadline=None)  # a deadline fails on a machine that is busy
share = st.floats(0.01, 0.99)
names = st.lists(st.from_regex(r"model\.[0-9]{1,2}", fullmatch=True), max_size=3)
train_settings = st.dictionaries(
    st.sampled_from(["epochs", "batch", "lr0", "optimizer", "cos_lr", "freeze"]),
    st.one_of(
        st.integers(0, 100), share, st.booleans(), st.sampled_from(["AdamW", "SGD"]), st.lists(st.integers(0, 9))
    ),
)


def section(required: dict | None = None, **optional) -> st.SearchStrategy:
    return st.fixed_dictionaries(required or {}, optional=optional)


target = st.one_of(
    st.fixed_dictionaries({"ratio": share}),
    st.fixed_dictionaries({"flops": share}),
    st.fixed_dictionaries({"latency": share, "target": st.sampled_from(["openvino:int8", "onnxruntime:fp32"])}),
)
prune = st.builds(
    lambda a, b: {**a, **b},
    target,
    section(
        importance=st.sampled_from(["obs", "output", "taylor", "l2"]),
        scope=st.sampled_from(["global", "local", "budget", "savings"]),
        round_to=st.integers(1, 32),
        max_share=share,
        keep=names,
        images=st.integers(1, 999),
        repair=st.sampled_from(["reconstruct", "batchnorm", "nothing"]),
    ),
)
losses = st.dictionaries(st.sampled_from(["cwd", "response"]), st.floats(0, 10), min_size=1)
distill = section({"teacher": st.just("self")}, losses=losses, warmup=st.floats(0, 0.9), labels=st.just(True))
engine_names = [f"{name}:{precision}" for name, row in recipe.ENGINE_PRECISIONS.items() for precision in row]
recipes = section(
    {
        "schema_version": st.just(1),
        "train": section(fast_cpu=st.booleans(), settings=train_settings),
        "quantize": section(),
    },
    name=st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,9}", fullmatch=True),
    description=st.text(max_size=9),
    prune=prune,
    distill=distill,
    build=section(engines=st.lists(st.sampled_from(engine_names))),
    bench=section(
        candidates=st.lists(st.sampled_from(recipe.NATIVE_CANDIDATES)),
        rounds=st.integers(3, 999),
        threads=st.none() | st.integers(1, 64),
        robustness=st.booleans(),
        corruptions=st.lists(st.sampled_from(recipe.CORRUPTION_NAMES), unique=True),
    ),
    gates=section(train=share, on_fail=st.sampled_from(["stop", "step_back"])),
)


@few
@given(recipes)
def test_a_recipe_survives_yaml_and_json(tree):
    first = recipe.validate(tree, source="a test")
    plain = first.model_dump(mode="json")
    for again in (yaml.safe_load(yaml.safe_dump(plain)), json.loads(first.model_dump_json())):
        assert recipe.validate(again, source="a test") == first


@few
@given(recipes)
def test_what_was_written_is_what_is_read(tree):
    read = recipe.validate(tree, source="a test").model_dump(mode="json")
    for name, value in tree.items():
        if name == "distill":
            assert [teacher["path"] for teacher in read[name]["teacher"]] == [value["teacher"]]
            found = {loss: options["weight"] for loss, options in read[name]["losses"].items()}
            assert found == value.get("losses", found)
        elif isinstance(value, dict):
            assert {key: read[name][key] for key in value} == value
        else:
            assert read[name] == value


def test_shipped_recipes_validate_and_carry_their_file_name():
    assert list(recipe.shipped()) == ["edge-cpu", "joint", "prune-distill", "ptq-int8"]
    for name in recipe.shipped():
        loaded = recipe.load(name)
        assert loaded.name == name
        assert loaded.description
    assert recipe.load("edge-cpu").prune.flops == 0.2


def test_an_absent_section_is_a_stage_that_does_not_run():
    loaded = recipe.load("ptq-int8")
    assert loaded.prune is None
    assert loaded.train is None


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"prun": {}}, "'prun' is not an option; did you mean prune?"),
        ({"prune": {"rato": 0.3}}, "'prune.rato' is not an option; did you mean ratio?"),
        ({"prune": {"ratio": 1.5}}, "prune.ratio=1.5: input should be less than 1"),
        ({"prune": {"ratio": 0}}, "prune.ratio=0: input should be greater than 0"),
        ({"prune": {"ratio": 0.3, "flops": 0.3}}, "ratio and flops given; give exactly one, such as ratio=0.3"),
        (
            {"prune": {"ratio": 0.3, "schedule": "gradual"}},
            "schedule=gradual prunes while a model trains, and there is no 'train' section; add: train: {}",
        ),
        ({"grow": {}}, "a 'grow' section without a 'train' section would do nothing; add: train: {}"),
        ({"prune": {}}, "none of ratio, flops and latency given; give exactly one"),
        ({"prune": {"latency": 0.6}}, "latency and target belong together and target is missing; give both"),
        ({"prune": {"ratio": 0.6, "target": "openvino:fp32"}}, "belong together and latency is missing"),
        ({"prune": {"latency": 0.6, "target": "openvino:int4"}}, "'openvino:int4' is not an engine and precision; did"),
        ({"prune": {"latency": 0.6, "target": "pytorch:fp32"}}, "'pytorch:fp32' is not an engine and precision"),
        ({"prune": {"ratio": 0.3, "output_weights": {"size": 1}}}, "'size' is not a term; choose from confidence"),
        ({"prune": {"ratio": 0.3, "output_weights": {"confidence": -1}}}, "weights are numbers of at least 0"),
        ({"prune": {"ratio": 0.3, "importance": "l3"}}, "prune.importance='l3': input should be 'obs', 'output', "),
        ({"distill": {"teacher": "self"}}, "without a 'train' section would do nothing; add: train: {}"),
        ({"distill": {}, "train": {}}, "distillation needs a teacher"),
        ({"distill": {"losses": {"cvd": 1}}}, "'cvd' is not a loss; did you mean cwd?"),
        ({"distill": {"losses": {"cwd": -1}}}, "the weight of 'cwd' is -1; give a number of at least 0"),
        ({"distill": {"losses": {}}}, "no loss is named"),
        (
            {"distill": {"losses": {"cwd": {"weights": 1}}}},
            "'distill.losses.cwd.weights' is not an option; did you mean weight?",
        ),
        ({"distill": {"teacher": [{"path": "s.pt", "level": 3}]}}, "is not an option; did you mean levels?"),
        ({"distill": {"teacher": "self", "close_epochs": -1}}, "give a number of epochs, or mosaic"),
        ({"distill": {"teacher": "self", "order": "chain"}}, "goes through several teachers; give them, such as"),
        ({"distill": {"teacher": "self", "labels": False, "losses": {"cwd": 0}}}, "leave nothing to train on"),
        ({"distill": {"teacher": "self", "labels": False, "trust": "fit"}}, "trust=fit looks at labelled objects"),
        (
            {
                "prune": {"ratio": 0.3, "schedule": "gradual"},
                "distill": {"teacher": "self", "losses": {"psa": 1}},
                "train": {},
            },
            "psa compares layers inside the model, whose channels schedule=gradual takes out while it trains",
        ),
        ({"train": {"settings": {"a": {"b": 1}}}}, "'a' is a mapping; settings of `yolo train` are single values"),
        (
            {"build": {"engines": ["openvno:fp32"]}},
            "'openvno:fp32' is not an engine and precision; did you mean",
        ),
        ({"build": {"engines": ["openvino:int8"]}}, "without a 'quantize' section; add: quantize: {}"),
        ({"tensorrt": {"dla": 0}}, "a 'tensorrt' section without such an engine would do nothing; add: build:"),
        (
            {"build": {"engines": ["tensorrt:fp16"]}, "tensorrt": {"dla": -1}},
            "tensorrt.dla=-1: input should be greater",
        ),
        (
            {"build": {"engines": ["tensorrt:fp16"]}, "tensorrt": {"dynamic_batch": [1, 4]}},
            "tensorrt.dynamic_batch: 1,4 is not the least, usual and largest batch; write three rising numbers: 1,4,8",
        ),
        (
            {"build": {"engines": ["tensorrt:fp16"]}, "tensorrt": {"compute": "ampere"}},
            "tensorrt.compute: 'ampere' is no compute capability; write such as 8.6 or sm_86",
        ),
        (
            {"quantize": {}, "build": {"engines": ["tensorrt:int8"]}, "tensorrt": {"dynamic_batch": [1, 4, 8]}},
            "tensorrt:int8 is built from the graph that a recipe quantizes, which takes one image, and dynamic_batch",
        ),
        ({"prune": {"latency": 0.6, "target": "tensorrt:int8"}}, "'tensorrt:int8' is not an engine and precision"),
        ({"bench": {"candidates": ["native:in8"]}}, "did you mean native:int8"),
        ({"bench": {"rounds": 1}}, "bench.rounds=1: input should be greater than or equal to 3"),
        ({"bench": {"corruptions": ["fog"]}}, "bench.corruptions: 'fog' is not a corruption; choose from noise, blur"),
        ({"bench": {"corruptions": ["motion"]}}, "did you mean motion_blur?"),
        ({"bench": {"robustness": True, "severities": [1, 6]}}, "1,6 are not severities; give some of 1,2,3,4,5"),
        ({"bench": {"robustness": True, "severities": []}}, "nothing are not severities"),
        (
            {"bench": {"severities": [1]}},
            "severities is of corrupted images, and none are asked for; add robustness=True",
        ),
        ({"bench": {"robustness_images": 9}}, "robustness_images is of corrupted images, and none are asked for"),
        ({"gates": {"train": 0}}, "gates.train=0: input should be greater than 0"),
        ({"schema_version": 2}, "schema_version 2 and this yolo_compress reads up to 1; upgrade with: pip install -U"),
        ({"schema_version": "one"}, "write schema_version: 1"),
        ({"name": "../up"}, "name: '../up' cannot name a folder; use letters, digits, '.', '_' and '-'"),
        ({"prune": []}, "prune=[]"),
    ],
)
def test_a_mistake_is_refused_with_what_to_write_instead(tree, message):
    with pytest.raises(RecipeError) as caught:
        recipe.validate({"schema_version": 1, **tree}, source="recipe 'mine.yaml'")
    assert message in str(caught.value)
    assert str(caught.value).startswith("recipe 'mine.yaml' cannot be used: ")
    assert caught.value.exit_code == 2


def test_every_mistake_is_told_at_once():
    with pytest.raises(RecipeError) as caught:
        recipe.validate({"prune": {"ratio": 2, "round_to": 0}, "benhc": {}}, source="x")
    for part in ("prune.ratio=2", "prune.round_to=0", "'benhc' is not an option; did you mean bench?"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("edge-gpu", "recipe 'edge-gpu' is not known; did you mean edge-cpu?"),
        ("none.yaml", "recipe 'none.yaml' is not a file; give a path that exists, or one of ['edge-cpu',"),
        ("some/where", "recipe 'some/where' is not a file"),
    ],
)
def test_a_recipe_that_is_not_there(source, message):
    with pytest.raises(RecipeError) as caught:
        recipe.load(source)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1, 2", "is not valid YAML"),
        (b"- a\n- b\n", "holds list, not a mapping; begin it with schema_version: 1"),
        (b"", "holds NoneType, not a mapping"),
        (b"\xff\xfe\x00", "cannot be read: it is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, content, message):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        recipe.load(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_is_read_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edge-cpu").write_text("schema_version: 1\nname: local\n")
    assert recipe.load("edge-cpu").name == "local"


def test_every_option_is_documented_and_flags_are_unique():
    flags = recipe.flags()
    options = [option for name in recipe.sections() for option in recipe.section_options(name)]
    assert all(option.help.endswith(".") and len(option.help) > 10 for option in options)
    assert len(flags) == len({(flag.section, flag.field) for flag in flags.values()})
    assert {f"{o.section}.{o.name}" for o in options} - {f"{f.section}.{f.field}" for f in flags.values()} == {
        "train.settings"
    }


def test_schema_names_every_option_and_refuses_others():
    schema = json.loads(json.dumps(recipe.json_schema()))
    assert schema["additionalProperties"] is False
    for name, model in recipe.sections().items():
        described = schema["$defs"][model.__name__]
        assert described["additionalProperties"] is False
        assert set(described["properties"]) == {option.name for option in recipe.section_options(name)}


VALUES = {
    "trt_workspace": 2.5,
    "trt_dynamic_batch": "1,4,8",
    "trt_timing_cache": "timings",
    "trt_compute": "8.6",
    "prune_flops": 0.4,
    "prune_keep": "model.0,model.22",
    "teacher": "yolov8s.pt",
    "distill": "cwd=2,response",
    "engines": "openvino:fp32,onnxruntime:int8",
    "bench_candidates": "native:int8",
    "bench_threads": 2,
    "bench_images": 5,
    "bench_robustness": True,
    "bench_corruptions": "noise,jpeg",
    "bench_severities": "1,5",
    "bench_power": True,
    "bench_roofline": True,
    "quantize_keep": "model.22",
    "max_drop": 1.5,
    "max_drop_quantize": 0.5,
    "gate_on_fail": "step_back",
    "quantize_target": "onnxruntime",
    "quantize_range": "minmax",
    "quantize_weight_bits": 4,
    "quantize_weight_group": 16,
    "quantize_weight_form": "ternary",
    "quantize_weight_storage": "packed",
    "quantize_activations": "none",
    "quantize_activation_bits": 4,
    "quantize_rounding": "adaround",
    "quantize_bias_correction": True,
    "quantize_max_drop": 0.3,
    "quantize_timed": True,
    "quantize_learned": False,
    "quantize_calibration": "calib_data/coco-512.json",
    "qat": "int8",
    "qat_batchnorm": "frozen",
    "qat_self_distill": False,
    "prune_importance": "l2",
    "prune_scope": "global",
    "prune_repair": "batchnorm",
    "prune_output_weights": "localisation=2",
    "prune_target": "openvino:int8",
    "prune_schedule": "iterative",
    "prune_sparsity": "group_lasso",
    "prune_rewind": True,
    "prune_mask": "2:4",
    "prune_mask_importance": "gradient",
    "fast_cpu": True,
    "distill_schedule": "cosine",
    "distill_close_epochs": "mosaic",
    "distill_order": "chain",
    "distill_trust": "fit",
    "labels": False,
    "distill_cache": True,
}
READ = {
    "trt_dynamic_batch": (1, 4, 8),
    "trt_compute": "SM86",
    "prune_keep": ("model.0", "model.22"),
    "prune_output_weights": {"confidence": 1.0, "localisation": 2.0, "discrimination": 1.0},
    "teacher": (TeacherOptions(path="yolov8s.pt"),),
    "distill": {"cwd": LossOptions(weight=2.0), "response": LossOptions()},
    "engines": ("openvino:fp32", "onnxruntime:int8"),
    "bench_candidates": ("native:int8",),
    "bench_corruptions": ("gaussian_noise", "shot_noise", "jpeg"),
    "bench_severities": (1, 5),
    "quantize_keep": ("model.22",),
}


@pytest.mark.parametrize("name", list(recipe.flags()))
def test_every_flag_sets_its_option(name):
    flag = recipe.flags()[name]
    value = VALUES.get(name) if name in VALUES else (flag.default or 0.3) / 2 if flag.type == "float" else 7
    other = {
        "prune_latency": {"prune_target": "openvino:int8"},
        "prune_target": {"prune_latency": 0.5},
        "prune_sparsity": {"prune_schedule": "gradual"},
        "prune_rewind": {"prune_schedule": "gradual"},
        "prune_mask_share": {"prune_mask": "unstructured"},
        "bench_severities": {"bench_robustness": True},
        "bench_robustness_images": {"bench_robustness": True},
        "quantize_timed": {"quantize_max_drop": 0.3},
        "quantize_repair_images": {"quantize_bias_correction": True},
        "quantize_foreground": {"quantize_rounding": "adaround"},
        "distill_order": {"teacher": "yolov8s.pt,yolov8m.pt"},
        **{f"trt_{field}": {"engines": "tensorrt:fp16"} for field in recipe.TensorRtSection.model_fields},
    }.get(name, {})
    made = recipe.from_flags({name: value, **other}, recipe.load("edge-cpu"))
    assert getattr(getattr(made, flag.section), flag.field) == READ.get(name, value)


@pytest.mark.parametrize(
    ("given", "corrupted", "severities"),
    [
        ({}, (), (1, 3, 5)),
        ({"robustness": True}, recipe.CORRUPTION_NAMES, (1, 3, 5)),
        ({"corruptions": "blur,jpeg,blur"}, ("defocus_blur", "motion_blur", "jpeg"), (1, 3, 5)),
        ({"robustness": True, "corruptions": "haze", "severities": 2}, ("haze",), (2,)),
        ({"corruptions": ("light",), "severities": (5, 1, 5)}, ("brightness", "contrast"), (1, 5)),
    ],
)
def test_corruptions_are_asked_for_by_name_by_group_or_all(given, corrupted, severities):
    section = recipe.validate({"schema_version": 1, "bench": given}, source="a test").bench
    assert section.corrupted == corrupted
    assert section.severities == severities


def test_a_flag_makes_what_its_section_cannot_do_without():
    made = recipe.from_flags({"teacher": "s.pt"})
    assert made.train is not None
    assert made.distill.losses == DistillSection().losses
    assert recipe.from_flags({"engines": "openvino:int8"}).quantize is not None
    assert recipe.from_flags({"engines": "openvino:fp32"}).quantize is None
    trained = recipe.from_flags({"qat": "int8"})
    assert trained.train is not None
    assert trained.quantize is not None


def test_one_pruning_target_replaces_the_other_but_both_at_once_are_refused():
    made = recipe.from_flags({"prune": 0.5}, recipe.load("edge-cpu"))
    assert (made.prune.ratio, made.prune.flops) == (0.5, None)
    timed = recipe.from_flags({"prune_latency": 0.6, "prune_target": "openvino:int8"}, recipe.load("edge-cpu"))
    assert (timed.prune.latency, timed.prune.target, timed.prune.flops) == (0.6, "openvino:int8", None)
    assert recipe.from_flags({"prune_flops": 0.2}, timed).prune.target is None
    with pytest.raises(RecipeError, match="ratio and flops given"):
        recipe.from_flags({"prune": 0.5, "prune_flops": 0.5}, recipe.load("edge-cpu"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"prune": 1.2}, "prune=1.2: input should be less than 1"),
        ({"prune": "much"}, "prune='much': input should be a valid number"),
        ({"prune": float("nan")}, "prune=nan"),
        ({"prune_round_to": 0, "prune": 0.1}, "prune_round_to=0"),
        ({"distill": "cwd=nan", "teacher": "self"}, "the weight of 'cwd' is nan"),
        ({"distill": "cwd"}, "distillation needs a teacher; give a checkpoint, or teacher=self"),
        ({"bench_rounds": 2}, "bench_rounds=2"),
        (
            {"quantize_foreground": 0.5},
            "foreground=0.5 says what rounding and bias_correction look at, and neither is asked for",
        ),
        (
            {"prune_importance": "l2"},
            "none of ratio, flops and latency given; give exactly one, such as ratio=0.3 (as a flag",
        ),
    ],
)
def test_messages_name_the_flag_that_was_typed(flags, message):
    with pytest.raises(RecipeError) as caught:
        recipe.from_flags(flags)
    assert message in str(caught.value)
    assert str(caught.value).startswith("the command line cannot be used: ")


def test_the_base_of_flags_is_not_changed():
    base = recipe.load("edge-cpu")
    before = base.model_dump()
    recipe.from_flags({"prune": 0.5, "distill": "cwd=3", "quantize_keep": "model.1"}, base)
    assert base.model_dump() == before


def test_choices_are_what_the_registries_hold():
    from yolo_compress.distill import LOSSES
    from yolo_compress.engines import ENGINES
    from yolo_compress.prune import IMPORTANCES
    from yolo_compress.quantize import RANGES, ROUNDINGS, WEIGHT_FORMS
    from yolo_compress.quantize.format import ACTIVATIONS, STORAGES

    def choices(model, field):
        return set(typing.get_args(model.model_fields[field].annotation))

    assert set(typing.get_args(recipe.Loss)) == set(LOSSES)
    assert choices(recipe.PruneSection, "importance") == set(IMPORTANCES)
    assert choices(recipe.QuantizeSection, "range") == set(RANGES)
    assert choices(recipe.QuantizeSection, "rounding") == set(ROUNDINGS)
    assert choices(recipe.QuantizeSection, "weight_form") == set(WEIGHT_FORMS)
    assert choices(recipe.QuantizeSection, "weight_storage") == set(STORAGES)
    assert choices(recipe.QuantizeSection, "activations") == set(ACTIVATIONS)
    assert set(recipe.ENGINE_PRECISIONS) == set(ENGINES)


@pytest.mark.parametrize(
    ("given", "teachers", "labels"),
    [
        ({"qat": "int8"}, ["a.pt"], False),
        ({"qat": "int8", "prune": 0.3}, ["a.pt"], True),
        ({"qat": "int8", "teacher": "b.pt,self"}, ["b.pt", "a.pt"], True),
        ({"qat": "int8", "teacher": "b.pt", "labels": False}, ["b.pt"], False),
        ({"teacher": "self"}, ["a.pt"], True),
    ],
)
def test_quantized_training_has_the_float_model_as_its_teacher_unless_another_is_named(given, teachers, labels):
    found = recipe.from_flags(given).taught_by("a.pt").distill
    assert [teacher.path for teacher in found.teacher] == teachers
    assert found.labels is labels


@pytest.mark.parametrize("given", [{"prune": 0.3}, {"qat": "int8", "qat_self_distill": False}])
def test_nothing_teaches_unless_it_is_asked_for(given):
    found = recipe.from_flags(given)
    assert found.taught_by("a.pt") is found
