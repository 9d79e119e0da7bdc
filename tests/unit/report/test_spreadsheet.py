# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The report as CSV: every figure under its own name, not rounded, read back by the standard library's reader."""

from __future__ import annotations

import csv
import io

import pytest

from tests.unit.bench.samples import energy, refused, result, row
from tests.unit.report.test_content import RUN
from yolo_compress.report.files import file_name
from yolo_compress.report.recommendation import recommend
from yolo_compress.report.spreadsheet import spreadsheets

LABEL = 'ours "int8",\n<b>'


def read(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def sheets(*rows, run=None):
    bench = result(*rows).to_dict()
    return spreadsheets(bench, run, recommend(bench))


def test_candidates_have_their_figures_under_the_names_of_the_bench():
    changes = {"map50_95": 1 / 3, "map50_95_difference_interval": (-0.01, 0.02), "energy": energy()}
    changes |= {"corruption_drops": (("haze", 0.1),), "corrupted_map50_95": (("haze", 3, 0.3),)}
    first, second = read(sheets(row(LABEL, **changes), refused("broken"))["candidates.csv"])
    assert first["label"] == LABEL
    assert float(first["map50_95"]) == 1 / 3
    assert first["map50_95 of box"] == "0.3424"
    assert (first["map50_95_difference_interval_low"], first["latency_ratio_interval_high"]) == ("-0.01", "1.0")
    assert (first["corruption_drop_haze"], first["map50_95_haze_3"]) == ("0.1", "0.3")
    assert (first["energy_net_j_per_image"], first["energy_sensor"]) == ("0.05", "rails")
    assert first["map_small"] == "0.25"
    assert (second["status"], second["latency_ms_p50"], second["energy_sensor"]) == ("refused", "", "")


def test_layers_and_verdicts_have_files_of_their_own():
    found = sheets(row("a"), refused("b"), run=RUN)
    assert sorted(found) == ["candidates.csv", "layers-prune.csv", "recommendation.csv"]
    assert read(found["layers-prune.csv"]) == [
        {"layer": "model.2", "before": "32", "after": "24"},
        {"layer": "model.4", "before": "64", "after": ""},
    ]
    verdicts = read(found["recommendation.csv"])
    assert len(verdicts) == 6
    assert [one["verdict"] for one in verdicts[:2]] == ["chosen", "refused"]
    assert {one["limits"] for one in verdicts} == {"none given"}


def test_a_file_of_before_is_written_with_what_it_has():
    assert read(spreadsheets({"rows": [{"label": "a"}]}, {"stages": None}, ())["candidates.csv"]) == [{"label": "a"}]


@pytest.mark.parametrize(
    ("label", "name"),
    [("prune", "prune"), ("a/b c", "a-b-c"), ("../..", "unnamed"), ("ours:openvino:int8", "ours-openvino-int8")],
)
def test_labels_become_plain_file_names(label, name):
    assert file_name(label) == name
