# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What is typed for a flag becomes the values that are meant, in the order that is stated."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_compress.errors import UsageError
from yolo_compress.sweep.space import Space, Span, read_space, show, split


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("0.2,0.4,0.6", (0.2, 0.4, 0.6)),
        ((0.2, 0.4), (0.2, 0.4)),
        ([0.2, 0.4], (0.2, 0.4)),
        ("none,int8", (None, "int8")),
        ("a.pt,runs/b.pt", ("a.pt", "runs/b.pt")),
        ("a.pt,b.pt;c.pt", ("a.pt,b.pt", "c.pt")),
        ("true,false", (True, False)),
        ("1,2", (1, 2)),
        ("1e-3,1e-4", (0.001, 0.0001)),
        ("[0,1],[2]", ([0, 1], [2])),
        ("[openvino:int8,pytorch:fp32],[pytorch:fp32]", ("[openvino:int8,pytorch:fp32]", "[pytorch:fp32]")),
        ("cwd=1,response=0.5;cwd=2", ("cwd=1,response=0.5", "cwd=2")),
        ("nothing,2:4", ("nothing", "2:4")),
        (("none", 0.3), (None, 0.3)),
        ("1,3;5", ([1, 3], 5)),
    ],
)
def test_several_values(typed, values):
    assert read_space({"flag": typed}) == Space(choices={"flag": values})


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        (0.3, 0.3),
        ("obs", "obs"),
        ("openvino:int8,onnxruntime:int8;", "openvino:int8,onnxruntime:int8"),
        ([[0, 1]], [0, 1]),
        (((0, 1),), [0, 1]),
        ("[0,1]", [0, 1]),
        ("none", None),
        (None, None),
        (False, False),
    ],
)
def test_one_value(typed, value):
    assert read_space({"flag": typed}) == Space(fixed={"flag": value})


@pytest.mark.parametrize(
    ("typed", "span"),
    [
        ("0.2..0.6", Span(0.2, 0.6)),
        ("5..20", Span(5, 20, whole=True)),
        ("1e-5..1e-3:log", Span(1e-5, 1e-3, log=True)),
        ("-1..1", Span(-1, 1, whole=True)),
        (".5..1", Span(0.5, 1.0)),
    ],
)
def test_ranges(typed, span):
    (found,) = read_space({"flag": typed}).spans.values()
    assert found == span
    assert type(found.low) is type(span.low)
    assert read_space({"flag": str(span)}).spans == {"flag": span}


def test_two_dots_in_a_path_are_no_range():
    assert read_space({"teacher": "../a.pt,../b.pt"}).choices == {"teacher": ("../a.pt", "../b.pt")}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "0.2,,0.4",
            "flag=0.2,,0.4 names an empty value; write values with commas between, such as flag=a,b, and none",
        ),
        ("a;;", "flag=a;; names an empty value"),
        ("", "flag= names an empty value"),
        ((), "flag=() names an empty value"),
        ("0.2,0.20", "flag names 0.2 twice; name each value once"),
        ("none,None", "flag names none twice"),
        ("0.6..0.2", "flag=0.6..0.2 is no range, since 0.6 is not below 0.2; write flag=LOW..HIGH"),
        ("0..1:log", "flag=0..1:log has no logarithm at 0; begin above 0, or leave :log out"),
        ("none,0.2..0.6", "flag has the range 0.2..0.6 beside other values, and a search draws from one or the other"),
    ],
)
def test_what_cannot_be_meant(typed, message):
    with pytest.raises(UsageError) as error:
        read_space({"flag": typed})
    assert str(error.value).startswith(message)


def test_true_is_not_one():
    assert read_space({"flag": (1, True, 1.0)}).choices == {"flag": (1, True, 1.0)}


def test_the_grid_is_in_the_order_given_and_the_last_flag_changes_fastest():
    space = read_space({"b": "1,2", "fixed": 7, "a": "x,y"})
    assert list(space.grid()) == [{"b": 1, "a": "x"}, {"b": 1, "a": "y"}, {"b": 2, "a": "x"}, {"b": 2, "a": "y"}]
    assert space.fixed == {"fixed": 7}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"prune": 0.3},
            "every flag has one value, so there is nothing to sweep; give one several, such as prune=0.2,0.4",
        ),
        (
            {"prune": "0.2..0.6", "qat": "none,int8"},
            "prune=0.2..0.6 is a range, which a grid cannot go through; name its values, such as prune=0.2,0.6, or add",
        ),
    ],
)
def test_no_grid(given, message):
    with pytest.raises(UsageError) as error:
        read_space(given).grid()
    assert str(error.value).startswith(message)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1000, 1000),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(lambda value: value + 0.0),  # -0.0 is 0.0
    st.from_regex(r"[a-z]{2}[a-z0-9_:/.]{0,8}\.pt", fullmatch=True),
)
LISTS = st.lists(st.integers(0, 99), min_size=1, max_size=3)
VALUES = st.lists(SCALARS | LISTS, min_size=1, max_size=5, unique_by=lambda value: (type(value).__name__, str(value)))


@given(VALUES)
def test_what_is_shown_can_be_typed_again(values):
    text = ";".join(show(value) for value in values) + ";"
    space = read_space({"flag": text})
    found = space.choices.get("flag") or (space.fixed["flag"],)
    assert list(found) == values
    assert [type(value) for value in found] == [type(value) for value in values]
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space


@given(st.lists(st.text("abc=.:/ ", min_size=1).filter(str.strip), min_size=1, max_size=6))
def test_commas_and_semicolons_part_alike(parts):
    plain = [part.strip() for part in parts]
    assert split(",".join(parts)) == plain
    assert split(";".join(parts) + ";") == plain


@given(st.dictionaries(st.sampled_from("abcd"), st.sets(st.integers(0, 9), min_size=2, max_size=4), min_size=1))
def test_the_grid_is_the_product(choices):
    space = read_space({flag: tuple(values) for flag, values in choices.items()})
    expected = [dict(zip(choices, row, strict=True)) for row in itertools.product(*choices.values())]
    assert list(space.grid()) == expected
