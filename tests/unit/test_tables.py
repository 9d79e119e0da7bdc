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


def test_a_table_of_timed_candidates_has_means_over_seeds():
    one = {"candidate": "small", "latency_ratio": 0.4, "map50_95_points": 30.0}
    trained = [{**one, "candidate": "small, trained", "seed": s, "map50_95_points": 31.0 + s} for s in (0, 1)]
    lines = tables.timed_table({**TREE, "rows": [one, *trained]}).splitlines()
    assert lines[2:4] == ["| small | 0.400 | 30.00 | - |", "| small, trained | 0.400 | 31.50 | 2 |"]


def test_the_agreement_table_leaves_out_the_distance_of_a_graph_to_itself():
    far = {"unpaired": 0.01, "score_median": 0.002, "score_p95": 0.03, "side_px_median": 0.4, "side_px_p95": 2}
    one = {"target": "openvino", "model": "yolov8n", "map50_95_points": 30.0}
    other = {**one, "computed_by": "pytorch", "map50_95_points_all": 31.5, **far}
    rows = [{**one, "computed_by": "as written"}, other]
    lines = tables.agreement_table({**TREE, "rows": rows, "calibration_images": 128}).splitlines()
    assert lines[2] == "| openvino | yolov8n | as written | 30.00 | - | - | - | - | - | - |"
    of_400 = tables.agreement_table({**TREE, "rows": rows[:1], "calibration_images": 128}).splitlines()
    assert of_400[2] == "| openvino | yolov8n | as written | 30.00 | - | - | - | - | - |"
    assert lines[3] == "| openvino | yolov8n | pytorch | 30.00 | 31.50 | 1.0 % | 0.002 | 0.030 | 0.40 | 2.00 |"


def test_the_calibration_table_puts_the_chosen_images_among_the_random_draws():
    rows = [
        {"part": "eval", "range": "minmax", "way": way, "map50_95_points": points}
        for way, points in (("random 0", 30.0), ("cover", 30.5), ("random 1", 31.0), ("random 2", 29.0))
    ]
    tree = {**TREE, "rows": rows, "target": "tensorrt", "calibration_images": 128}
    lines = tables.calib_table(tree).splitlines()
    assert lines[2:4] == ["| 400 validation images | minmax | cover | 30.50 | 29.00 | 30.00 | 31.00 | 3 | 2 |", ""]


def _pruned(model, importance, points, **way):
    defaults = {"scope": "savings", "repair": "reconstruct", "images": 256}
    return {"model": model, "importance": importance, **defaults, **way, "map50_95_points": points}


def test_the_training_free_table_has_a_column_per_model_and_the_best_way_first():
    rows = [
        _pruned("a", "none", 40.0, scope="none", repair="none", images=0),
        _pruned("a", "l2", 10.0),
        _pruned("a", "obs", 30.0),
        _pruned("b", "none", 20.0, scope="none", repair="none", images=0),
        _pruned("b", "obs", 10.0),
        _pruned("c-int8dq", "obs", 1.0),
    ]
    lines = tables.training_free_table({**TREE, "rows": rows}).splitlines()
    assert lines[0] == "| importance | scope | repair | images | a | b |"
    assert lines[2] == "| not pruned |  |  |  | 40.0 | 20.0 |"
    assert lines[3:5] == [
        "| obs | savings | reconstruct | 256 | 30.0 (75 %) | 10.0 (50 %) |",
        "| l2 | savings | reconstruct | 256 | 10.0 (25 %) | - |",
    ]
    assert lines[-1].startswith("mAP50-95 on 400 images at 320 px; Some CPU, 2026-01-02. Made by")


def test_the_distillation_table_has_a_column_per_seed_and_the_mean_of_those_that_ran():
    rows = [{"candidate": "before", "map50_95_points": 20.0}]
    rows += [
        {"candidate": name, "seed": seed, "map50_95_points": points}
        for name, seed, points in (("none", 0, 21.0), ("none", 1, 22.0), ("cwd yolov8n", 0, 23.0))
    ]
    lines = tables.distill_table({**TREE, "rows": rows}).splitlines()
    assert lines[0] == "| trained with | seed 0 | seed 1 | mean |"
    assert lines[2:4] == ["| none | 21.00 | 22.00 | 21.50 |", "| cwd yolov8n | 23.00 | - | 23.00 |"]
    assert lines[5].startswith("Before training 20.00.")


def test_each_loss_stands_with_what_it_gives_and_what_it_costs_in_the_same_turn():
    points = (("none", 0, 21.0), ("none", 1, 30.0), ("cwd yolov8n", 0, 23.0), ("ours yolov8n", 0, 20.5))
    distill = {**TREE, "rows": [{"candidate": n, "seed": s, "map50_95_points": p} for n, s, p in points]}
    taken = (("none", 0, 1.0, 1000), ("none", 1, 2.0, 1000), ("ours", 0, 1.5, 1200), ("ours", 1, 4.0, 1300))
    taken += (("cwd", 0, 1.2, 1100), ("at", 1, 2.2, 1000))
    rows = [
        {"part": "single", "candidate": n, "turn": t, "step_seconds": s, "peak_resident_mib": m} for n, t, s, m in taken
    ]
    rows.append({**rows[0], "part": "claimed", "step_seconds": 9.0})
    lines = tables.losses_table(distill, {**TREE, "rows": rows}).splitlines()
    assert lines[2:5] == [
        "| cwd and response, the default | 20.50 | -0.50 | 1.75 | 1.25 |",
        "| cwd | 23.00 | +2.00 | 1.20 | 1.10 |",
        "| at | - | - | 1.10 | 1.00 |",
    ]
    assert "(none: 21.00)" in lines[6]


def test_the_table_of_quantized_training_has_both_precisions():
    start = {"candidate": "not trained", "float_map50_95_points": 30.0, "map50_95_points": 29.0}
    rows = [start, *({"candidate": "native", "seed": seed, "map50_95_points": 28.0 + seed} for seed in (0, 1))]
    rows.append({"candidate": "ours", "seed": 1, "map50_95_points": 30.0, "float_map50_95_points": 30.5})
    lines = tables.qat_table({**TREE, "rows": rows}).splitlines()
    assert lines[0] == "|  | INT8, seed 0 | INT8, seed 1 | INT8, mean | its float weights, mean |"
    assert lines[2:5] == [
        "| not trained | - | - | 29.00 | 30.00 |",
        "| native | 28.00 | 29.00 | 28.50 | - |",
        "| ours | - | 30.00 | 30.00 | 30.50 |",
    ]


def test_the_weights_table_gives_times_where_they_were_measured():
    mask = {"mask": "2:4", "mask_share": 0.5, "mask_importance": "gradient", "repair": "batchnorm"}
    rows = [
        {"mask": "nothing", "map50_95_points": 30.0, "bytes": 6_000_000},
        {**mask, "map50_95_points": 20.0, "bytes": 4_000_000, "zero_share": 0.5, "ratios": {"openvino:fp32": 1.002}},
        {**mask, "map50_95_points": 21.0, "bytes": 4_000_000, "zero_share": 0.5, "ratios": {}},
    ]
    lines = tables.weights_table({**TREE, "rows": rows}).splitlines()
    assert lines[0] == "| mask | zeros | score | repair | mAP50-95 | compressed MB | openvino:fp32 |"
    assert lines[2] == "| nothing |  |  |  | 30.0 | 6.00 | - |"
    assert lines[3] == "| 2:4 | 50 % | gradient | batchnorm | 20.0 | 4.00 | 1.002 |"
    assert lines[4].endswith("| 4.00 | - |")


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


def test_each_native_figure_stands_beside_ours_of_the_same_run():
    def row(target, way, points):
        return {"model": "yolov8n", "target": target, "way": way, "map50_95_points": points}

    timed = {"model": "yolov8n", "target": "onnxruntime", "way": "latency", "amx": False, "ratio": 0.5}
    timed["cpu"] = "Some CPU: avx2 avx512_vnni amx_int8"
    ways = [("onnxruntime", "float", 38.5), ("onnxruntime", "native", 35.0), ("onnxruntime", "mse", 38.0)]
    quantize = {**TREE, "rows": [*(row(*way) for way in ways), timed, row("tensorrt", "mse", 38.1)]}
    trained = {"native yolov8n": (21, 22), "ours yolov8n": (23, 24), "native yolov8s": (20,), "ours yolov8s": (25,)}
    distill = {
        **TREE,
        "rows": [{"candidate": name, "map50_95_points": p} for name, points in trained.items() for p in points],
    }
    started = {"candidate": "not trained, tensorrt", "float_map50_95_points": 30.4, "map50_95_points": 29.8}
    learned = [{"candidate": name, "seed": 0, "map50_95_points": p} for name, p in (("native", 28.5), ("ours", 30.25))]
    qat = {**TREE, "rows": [started, *learned]}
    training = {**TREE, "claims": [{"id": "other", "value": 1}, {"id": "spine.cpu_training", "value": 0.3}]}
    trees = [
        {**tree, "command": f"python -m benchmarks.{name}"}
        for name, tree in (("a", quantize), ("b", qat), ("c", distill), ("d", training))
    ]
    assert tables.native_table(*trees).splitlines()[2:] == [
        "| INT8 without training, ONNX Runtime, yolov8n (float 38.50): mAP50-95 | 35.00 | 38.00 |",
        "| its time in ONNX Runtime (Some CPU, avx512_vnni) | 1 | 0.500 |",
        "| yolov8n.pt trained quantized (float 30.40), as INT8: mAP50-95 | 28.50 | 30.25 |",
        "| pruned yolov8n after 500 steps of training with yolov8n as teacher: mAP50-95 | 21.50 | 23.50 |",
        "| pruned yolov8n after 500 steps of training with yolov8s as teacher: mAP50-95 | 20.00 | 25.00 |",
        "| an epoch of training on a CPU that has bfloat16: time | 1 | 0.300 |",
        "",
        "Made by `benchmarks.a`, `benchmarks.b`, `benchmarks.c`, `benchmarks.d`; `benchmarks/results/` says on which "
        "machine each was run.",
    ]
