# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a report says of accuracy beyond one number, and that it is silent about what was not measured."""

from __future__ import annotations

import json

from tests.unit.bench.samples import result, row
from tests.unit.report.test_report import read
from yolo_compress.bench import BenchResult
from yolo_compress.report import content, evidence
from yolo_compress.report.html import page
from yolo_compress.report.markdown import document

COMPARED = {"map50_95_difference": -0.0021, "map50_95_difference_interval": (-0.0045, 0.0002)}
COMPARED |= {"map50_95_difference_below_zero": 0.93}
ERRORS = {"error_gains": (0.05, 0.04, 0.02, 0.01, 0.03, None), "error_counts": (10, 9, 8, 7, 600, 5)}
CORRUPTED = {"clean_map50_95": 0.4, "corruption_drops": (("haze", 0.1), ("jpeg", 0.3))}
CORRUPTED |= {"corrupted_map50_95": (("haze", 1, 0.38), ("haze", 5, 0.34), ("jpeg", 1, 0.3), ("jpeg", 5, 0.26))}


def plain(*rows, **changes):
    return result(*rows, **changes).to_dict()


def shown(table):
    return [dict(zip(table.header, cells, strict=True)) for cells in table.rows]


def test_a_difference_stands_beside_its_interval():
    cells = shown(content.candidates_table(plain(row("a"), row("b", **COMPARED))))
    assert [one["mAP50-95 to first"] for one in cells] == ["-", "-0.21 [-0.45, +0.02]"]
    alone = content.candidates_table(plain(row("a"), row("b", map50_95_difference=0.01)))
    assert shown(alone)[1]["mAP50-95 to first"] == "+1.00"


def test_an_interval_that_includes_zero_is_told_in_words():
    told = {**COMPARED, "map50_95_difference_interval": (-0.0045, -0.0002)}
    (sentence,) = evidence.undecided(plain(row("a"), row("b", **COMPARED), row("c", **told), row("d")))
    assert sentence == (
        "b: these 400 images cannot tell its accuracy from that of a. The difference of -0.21 points has a 95 % "
        "interval from -0.45 to +0.02, which includes zero."
    )
    touching = {**COMPARED, "map50_95_difference_interval": (-0.0045, 0.0)}
    assert len(evidence.undecided(plain(row("a"), row("b", **touching)))) == 1


def test_sizes_are_those_of_the_twelve_numbers():
    stats = (0.3, 0.5, 0.31, 0.11, 0.22, 0.33, 0.2, 0.4, 0.45, 0.1, 0.2, 0.3)
    cells = shown(evidence.sizes_table(plain(row("a", stats=stats), row("b", stats=(*stats[:3], None, *stats[4:])))))
    assert cells[0] == {
        "Candidate": "a",
        "mAP small": "11.00",
        "mAP medium": "22.00",
        "mAP large": "33.00",
        "Recall of 100": "45.00",
    }
    assert cells[1]["mAP small"] == "-"
    assert evidence.sizes_table({"rows": [{"label": "a"}]}) is None


def test_errors_have_gain_and_number():
    cells = shown(evidence.errors_table(plain(row("a", **ERRORS))))
    assert cells == [
        {
            "Candidate": "a",
            "mAP50": "52.34",
            "Localisation": "5.00 (10)",
            "Classification": "4.00 (9)",
            "Both": "2.00 (8)",
            "Duplicate": "1.00 (7)",
            "Background": "3.00 (600)",
            "Missed": "- (5)",
        }
    ]
    assert evidence.errors_table(plain(row("a"))) is None
    assert shown(evidence.errors_table({"rows": [{"label": "a", "error_gains": [0.1] * 6}]}))[0]["Both"] == "10.00"


def test_robustness_is_a_share_of_the_clean_value():
    bench = plain(row("a", **CORRUPTED), row("b"))
    assert shown(evidence.robustness_table(bench)) == [
        {"Candidate": "a", "Clean mAP50-95": "40.00", "Mean": "20.0", "Haze": "10.0", "Jpeg": "30.0"}
    ]
    nothing = {**CORRUPTED, "corruption_drops": (("haze", None), ("jpeg", None))}
    assert shown(evidence.robustness_table(plain(row("a", **nothing))))[0]["Mean"] == "-"
    assert evidence.robustness_table(plain(row("a"))) is None


def test_the_method_speaks_of_what_was_measured_only():
    assert evidence.how(plain(row("a"))) == []
    bench = plain(row("a", **ERRORS, **CORRUPTED), row("b", **COMPARED))
    bench["settings"] |= {"bootstrap_resamples": 1000, "robustness_images": 100}
    text = " ".join(evidence.how(bench))
    for part in ("1000 resamples", "TIDE at IoU 0.5", "100 of these images", "at severities 1, 5"):
        assert part in text


def test_page_and_document_hold_the_sections_where_there_is_something_to_say():
    bench = plain(row("a", **ERRORS, **CORRUPTED), row("b", **COMPARED))
    text, web = document(bench), "".join(read(page(bench, None, {"latency": b"png"})).text)
    for part in ("Sizes", "Errors", "Robustness"):
        assert f"## {part}\n" in text
        assert f"\n{part}\n" in web
    for part in ("-0.21 [-0.45, +0.02]", "which includes zero", "TIDE", "5.00 (10)"):
        assert part in text
        assert part in web
    bare = plain(row("a", stats=()))
    web = "".join(read(page(bare, None, {"latency": b"png"})).text)
    for part in ("Sizes", "Errors", "Robustness", "includes zero"):
        assert part not in document(bare)
        assert part not in web


def test_a_file_of_before_is_read_and_reported():
    tree = plain(row("a"), row("b"))
    for entry in tree["rows"]:
        for name in (*COMPARED, *ERRORS, *CORRUPTED):
            del entry[name]
    read_again = BenchResult.from_json(json.dumps(tree))
    assert read_again.rows[1].map50_95_difference is None
    assert read_again.rows[0].corruption_drops == ()
    document(tree)


def test_a_result_with_evidence_survives_json():
    given = result(row("a", **ERRORS), row("b", **COMPARED, **CORRUPTED))
    assert BenchResult.from_json(given.to_json()) == given
