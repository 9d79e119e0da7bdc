# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Recommendations: the rule that decides, why each other candidate was not taken, and the nearest where none fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bench.samples import refused, result, row
from yolo_compress.errors import UsageError
from yolo_compress.report import Limits
from yolo_compress.report.html import page
from yolo_compress.report.markdown import document
from yolo_compress.report.recommendation import recommend, verdicts_table

MB = 1 << 20


def plain(*rows, **changes):
    return result(*rows, **changes).to_dict()


def candidate(label, accuracy, ms, mb, rate, **changes):
    figures = {"map50_95": accuracy, "latency_ms_p50": ms, "size_bytes": int(mb * MB)}
    return row(label, **figures, throughput_images_per_s=rate, **changes)


def bench(**changes):
    """Return float, a faster one that the images cannot tell from it, a smaller one that they can, and a broken one."""
    return plain(
        candidate("float", 0.40, 20.0, 12, 50.0),
        candidate("int8", 0.398, 8.0, 4, 120.0, map50_95_intervals=(("float", -0.005, 0.001),)),
        candidate("tiny", 0.35, 9.0, 2, 110.0, map50_95_intervals=(("float", -0.06, -0.04), ("int8", -0.055, -0.041))),
        refused("broken"),
        **changes,
    )


def by_name(found):
    return {one.deployment.partition(" ")[0]: one for one in found}


def kinds(recommendation):
    return {one.label: one.kind for one in recommendation.verdicts}


def reasons(recommendation):
    return {one.label: one.reason for one in recommendation.verdicts}


def test_without_limits_the_most_accurate_gives_way_to_an_equal_that_is_better_in_what_counts():
    found = by_name(recommend(bench()))
    assert {name: one.chosen for name, one in found.items()} == dict.fromkeys(
        ("Microcontroller", "Edge", "Server"), "int8"
    )
    edge = found["Edge"]
    assert edge.limits == "none given"
    assert edge.rule == (
        "the fastest of those that the images cannot tell from the most accurate, as no limit was given (float, "
        "-0.20 points, 95 % interval -0.50 to +0.10): 8.00 ms, 39.80 mAP50-95"
    )
    assert kinds(edge) == {"float": "beaten", "int8": "chosen", "tiny": "beaten", "broken": "refused"}
    assert reasons(edge)["float"] == (
        "int8 is faster (8.00 ms against 20.00 ms), and the images cannot tell it from this one (-0.20 points, 95 % "
        "interval -0.50 to +0.10)"
    )
    assert reasons(edge)["tiny"] == "float is more accurate by 5.00 points, which the images can tell"
    assert reasons(edge)["broken"] == "refused: nothing is detected on any image"


def test_a_size_is_held_by_the_microcontroller_and_a_latency_by_the_edge():
    found = by_name(recommend(bench(), Limits(latency_ms=8.5, size_mb=3)))
    assert found["Microcontroller"].chosen == "tiny"
    assert found["Microcontroller"].limits == "at most 3.00 MB"
    assert found["Microcontroller"].rule == "the most accurate within the limits: 2.00 MB, 35.00 mAP50-95"
    assert reasons(found["Microcontroller"])["int8"] == "has 4.00 MB, 1.00 MB (33 %) over the limit"
    assert kinds(found["Microcontroller"])["float"] == "too large"
    assert found["Edge"].chosen == "int8"
    assert reasons(found["Edge"])["tiny"] == "takes 9.00 ms, 0.50 ms (6 %) over the limit"
    assert kinds(found["Edge"])["tiny"] == "too slow"
    assert found["Server"].limits == "none given"


def test_a_drop_alone_leaves_the_choice_to_what_counts():
    loose = by_name(recommend(bench(), Limits(max_drop=6)))
    assert {name: one.chosen for name, one in loose.items()} == {
        "Microcontroller": "tiny",
        "Edge": "int8",
        "Server": "int8",
    }
    assert loose["Microcontroller"].rule == "the smallest within 6.00 points of the first: 2.00 MB, 35.00 mAP50-95"
    assert reasons(loose["Microcontroller"])["int8"] == "tiny is smaller (2.00 MB against 4.00 MB) within the same drop"
    assert reasons(loose["Server"])["float"] == (
        "int8 is of higher throughput (120.0 images/s against 50.0 images/s) within the same drop"
    )
    strict = by_name(recommend(bench(), Limits(max_drop=0.1)))
    assert {one.chosen for one in strict.values()} == {"float"}
    assert kinds(strict["Edge"])["tiny"] == "too inaccurate"
    assert reasons(strict["Edge"])["int8"] == "is below the first by 0.20 points, 0.10 points (100 %) over the limit"


def test_where_nothing_fits_the_nearest_is_told_with_what_it_misses():
    edge = by_name(recommend(bench(), Limits(latency_ms=5, max_drop=1)))["Edge"]
    assert edge.chosen is None
    assert edge.nearest == "int8"
    assert edge.rule == "none meets the limits; the nearest is int8, which takes 8.00 ms, 3.00 ms (60 %) over the limit"
    assert edge.sentence.startswith("Limits: at most 5.00 ms and at most 1.00 points below the first. Result: none")
    rows = (candidate("a", 0.4, 20.0, 1, 1.0), candidate("b", 0.385, 12.0, 1, 1.0))
    both = by_name(recommend(plain(*rows), Limits(10, None, 1)))["Edge"]
    assert both.nearest == "b"  # at worst half of a limit over, where a is all of one
    missed = "takes 12.00 ms, 2.00 ms (20 %) over the limit and is below the first by 1.50 points, 0.50 points (50 %)"
    assert reasons(both)["b"] == f"{missed} over the limit"
    assert both.rule.endswith(f"b, which {missed} over the limit")


def test_one_that_the_images_tell_from_the_best_is_not_said_to_be_slower():
    rows = (
        candidate("best", 0.40, 20.0, 1, 50.0),
        candidate("near", 0.39, 10.0, 1, 90.0, map50_95_intervals=(("best", -0.02, 0.001),)),
        candidate("far", 0.38, 5.0, 1, 99.0, map50_95_intervals=(("best", -0.03, -0.01), ("near", -0.02, 0.01))),
    )
    edge = by_name(recommend(plain(*rows)))["Edge"]
    assert edge.chosen == "near"
    assert reasons(edge)["far"] == "best is more accurate by 2.00 points, which the images can tell"


def test_without_an_interval_candidates_are_taken_to_differ():
    rows = (candidate("a", 0.40, 20.0, 1, 50.0), candidate("b", 0.399, 8.0, 1, 90.0))
    edge = by_name(recommend(plain(*rows)))["Edge"]
    assert edge.chosen == "a"
    assert reasons(edge)["b"] == "a is more accurate by 0.10 points"
    old = plain(rows[0], candidate("b", 0.399, 8.0, 1, 90.0, map50_95_difference_interval=(-0.01, 0.01)))
    for entry in old["rows"]:
        del entry["map50_95_intervals"]  # a file of before holds the interval to the first only
    assert by_name(recommend(old))["Edge"].chosen == "b"


def test_what_was_not_measured_cannot_be_chosen():
    rows = (candidate("a", 0.40, 20.0, 1, None), candidate("b", 0.30, 8.0, 1, 9.0))
    server = by_name(recommend(plain(*rows)))["Server"]
    assert (server.chosen, kinds(server)["a"]) == ("b", "not measured")
    nothing = by_name(recommend(plain(refused("a")), Limits(size_mb=1)))["Microcontroller"]
    assert (nothing.chosen, nothing.nearest) == (None, None)
    assert nothing.rule == "no candidate was measured and passed its accuracy check"


def test_a_drop_is_counted_from_the_first_that_is_not_refused():
    found = recommend(plain(refused("broken"), candidate("a", 0.40, 20.0, 1, 9.0)), Limits(max_drop=0.5))
    assert {one.chosen for one in found} == {"a"}


def test_limits_of_the_benchmark_give_way_to_those_given_now():
    kept = bench()
    kept["settings"]["limits"] = {"latency_ms": 1.0, "max_drop": 9.0}
    assert by_name(recommend(kept))["Edge"].chosen is None
    edge = by_name(recommend(kept, Limits(latency_ms=30)))["Edge"]
    assert edge.chosen == "int8"
    assert edge.limits == "at most 30.00 ms and at most 9.00 points below the first"


@pytest.mark.parametrize(("key", "field"), [("latency", "latency_ms"), ("size", "size_mb"), ("max_drop", "max_drop")])
def test_a_limit_that_allows_nothing_is_refused(key, field):
    with pytest.raises(UsageError, match=f"{key}=0 allows nothing; give a number above 0"):
        Limits(**{field: 0})


FIGURES = st.tuples(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
LIMIT = st.none() | st.integers(1, 9)


@given(st.lists(FIGURES, min_size=1, max_size=6), LIMIT, LIMIT, st.none() | st.integers(1, 60))
def test_a_recommendation_keeps_every_limit_and_nothing_that_keeps_them_is_better_in_both(rows, latency, size, drop):
    data = plain(*(candidate(str(i), a / 100, ms, mb, rate) for i, (a, ms, mb, rate) in enumerate(rows)))
    costs = {"Microcontroller": (2, size), "Edge": (1, latency), "Server": (3, None)}
    for name, one in by_name(recommend(data, Limits(latency, size, drop))).items():
        place, limit = costs[name]
        kept = [
            index
            for index, row in enumerate(rows)
            if (limit is None or row[place] <= limit) and (drop is None or rows[0][0] - row[0] <= drop)
        ]
        assert (one.chosen is None) == (not kept)
        assert [verdict.label for verdict in one.verdicts] == [str(index) for index in range(len(rows))]
        assert sum(verdict.kind == "chosen" for verdict in one.verdicts) == (1 if kept else 0)
        if kept:
            chosen = rows[int(one.chosen)]
            assert int(one.chosen) in kept
            sign = -1 if name == "Server" else 1
            assert not any(rows[i][0] > chosen[0] and sign * rows[i][place] < sign * chosen[place] for i in kept)


def test_page_and_document_say_what_was_chosen_and_why():
    limits = Limits(latency_ms=8.5)
    web, text = page(bench(), None, {"latency": b"png"}, limits=limits), document(bench(), limits=limits)
    for part in ("Edge accelerator (latency of one image): int8", "at most 8.50 ms", "0.50 ms (6 %) over the limit"):
        assert part in web
        assert part in text
    table = verdicts_table(by_name(recommend(bench()))["Edge"])
    assert table.rows[1] == ("int8", "chosen", "chosen")
