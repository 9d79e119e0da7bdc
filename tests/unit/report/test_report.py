# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The files of a report: an HTML page that stands alone, and a picture."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unit.bench.samples import energy, refused, result, row
from tests.unit.report.test_content import OURS, RUN
from yolo_compress.errors import DataError, OutputError
from yolo_compress.report import write_report
from yolo_compress.report.html import page
from yolo_compress.report.pareto import ENERGY, RATIO, SIZE, drawn, front, in_words, picture, shortened, unbeaten

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Checker(HTMLParser):
    """Follows tags and keeps what they refer to and say."""

    def __init__(self):
        super().__init__()
        self.open, self.targets, self.tags, self.text, self.pictures = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in {"src", "href", "srcset", "action", "data"}:
                self.targets.append(value)
            assert not name.startswith("on"), f"{tag} has a script in {name}"
        if tag == "img":
            self.pictures.append(dict(attributes))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture
def bench():
    return result(row("native:fp32"), row("ours <b>", **OURS), refused("broken")).to_dict()


def test_the_page_is_well_formed_and_stands_alone(bench):
    text = page(bench, RUN, {"latency": picture(bench)})
    found = read(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert len(found.targets) == 1
    assert found.targets[0].startswith("data:image/png;base64,")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://", text)


def test_the_picture_is_inside_and_described(bench):
    png = picture(bench)
    (found,) = read(page(bench, None, {"latency": png})).pictures
    assert base64.b64decode(found["src"].partition(",")[2]) == png
    assert "native:fp32 20.00 ms, 37.12" in found["alt"]
    assert "broken" not in found["alt"]


def test_what_users_wrote_is_text_not_markup(bench):
    found = read(page(bench, {**RUN, "recipe": {"name": "<script>alert(1)</script>"}}, {"latency": b"png"}))
    assert "script" not in found.tags
    assert "b" not in found.tags
    assert "ours <b>" in "".join(found.text)


def test_every_section_is_there_and_only_where_there_is_something_to_say(bench):
    titles = "".join(read(page(bench, RUN, {"latency": b"png"})).text)
    for part in ("Candidates", "Accuracy against latency", "Notes", "What each stage did", "Layers: prune", "edge-cpu"):
        assert part in titles
    for part in ("mAP50-95 per class", "How it was measured", "Machine and versions"):
        assert part in titles
    alone = "".join(read(page(result(row("a")).to_dict(), None, {"latency": b"png"})).text)
    for part in ("What each stage did", "Layers:", "Notes"):
        assert part not in alone


def test_tables_scroll_in_their_own_box_and_the_page_does_not(bench):
    text = page(bench, RUN, {"latency": b"png"})
    assert text.count('<div class="scroll"') == text.count("<table>")
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto", text)
    assert re.search(r"img \{[^}]*width: 100%", text)
    widths = [float(value) for value in re.findall(r"(?<!max-)(?<!min-)width: ([0-9.]+)(?:px|rem)", text)]
    assert widths == []  # nothing is wider than a telephone


def test_the_page_has_both_themes_and_prints(bench):
    text = page(bench, RUN, {"latency": b"png"})
    assert "@media (prefers-color-scheme: dark)" in text
    assert "@media print" in text
    light, dark = (set(re.findall(r"(--\w+):", part)) for part in text.split("prefers-color-scheme: dark")[:2])
    assert light <= dark  # every colour of the light theme has one in the dark


def test_energies_and_their_reasons_stand_on_the_page():
    reason = "unavailable: rapl: only root may read it"
    rows = (row("a", energy=energy(measures="<VDD_IN>")), row("b", energy=reason))
    text = "".join(read(page(result(*rows, notes=(f"energy {reason}",)).to_dict(), None, {"latency": b"png"})).text)
    for part in ("Energy", "Net (mJ/image)", "50.00", "<VDD_IN>", "rails", "20.0", f"energy {reason}"):
        assert part in text
    assert "Net (mJ/image)" not in page(result(row("a")).to_dict(), None, {"latency": b"png"})


def test_a_refused_candidate_is_told_in_words(bench):
    text = "".join(read(page(bench, RUN, {"latency": b"png"})).text)
    assert "broken: latency refused, since nothing is detected on any image." in text


def test_the_picture_is_a_png_of_readable_size(bench):
    image = Image.open(io.BytesIO(picture(bench)))
    assert image.format == "PNG"
    assert image.width >= 1000
    image.load()
    assert len(image.convert("RGB").getcolors(1 << 24)) > 20  # something is drawn


def test_accuracy_is_drawn_against_size_and_against_energy_where_it_was_measured(tmp_path):
    assert [axis.name for axis in drawn(result(row("a")).to_dict())] == ["latency", "size"]
    assert [axis.name for axis in drawn(result(refused("a")).to_dict())] == ["latency"]
    unmeasured = result(row("a", energy="unavailable: rapl")).to_dict()
    assert [axis.name for axis in drawn(unmeasured)] == ["latency", "size"]
    bench = result(row("a", energy=energy()), row("b", size_bytes=3 << 20), refused("broken")).to_dict()
    assert in_words(bench, SIZE) == "mAP50-95 against size: a 12.00 MB, 37.12; b 3.00 MB, 37.12"
    assert in_words(bench, ENERGY) == "mAP50-95 against energy: a 50.00 mJ, 37.12"
    files = write_report(bench, None, tmp_path)
    assert [path.name for path in files.pictures] == ["pareto.png", "pareto-size.png", "pareto-energy.png"]
    assert len({path.read_bytes() for path in files.pictures}) == 3
    pictures = read(files.html.read_text()).pictures
    assert [one["alt"].partition(":")[0] for one in pictures] == [
        "mAP50-95 against median latency",
        "mAP50-95 against size",
        "mAP50-95 against energy",
    ]
    for path in files.pictures:
        assert f"]({path.name})" in files.markdown.read_text()


def test_a_ratio_takes_the_place_of_the_latency():
    rows = (row("a", latency_ratio_p50=1.0), row("b", latency_ratio_p50=0.5, map50_95=0.4), refused("broken"))
    bench = result(*rows).to_dict()
    assert [(axis.name, axis.file) for axis in drawn(bench, RATIO)] == [
        ("ratio", "pareto.png"),
        ("size", "pareto-size.png"),
    ]
    assert (
        in_words(bench, RATIO)
        == "mAP50-95 against time as a ratio to the first candidate: a 1.00, 37.12; b 0.50, 40.00"
    )
    assert unbeaten(bench, RATIO) == ["b"]
    assert unbeaten(bench, ENERGY) == []
    assert picture(bench, RATIO) != picture(bench)


def test_a_long_name_is_shortened_in_the_picture_and_does_not_squeeze_it():
    assert shortened("a" * 32) == "a" * 32
    assert shortened("x" * 40 + "int8") == "x" * 15 + "\N{HORIZONTAL ELLIPSIS}" + "x" * 12 + "int8"


def test_the_picture_without_any_latency_says_so():
    empty = picture(result(refused("a")).to_dict())
    assert empty != picture(result(row("a")).to_dict())


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
@settings(deadline=None)
def test_the_front_holds_exactly_what_no_other_point_beats(points):
    def beaten(x, y):
        return any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)

    assert sorted(front(points)) == [index for index, point in enumerate(points) if not beaten(*point)]


def test_all_files_are_written(bench, tmp_path):
    files = write_report(bench, RUN, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "candidates.csv",
        "layers-prune.csv",
        "pareto-size.png",
        "pareto.png",
        "recommendation.csv",
        "report.html",
        "report.md",
    ]
    assert {path.parent for path in (*files.pictures, *files.csv)} == {tmp_path / "out"}
    assert files.html.read_text().startswith("<!DOCTYPE html>")
    assert files.pareto_png.read_bytes()[:4] == b"\x89PNG"
    assert files.markdown.read_text().startswith("# Compression report")


def test_a_report_without_a_run(tmp_path):
    files = write_report(result(row("best.pt")).to_dict(), None, tmp_path)
    read(files.html.read_text())


@pytest.mark.parametrize(
    "run", [{}, {"stages": None}, {"stages": [{}]}, {"recipe": None, "stages": [{"name": "prune"}]}]
)
def test_a_run_may_lack_any_part(bench, tmp_path, run):
    read(write_report(bench, run, tmp_path).html.read_text())


def test_no_rows_are_no_report(tmp_path):
    with pytest.raises(DataError, match="the benchmark has no rows"):
        write_report({"rows": []}, None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(bench, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        write_report(bench, None, tmp_path / "file" / "out")
