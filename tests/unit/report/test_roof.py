# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Rooflines in the report: the largest gain first, on the page, in the document, as a picture and as CSV."""

from __future__ import annotations

import io

from PIL import Image

from tests.unit.bench.samples import result, row
from tests.unit.bench.test_roofline import NODES, PEAKS, WORK
from yolo_compress.bench import BenchResult
from yolo_compress.bench.roofline import under_roof
from yolo_compress.report import write_report
from yolo_compress.report.roof import peaks_in_words, roofline_picture, roofline_table, rooflines


def made():
    return result(row("float"), row("int8 <b>", roofline=under_roof(WORK, NODES, PEAKS, precision="int8")))


def test_the_layers_with_most_to_gain_come_first():
    ((label, roofline),) = rooflines(made().to_dict())
    assert label == "int8 <b>"
    shown = roofline_table(roofline)
    assert [cells[0] for cells in shown.rows] == ["whole model", "everything else", "model.0.conv", "model.1.conv"]
    assert shown.rows[2] == (
        "model.0.conv",
        "fp32",
        "2000.0",
        "4.000",
        "500.0",
        "25.000",
        "20.000",
        "80",
        "5.000",
        "compute",
    )
    assert shown.rows[1][5] == "11.000"
    assert "int8 400.0 GOP/s (another); memory 10.0 GB/s (a copy)" in peaks_in_words(roofline)


def test_it_survives_the_file_and_is_written_everywhere(tmp_path):
    again = BenchResult.from_json(made().to_json())
    assert again == made()
    files = write_report(again.to_dict(), None, tmp_path)
    assert "roofline-int8-b.csv" in {path.name for path in files.csv}
    assert (tmp_path / "roofline-int8-b.csv").read_text().count("\n") == 4
    assert (tmp_path / "roofline-int8-b.png").read_bytes()[:4] == b"\x89PNG"
    web, text = files.html.read_text(), files.markdown.read_text()
    for part in ("Roofline", "model.0.conv", "Williams"):
        assert part in web
        assert part in text
    assert "](roofline-int8-b.png)" in text


def test_without_one_nothing_is_said():
    assert rooflines(result(row("a")).to_dict()) == []


def test_the_picture_can_be_drawn():
    ((_, roofline),) = rooflines(made().to_dict())
    assert Image.open(io.BytesIO(roofline_picture(roofline))).width > 1000
