# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""bench.json, written and read again."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.unit.bench.samples import energy, result, row
from yolo_compress.bench import BenchResult
from yolo_compress.bench.result import STAT_NAMES, finite_or_none
from yolo_compress.errors import DataError, UsageError


def test_a_result_survives_json():
    given = result(row("a"), row("b", latency_ratio_p50=None, latency_ratio_spread=None))
    assert BenchResult.from_json(given.to_json()) == given
    assert given.to_dict()["schema_version"] == 1


def test_energies_survive_json_as_numbers_and_as_reasons():
    given = result(row("a", energy=energy()), row("b", energy="unavailable: no sensor"))
    read = BenchResult.from_json(given.to_json())
    assert read == given
    assert read.rows[0].energy.throttled == ("over-current event of oc3 counted 2 times",)


def test_a_result_is_written_whole(tmp_path):
    result(row("a")).save(tmp_path / "new" / "bench.json")
    assert BenchResult.from_json((tmp_path / "new" / "bench.json").read_text()) == result(row("a"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bench.json"]


def test_nan_does_not_reach_the_file():
    with pytest.raises(ValueError, match="JSON"):
        result(dataclasses.replace(row("a"), latency_ms_p50=float("nan"))).to_json()


def test_the_absent_marks_of_coco_become_none():
    assert finite_or_none(-1.0) is None
    assert finite_or_none(float("nan")) is None
    assert finite_or_none(0.0) == 0.0
    assert len(STAT_NAMES) == 12


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{not json", DataError, "is not JSON"),
        ("[]", DataError, "is not the result of a benchmark"),
        ("{}", DataError, "is not the result of a benchmark"),
        (json.dumps({"schema_version": 1, "rows": [{"label": "a"}]}), DataError, "is not the result of a benchmark"),
        (json.dumps({"schema_version": 99}), UsageError, "schema_version 99 .* upgrade with: pip install -U"),
    ],
)
def test_what_is_no_result_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        BenchResult.from_json(text, source="x.json")
