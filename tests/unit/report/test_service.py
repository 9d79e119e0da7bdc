# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a report says of a candidate in service, and that it is silent about what was not measured."""

from __future__ import annotations

import csv
import io

from tests.unit.bench.samples import result, row
from yolo_compress.bench.streams import Streams
from yolo_compress.report.html import page
from yolo_compress.report.markdown import document
from yolo_compress.report.service import service_method, service_table
from yolo_compress.report.spreadsheet import spreadsheets

STREAMS = Streams(4, 2, 5.02, 812, 161.9, 24.6, 31.25)
RUN = {"stages": [{"name": "build", "metrics": {"openvino:int8 build_seconds": 3.21, "openvino:int8 size_bytes": 9}}]}


def plain(*rows, **changes):
    return result(*rows, **changes).to_dict()


def shown(table):
    return [dict(zip(table.header, cells, strict=True)) for cells in table.rows]


def test_only_what_was_measured_has_a_column():
    assert service_table(plain(row("a"), row("b")), None) is None
    assert service_method(plain(row("a"))) == []
    bench = plain(row("a", load_ms=123.4, first_inference_ms=15.6), row("b"))
    assert shown(service_table(bench, None)) == [
        {"Candidate": "a", "Load (ms)": "123", "First inference (ms)": "16"},
        {"Candidate": "b", "Load (ms)": "-", "First inference (ms)": "-"},
    ]
    (sentence,) = service_method(bench)
    assert sentence.startswith("Load and first inference: one observation in a fresh process")


def test_engines_of_a_run_have_their_time_to_build():
    bench = plain(row("native:int8"), row("ours:openvino:int8"))
    cells = shown(service_table(bench, RUN))
    assert [one["Build (s)"] for one in cells] == ["-", "3.2"]


def test_batches_and_streams():
    bench = plain(row("a", streams=STREAMS, batch_throughput_images_per_s=99.94), row("b"))
    bench["settings"]["batch"] = 8
    first, second = shown(service_table(bench, None))
    assert first == {
        "Candidate": "a",
        "Images/s at batch 8": "99.9",
        "Streams": "4",
        "Threads of each": "2",
        "Images/s of all": "161.9",
        "p50 in a stream (ms)": "24.60",
        "p95 in a stream (ms)": "31.25",
    }
    assert set(second.values()) == {"b", "-"}
    assert any(sentence.startswith("Streams: so many sessions") for sentence in service_method(bench))


def test_every_form_of_the_report_shows_it():
    bench = plain(row("a", streams=STREAMS, load_ms=7.0), row("b"))
    assert "## In service" in document(bench, None)
    assert "<h2>In service</h2>" in page(bench, None, {})
    assert "161.9" in page(bench, None, {})
    for text in (document(plain(row("a")), None), page(plain(row("a")), None, {})):
        assert "In service" not in text
    lines = list(csv.DictReader(io.StringIO(spreadsheets(bench, None, [])["candidates.csv"])))
    assert (lines[0]["streams_count"], lines[0]["streams_images_per_s"], lines[1]["streams_count"]) == (
        "4",
        "161.9",
        "",
    )
