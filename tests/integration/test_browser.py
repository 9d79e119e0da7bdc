# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The report in a real browser: nothing wider than the window, no picture missing, no error, no request to a network.

It needs a Chromium, named by YOLO_COMPRESS_BROWSER or on the PATH, and is skipped, visibly, without one. With
YOLO_COMPRESS_SCREENSHOTS=FOLDER it leaves pictures of the page there to look at.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.browser import VARIABLE, find_browser, visit
from tests.unit.bench.samples import energy, refused, result, row
from tests.unit.bench.test_roofline import NODES, PEAKS, WORK
from tests.unit.report.test_content import OURS
from tests.unit.report.test_techniques import RUN
from yolo_compress.bench.accuracy import Detections
from yolo_compress.bench.roofline import under_roof
from yolo_compress.report import Limits, write_report
from yolo_compress.report.drawing import Witness, draw

WIDEST = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
# decoding what is inside the page may end after its load event
PICTURES = "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth, () => 0)))"
OUTSIDE = (
    "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll')).map(e => e.getBoundingClientRect()"
)
OUTSIDE += ".right).reduce((a, b) => Math.max(a, b), 0)"


@pytest.fixture(scope="module")
def browser():
    found = find_browser()
    if found is None:
        pytest.skip(f"no Chromium here: put one on the PATH, or its path into {VARIABLE}")
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Write a report that has every section, with long names and a stage of many layers."""
    folder = tmp_path_factory.mktemp("report")
    image = np.random.default_rng(0).integers(60, 200, (12, 16, 3), dtype=np.uint8)
    path = folder / "000000000139.jpg"
    cv2.imwrite(str(path), cv2.resize(image, (640, 480), interpolation=cv2.INTER_CUBIC))
    long = "ours:" + "a_very_long_name_of_a_candidate_without_any_space_" * 2
    compared = {"map50_95_difference": -0.008, "map50_95_difference_interval": (-0.012, 0.001)}
    roof = under_roof(WORK, NODES, PEAKS, precision="int8")
    rows = (row("native:fp32", energy=energy()), row("ours:openvino:int8", **OURS, **compared, roofline=roof))
    made = result(*rows, row(long, origin="user", latency_ms_p50=14.0, size_bytes=5 << 20), refused("broken"))
    witness = Witness(2)
    one = np.array([[40, 60, 300, 400, 0.9, 0], [350, 80, 600, 300, 0.7, 1]], np.float32)
    other = np.array([[40, 60, 300, 400, 0.8, 0], [330, 300, 500, 470, 0.6, 2]], np.float32)
    witness([path], [Detections([boxes]) for boxes in (one, other, one[:1], np.zeros((0, 6), np.float32))])
    draw(made, witness, folder)
    layers = [{"layer": f"model.{i}.cv1.conv", "before": 64, "after": 32, "share": 0.5} for i in range(22)]
    stages = [*RUN["stages"][:1], {**RUN["stages"][1], "tables": {"prune": layers}}, *RUN["stages"][2:]]
    run, bench = {**RUN, "stages": stages}, made.to_dict()
    folds = {
        "folds": 3,
        "images": 30,
        "runs": [{"number": n, "state": "done", "error": "", "notes": [], "bench": bench} for n in (1, 2)],
    }
    out = folder / "out"
    return write_report(bench, run, out, limits=Limits(10, 4, 1), pictures=folder, folds=folds).html


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_in_a_browser(browser, report, width, dark):
    seen = visit(browser, report, width=width, expressions=(WIDEST, PICTURES, OUTSIDE), dark=dark)
    widest, pictures, outside = seen.answers
    assert widest <= width
    assert outside <= width
    assert len(pictures) >= 5
    assert min(pictures) > 0
    assert seen.console == []
    assert [address for address in seen.requests if not address.startswith("data:")] == [report.as_uri()]
    if folder := os.environ.get("YOLO_COMPRESS_SCREENSHOTS"):
        name = f"report-{width}-{'dark' if dark else 'light'}.png"
        (Path(folder) / name).write_bytes(seen.screenshot)


def test_what_a_page_asks_for_and_does_wrong_is_seen(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<meta name="viewport" content="width=device-width"><img src="missing.png">'
        '<div style="width:2000px">wide</div><script>console.error("no"); undefined_name()</script>'
    )
    seen = visit(browser, page, width=390, expressions=(WIDEST, PICTURES))
    assert seen.answers[0] >= 2000
    assert seen.answers[1] == [0]
    assert len(seen.console) >= 2
    assert any(address.endswith("missing.png") for address in seen.requests)
