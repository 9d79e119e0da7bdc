# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What each technique did: changes against the last step that was kept, by hand-computed numbers."""

from __future__ import annotations

from tests.unit.bench.samples import result, row
from yolo_compress.report.html import page
from yolo_compress.report.markdown import document
from yolo_compress.report.techniques import techniques_table

MB = 1 << 20


def stage(name, accuracy, params, size, **changes):
    metrics = {"map50_95": accuracy, "params": params, "size_bytes": size}
    return {"name": name, "metrics": {k: v for k, v in metrics.items() if v is not None}, **changes}


RUN = {
    "recipe": {"name": "edge-cpu", "distill": {"teacher": []}},
    "stages": [
        stage("baseline", 0.40, 3_000_000, 6 * MB),
        stage("prune", 0.30, 1_500_000, 3 * MB),
        stage("train", 0.39, 1_500_000, 3 * MB),
        stage("quantize", 0.385, None, int(1.5 * MB)),
        {"name": "build", "metrics": {"openvino:int8 size_bytes": 2 * MB, "openvino:fp32 size_bytes": 6 * MB}},
        {"name": "bench", "metrics": {}},
    ],
}
BENCH = result(row("native:fp32"), row("ours:openvino:int8", map50_95=0.38)).to_dict()


def test_three_techniques_and_the_engines_with_their_changes():
    table = techniques_table(BENCH, RUN)
    assert table.rows == (
        ("Given model", "3.000", "-", "6.00", "-", "40.00", "-", "-"),
        ("Pruning", "1.500", "-50.0", "3.00", "-50.0", "30.00", "-10.00", "-10.00"),
        ("Distillation", "1.500", "+0.0", "3.00", "+0.0", "39.00", "+9.00", "-1.00"),
        ("Quantization", "-", "-", "1.50", "-50.0", "38.50", "-0.50", "-1.50"),
        ("Engine openvino:int8", "-", "-", "2.00", "+33.3", "38.00", "-0.50", "-2.00"),
        ("Engine openvino:fp32", "-", "-", "6.00", "+300.0", "-", "-", "-"),
    )
    assert len(table.header) == 8


def test_a_step_that_was_given_up_is_shown_and_not_compared_with():
    stages = [RUN["stages"][0], {**RUN["stages"][1], "outputs": {}}, RUN["stages"][3]]
    rows = techniques_table(BENCH, {"stages": stages}).rows
    assert [cells[0] for cells in rows] == ["Given model", "Pruning (given up)", "Quantization"]
    assert rows[2][4] == "-75.0"
    assert rows[2][6] == "-1.50"


def test_training_is_named_by_what_the_recipe_asks_for():
    names = [
        techniques_table(BENCH, {**RUN, "recipe": given}).rows[2][0] for given in ({}, {"qat": {}, "distill": None})
    ]
    assert names == ["Training", "Training"]
    assert (
        techniques_table(BENCH, {**RUN, "recipe": {"qat": {"freeze": 1}}}).rows[2][0] == "Training, quantization-aware"
    )


def test_a_run_that_compresses_nothing_has_no_such_table():
    for run in (None, {}, {"stages": [RUN["stages"][0]]}, {"stages": [{}]}):
        assert techniques_table(BENCH, run) is None
    assert "What each technique did" not in page(BENCH, None, {})


def test_page_and_document_hold_it():
    for text in (page(BENCH, RUN, {}), document(BENCH, RUN)):
        assert "What each technique did" in text
        assert "Engine openvino:int8" in text
