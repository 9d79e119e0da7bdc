# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What a report says, and that it says nothing of what it was not given."""

from __future__ import annotations

import dataclasses

import pytest

from tests.unit.bench.samples import energy, refused, result, row
from yolo_compress.report import content
from yolo_compress.report.markdown import document, table

OURS = {
    "origin": "yolo_compress",
    "precision": "int8",
    "map50_95": 0.3634,
    "latency_ms_p50": 8.4,
    "size_bytes": 3 << 20,
}
OURS |= {"latency_ratio_p50": 0.42, "latency_ratio_spread": (0.4, 0.45)}

RUN = {
    "schema_version": 1,
    "recipe": {"name": "edge-cpu", "description": "A smaller detector."},
    "status": "done",
    "stages": [
        {
            "name": "baseline",
            "status": "done",
            "seconds": 12.5,
            "metrics": {"map50_95": 0.3712, "params": 3_157_200, "gflops": 2.19, "size_bytes": 6 << 20},
            "notes": [],
            "outputs": {},
        },
        {
            "name": "prune",
            "status": "done",
            "seconds": 31.0,
            "metrics": {"map50_95": 0.2512, "params": 2_400_000},
            "notes": ["a layer was left whole"],
            "tables": {"prune": [{"layer": "model.2", "before": 32, "after": 24}, {"layer": "model.4", "before": 64}]},
        },
        {"name": "build", "status": "done", "seconds": 4.0, "metrics": {}},
        {"name": "quantize", "status": "done", "seconds": 9.0, "metrics": {"map50_95": 0.3634}},
    ],
}


def plain(*rows, **changes):
    return result(*rows, **changes).to_dict()


def test_the_summary_compares_ours_with_the_first():
    text = content.summary(plain(row("native:fp32"), row("ours", **OURS)))
    assert text == (
        "ours takes 0.42 of the time of native:fp32 (8.40 ms against 20.00 ms, medians), 0.25 of its size, and reaches "
        "36.34 mAP50-95 (-0.78 points)."
    )


def test_the_summary_prefers_ours_to_a_faster_native():
    text = content.summary(plain(row("native:fp32"), row("native:int8", latency_ms_p50=2.0), row("ours", **OURS)))
    assert text.startswith("ours takes 0.42")


def test_the_summary_of_one_candidate_compares_nothing():
    assert (
        content.summary(plain(row("best.pt")))
        == "best.pt reaches 37.12 mAP50-95 and takes 20.00 ms per image (median)."
    )


def test_the_summary_does_not_use_what_was_refused():
    text = content.summary(plain(row("native:fp32"), refused("ours")))
    assert "ours" not in text
    assert content.summary(plain(refused("a"), refused("b"))).startswith("No candidate passed its accuracy check")


def test_the_summary_without_a_reference_gives_no_ratio():
    ours = row("ours", **{**OURS, "latency_ratio_p50": None, "latency_ratio_spread": None})
    text = content.summary(plain(refused("native:fp32"), ours))
    assert text == "ours reaches 36.34 mAP50-95 and takes 8.40 ms per image (median)."


def test_the_table_shows_absent_values_as_such():
    shown = content.candidates_table(plain(row("a"), refused("b")))
    cells = dict(zip(shown.header, shown.rows[1], strict=True))
    assert cells["Candidate"] == "b"
    assert cells["mAP50-95"] == "0.00"
    for title in (
        "Latency p50 (ms)",
        "Ratio to first",
        "Ratio quartiles",
        "Images/s",
        "Params (M)",
        "Peak memory (MB)",
    ):
        assert cells[title] == "-", title
    assert cells["Status"] == "refused"


def test_units_are_those_of_the_header():
    cells = dict(
        zip(
            content.candidates_table(plain(row("a", params=3_157_200, gflops=8.74))).header,
            content.candidates_table(plain(row("a", params=3_157_200, gflops=8.74))).rows[0],
            strict=True,
        )
    )
    assert cells["Size (MB)"] == "12.00"
    assert cells["Params (M)"] == "3.157"
    assert cells["GFLOPs"] == "8.74"
    assert cells["mAP50"] == "52.34"
    assert cells["Engine"] == "openvino fp32"


def test_a_noisy_latency_is_marked_and_explained():
    bench = plain(row("a", noisy=True, latency_spread=0.31))
    shown = content.candidates_table(bench)
    assert shown.rows[0][shown.header.index("Latency p50 (ms)")] == "20.00*"
    assert "31 % of the median" in content.notes(bench, None)[0]


def test_every_fallback_is_a_note_once():
    noted = row("a", notes=("fell back to float",), describe={"notes": ["fell back to float", "one thread"]})
    found = content.notes(plain(noted, refused("b"), notes=("names are not known",)), RUN)
    assert found == [
        "a: fell back to float",
        "a: one thread",
        "b: latency refused, since nothing is detected on any image.",
        "names are not known",
        "stage prune: a layer was left whole",
    ]


def test_stages_show_changes_between_measured_ones():
    shown = content.stages_table(RUN)
    column = {title: [cells[index] for cells in shown.rows] for index, title in enumerate(shown.header)}
    assert column["Stage"] == ["baseline", "prune", "build", "quantize"]
    assert column["mAP50-95"] == ["37.12", "25.12", "-", "36.34"]
    assert column["Change (points)"] == ["-", "-12.00", "-", "+11.22"]
    assert column["GFLOPs"] == ["2.19", "-", "-", "-"]
    assert column["Seconds"] == ["12.5", "31.0", "4.0", "9.0"]


def test_a_run_without_stages_has_no_tables():
    assert content.stages_table(None) is None
    assert content.stages_table({"stages": []}) is None
    assert content.layer_tables({}) == []


def test_layer_tables_take_their_columns_from_the_rows():
    ((name, shown),) = content.layer_tables(RUN)
    assert name == "prune"
    assert shown.header == ("layer", "before", "after")
    assert shown.rows == (("model.2", "32", "24"), ("model.4", "64", "-"))
    assert shown.words == {0}


def test_classes_are_ordered_by_loss_and_those_without_objects_left_out():
    bench = plain(row("a", class_map50_95=(0.4, 0.6, None)), row("b", class_map50_95=(0.39, 0.5, None)))
    assert content.classes_table(bench).rows == (("box", "60.0", "50.0"), ("disc", "40.0", "39.0"))
    assert content.classes_table({"rows": [{"label": "a"}]}) is None


def test_the_environment_keeps_reasons_and_hashes():
    shown = dict(content.environment(plain(row("a")), None).rows)
    assert shown["governor"] == "unavailable: no such file"
    assert shown["sha256 of a"] == "ab" * 32
    assert shown["version of ultralytics"] == "8.4.190"


def test_the_method_names_the_settings_and_what_yolo_val_prints():
    text = " ".join(content.method(plain(row("a"))))
    for part in (
        "400 of 400",
        "320 pixels",
        "score over 0.001",
        "IoU 0.7",
        "100 rounds after 10",
        "36.98 (a)",
        "at least 5.0 ms",
    ):
        assert part in text
    assert "-" in " ".join(content.method({"rows": [{"label": "a"}]}))  # settings that are not recorded
    assert "its median and quartiles are shown." in text
    now = {**plain(row("a")), "settings": {**plain(row("a"))["settings"], "loads": 8}}
    assert "disturbed least. Rounds are spread over 8 loads of all candidates." in " ".join(content.method(now))
    assert "of two inferences the second is timed. The ratio" in text
    now["settings"] |= {"lead_ms": 100.0}
    lead = "it runs for 100 ms (at least once, at most 20 times) before the inference that is timed. The ratio"
    assert lead in " ".join(content.method(now))
    now["settings"] |= {"rounds": 200, "rounds_disturbed": 31, "waited_s": 12.5}
    told = "For cores that no other work slows 12.5 s were waited; in 31 of 200 rounds it was in vain."
    assert told in " ".join(content.method(now))


def test_markdown_is_a_table_with_numbers_to_the_right():
    lines = table(content.candidates_table(plain(row("a|b"), row("c <i>")))).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("| --- | --- | ---: |")
    assert "a\\|b" in lines[2]
    assert "&lt;i>" in lines[3]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_markdown_holds_every_section():
    text = document(plain(row("native:fp32"), row("ours", **OURS)), RUN)
    for part in (
        "# Compression report",
        "pareto.png",
        "## Notes",
        "## Stages",
        "## Layers: prune",
        "## How it was measured",
    ):
        assert part in text


@pytest.mark.parametrize("missing", [f.name for f in dataclasses.fields(row("a")) if f.name != "label"])
def test_any_value_may_be_absent(missing):
    bench = plain(row("a"), row("b", **OURS))
    for entry in bench["rows"]:
        del entry[missing]
    document(bench, RUN)


def test_scores_are_compared_with_the_first_candidate():
    bench = plain(row("a"), row("b", f1=0.47, f1_threshold=0.25, calibration_error=None))
    assert content.confidence_table(bench).rows == (
        ("a", "0.310", "+0.000", "0.480", "0.060"),
        ("b", "0.250", "-0.060", "0.470", "-"),
    )
    assert content.confidence_table({"rows": [{"label": "a"}]}) is None


def test_energies_are_shown_with_what_was_measured_and_how_often():
    bench = plain(row("a", energy=energy()), row("b", energy=energy(throttled=())), refused("c"))
    shown = content.energy_table(bench)
    lines = [dict(zip(shown.header, cells, strict=True)) for cells in shown.rows]
    assert [line["Candidate"] for line in lines] == ["a", "b"]
    assert lines[0] == {
        "Candidate": "a",
        "Net (mJ/image)": "50.00",
        "Gross (mJ/image)": "100.00",
        "Mean power (W)": "10.00",
        "Idle power (W)": "5.00",
        "Seconds": "30.0",
        "Images": "3002",
        "Sensor": "rails",
        "Measures": "VDD_IN, the module input",
        "Readings/s": "20.0",
        "Throttled": "yes",
    }
    assert lines[1]["Throttled"] == "none seen"
    assert shown.words == frozenset({0, 7, 8, 10})
    assert "a: slowed down: over-current event of oc3 counted 2 times." in content.notes(bench, None)
    (sentence,) = [line for line in content.method(bench) if line.startswith("Energy: ")]
    assert "a new value every 0.036 s (samples averaged 16)" in sentence
    assert "mean of 10.0 s before" in sentence
    assert "## Energy" in document(bench)


def test_where_throttling_could_not_be_watched_it_is_not_said_to_be_absent():
    bench = plain(row("a", energy=energy(throttled=(), throttle_watched=(), sensor_period_s=None)))
    assert content.energy_table(bench).rows[0][-1] == "not watched"
    assert "it does not tell how often it has a new value" in " ".join(content.method(bench))


def test_an_energy_that_could_not_be_measured_is_no_number():
    reason = "unavailable: rails: no such chip; rapl: only root may read it"
    bench = plain(row("a", energy=reason), notes=(f"energy {reason}",))
    assert content.energy_table(bench).rows == (("a", *["-"] * 6, "unavailable", "-", "-", "-"),)
    assert content.notes(bench, None) == [f"energy {reason}"]
    assert not any(line.startswith("Energy: ") for line in content.method(bench))
    assert reason in document(bench)


def test_without_power_the_report_is_as_before():
    bench = plain(row("a"))
    assert content.energy_table(bench) is None
    assert "nergy" not in document(bench)
