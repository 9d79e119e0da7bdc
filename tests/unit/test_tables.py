# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Generated blocks of the documents."""

from __future__ import annotations

import json

import pytest

from benchmarks import tables

ROW = {
    "label": "yolov8n.pt",
    "engine": "openvino",
    "precision": "fp32",
    "map50_95": 0.3021,
    "map50": 0.4321,
    "latency_ratio_p50": 1.0,
    "latency_ratio_spread": [0.98, 1.02],
    "latency_ms_p50": 21.25,
    "size_bytes": 12 << 20,
    "params": 3151904,
    "status": "ok",
    "reason": "",
}
REFUSED = {"latency_ratio_p50": None, "latency_ratio_spread": None, "latency_ms_p50": None, "params": None}
TREE = {
    "device": {"cpu_model": "Some CPU", "cpus_usable": 2},
    "versions": {"ultralytics": "8.4.190"},
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python benchmarks/spine_run.py",
    "model": "yolov8n.pt",
    "images": 400,
    "imgsz": 320,
    "rows": [ROW, {**ROW, "label": "broken", "status": "refused", "reason": "mAP is 0", **REFUSED}],
    "claims": [],
}
DOCUMENT = "before\n<!-- begin: results -->\nold\n<!-- end -->\nafter\n"


def test_the_results_table_has_a_line_for_each_row():
    lines = tables.results_table(TREE).splitlines()
    assert lines[0].startswith("| Candidate | Engine | mAP50-95 |")
    assert lines[2] == "| yolov8n.pt | openvino fp32 | 30.21 | 1.000 | 0.980 to 1.020 | 21.25 | 12.00 | 3.152 |"
    assert lines[3] == "| broken | openvino fp32 | 30.21 | - | - | - | 12.00 | - |"
    assert lines[-1] == (
        "yolov8n.pt on 400 images at 320 px; Some CPU, 2 cores; Ultralytics 8.4.190; 2026-01-02. Ratios are of paired "
        "rounds, to the first row. Made by `python benchmarks/spine_run.py`."
    )


def test_a_block_is_replaced_and_stays_the_same_the_second_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "SPINE_RUN", tmp_path / "spine_run.json")
    assert tables.render(DOCUMENT) == DOCUMENT
    tables.SPINE_RUN.write_text(json.dumps(TREE))
    once = tables.render(DOCUMENT)
    assert "| yolov8n.pt |" in once
    assert "old" not in once
    assert once.startswith("before\n<!-- begin: results -->\n| Candidate")
    assert once.endswith("\n<!-- end -->\nafter\n")
    assert tables.render(once) == once


def test_check_finds_a_stale_document_and_changes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "FILES", ("a.md",))
    file = tmp_path / "a.md"
    file.write_text("<!-- begin: help doctor -->\nold\n<!-- end -->\n")
    assert tables.main(["--check"]) == 1
    assert "old" in file.read_text()
    assert tables.main([]) == 0
    assert "usage: yolo-compress doctor" in file.read_text()
    assert tables.main(["--check"]) == 0
    assert capsys.readouterr().out == "stale: a.md\nwritten: a.md\nstale: nothing\n"


def test_a_block_that_nobody_renders_is_an_error():
    with pytest.raises(KeyError):
        tables.render("<!-- begin: nonsense -->\n<!-- end -->\n")
