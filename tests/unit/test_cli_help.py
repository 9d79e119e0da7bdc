# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What the command line says of itself: the overview, the help of each mode, and the registries."""

from __future__ import annotations

import inspect
import json

import pytest

from yolo_compress import recipe
from yolo_compress.cli import main, text
from yolo_compress.cli.modes import MODES


@pytest.mark.parametrize("args", [[], ["help"], ["--help"], ["-h"]])
def test_the_overview_names_every_mode(capsys, args):
    assert main(args) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in MODES)


@pytest.mark.parametrize("name", list(MODES))
@pytest.mark.parametrize("word", ["help", "--help"])
def test_the_help_of_a_mode_has_each_key_with_type_default_and_sentence(capsys, name, word):
    assert main([name, word]) == 0
    out = capsys.readouterr().out
    mode = MODES[name]
    assert mode.summary in out
    for key in mode.keys:
        line = next(line for line in out.splitlines() if line.startswith(f"  {key.name} "))
        assert key.type in line
        assert ("required" if key.required else text.show(key.default)) in line
    for option, flag in mode.options.items():
        line = next(line for line in out.splitlines() if line.startswith(f"  {option} "))
        assert text.show(flag.default) in line
        assert flag.help.split()[0] in line
    assert max(map(len, out.splitlines())) <= text.WIDTH


def test_the_help_of_run_and_train_has_their_flags(capsys):
    main(["run", "help"])
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in recipe.flags())
    main(["train", "help"])
    out = capsys.readouterr().out
    sections = ("prune", "distill", "grow", "qat", "train", "quantize")
    assert all((f"\n  {n} " in out) == (f.section in sections) for n, f in recipe.flags().items())


def test_list_prints_recipes_flags_and_a_schema(capsys):
    assert main(["list", "recipes"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in recipe.shipped())
    assert main(["list", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe.json_schema()
    assert main(["list", "flags"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in recipe.flags())


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        ("engines", "openvino"),
        ("importances", "taylor"),
        ("losses", "cwd"),
        ("ranges", "mse"),
        ("corruptions", "haze"),
        ("roundings", "adaround"),
        ("weight_forms", "ternary"),
    ],
)
def test_list_prints_the_registries(capsys, kind, entry):
    assert main(["list", kind]) == 0
    assert f"  {entry} " in capsys.readouterr().out


def test_list_alone_prints_every_registry(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(f"{kind}\n  " in out for kind in text.KINDS if kind != "schema")


@pytest.mark.parametrize(
    "name",
    ["prune", "classes", "calib", "quantize", "cache", "sensitivity", "build", "bench", "run", "sweep", "report"],
)
def test_keys_and_their_defaults_are_those_of_the_function(name):
    from yolo_compress import api

    parameters = inspect.signature(getattr(api, name)).parameters
    for key in MODES[name].keys:
        if key.name == "model" and name == "bench":
            continue  # positional there, and called models
        default = parameters[key.name].default
        if default is inspect.Parameter.empty:
            assert key.required, key.name
        else:
            assert text.show(key.default) == text.show(default), key.name
