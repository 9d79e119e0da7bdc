# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What the experiment on quantization claims of its times."""

from __future__ import annotations

import pytest

from benchmarks import quant_ptq

XEON, AMD = "Some Xeon: avx512_vnni amx_int8", "Some AMD: avx512_vnni"


def timed(model, cpu, amx, ratio):
    return {"model": model, "target": "openvino", "way": "latency", "cpu": cpu, "amx": amx, "ratio": ratio}


ROWS = [
    timed("yolov8n", XEON, True, 0.93),
    timed("yolov8s", XEON, True, 0.94),
    timed("yolov8n", XEON, False, 0.96),
    timed("yolov8s", XEON, False, 0.95),
]


def claims(rows):
    return {claim["id"]: claim for claim in quant_ptq._claims(rows)}


def test_a_claim_on_times_is_about_the_worst_model_processor_and_unit():
    assert claims(ROWS)["quant.openvino_latency"]["value"] == 0.96
    slower = [*ROWS, timed("yolov8n", AMD, False, 0.9), timed("yolov8s", AMD, False, 0.99)]
    found = claims(slower)["quant.openvino_latency"]
    assert (found["value"], found["holds"]) == (0.99, False)
    assert "yolov8s 0.940 on Some Xeon with AMX" in found["statement"]
    assert "yolov8s 0.990 on Some AMD without AMX" in found["statement"]


@pytest.mark.parametrize("rows", [[], ROWS[:3], [*ROWS, timed("yolov8n", AMD, False, 0.9)]])
def test_nothing_is_claimed_while_a_time_is_missing(rows):
    assert "quant.openvino_latency" not in claims(rows)
