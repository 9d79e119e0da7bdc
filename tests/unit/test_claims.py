# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""`make claims`: what it prints, when it fails, and what it calls malformed."""

from __future__ import annotations

import json

import pytest

from benchmarks import claims
from benchmarks.record import claim

GOOD = {
    "id": "spine.fold_error",
    "statement": "the folded model equals the unfolded one",
    "value": 2e-7,
    "unit": "max abs difference",
    "target": "<= 1e-5",
    "holds": True,
    "seeds": [0, 1],
}


def result(*made, **changes):
    tree = {
        "device": {"cpu_model": "Some CPU"},
        "versions": {},
        "date": "2026-01-01",
        "command": "python x.py",
        "rows": [],
    }
    return {**tree, "claims": list(made), **changes}


@pytest.fixture
def check(tmp_path, capsys):
    def run(files, *args):
        for name, tree in files.items():
            (tmp_path / name).write_text(tree if isinstance(tree, str) else json.dumps(tree))
        code = claims.main(["--results", str(tmp_path), *args])
        return (code, *capsys.readouterr())

    return run


def test_claims_that_hold_are_printed(check):
    code, out, err = check({"a.json": result(GOOD), "b.json": result({**GOOD, "id": "spine.graph_seconds"})})
    assert code == 0
    assert out.splitlines()[1].split("  ")[0] == "spine.fold_error"
    assert "spine.graph_seconds" in out
    assert "2e-07 max abs difference  <= 1e-5  yes    Some CPU  the folded model equals the unfolded one" in out
    assert err == ""


def test_a_claim_that_does_not_hold_fails_and_is_named(check):
    code, out, err = check({"a.json": result(GOOD, {**GOOD, "id": "spine.other", "value": 1.0, "holds": False})})
    assert code == 1
    assert "NO" in out
    assert err == "claims: 1 of 2 do not hold: spine.other\n"


def test_a_claim_may_fail_for_a_second_condition_of_its_statement(check):
    assert check({"a.json": result({**GOOD, "holds": False})})[0] == 1


def test_a_claim_that_the_device_cannot_show_is_no_failure(check):
    absent = {**GOOD, "value": None, "holds": None, "reason": "this CPU has no bfloat16 units"}
    code, out, _ = check({"a.json": result(absent)})
    assert code == 0
    assert "not applicable here: this CPU has no bfloat16 units" in out


def test_the_devices_are_those_of_the_rows(check):
    """Calls on several machines add to one file, whose own device is that of the last call."""
    rows = [{"cpu": "First CPU: avx2"}, {}, {"cpu": "First CPU: avx2 amx_int8"}]
    _, out, _ = check({"a.json": result(GOOD, rows=rows)})
    assert "yes    First CPU and Some CPU  the folded model" in out


def test_ids_choose_claims_by_name_or_prefix(check):
    made = [GOOD, {**GOOD, "id": "prune.lead", "holds": False}, {**GOOD, "id": "prune.sibling"}]
    assert check({"a.json": result(*made)}, "--ids", "spine", "prune.sibling")[0] == 0
    code, out, _ = check({}, "--ids", "prune")
    assert code == 1
    assert "spine" not in out
    code, _, err = check({}, "--ids", "prune.leda")
    assert code == 2
    assert err == "claims: no result file makes the claim 'prune.leda'; did you mean prune.lead or prune.sibling?\n"


def test_nothing_measured_is_not_success(check):
    assert check({})[0] == 1
    assert check({"a.json": result()})[0] == 1


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("{", "a.json is not readable JSON"),
        ([], "a.json holds list, not an object"),
        (result(versions=None), "a.json: 'versions' is NoneType; it has to be dict"),
        ({"device": {}}, "a.json: 'versions' is missing; it has to be dict"),
        (result("x"), "a.json, claim 1 holds str, not an object"),
        (result({"id": "a.b"}), "a.json, claim 1: 'statement' is missing; it has to be str"),
        (result({**GOOD, "target": "about 3"}), "target 'about 3' is not a comparison; write such as '>= 1.5'"),
        (result({**GOOD, "holds": "yes"}), "'holds' is 'yes'; it has to be true, false or null"),
        (result({**GOOD, "value": None}), "'value' is None; it has to be a finite number"),
        (result({**GOOD, "value": True}), "'value' is True; it has to be a finite number"),
        (result({**GOOD, "value": float("nan")}), "'value' is nan; it has to be a finite number"),
        (result({**GOOD, "value": 1.0}), "'holds' is true, and 1.0 is not <= 1e-5"),
        (result({**GOOD, "holds": None}), "'value' has to be null and 'reason' has to say why"),
        (result({**GOOD, "holds": None, "value": None}), "'reason' has to say why"),
        (result(GOOD, GOOD), "claim 'spine.fold_error' is in both a.json and a.json; keep one"),
    ],
)
def test_a_malformed_file_is_named(check, tree, message):
    code, out, err = check({"a.json": tree})
    assert code == 1
    assert message in err
    assert err.startswith("claims: ")
    assert out == ""


def test_committed_results_are_well_formed():
    claims.read_claims(claims.RESULTS)


def test_a_target_that_could_not_be_read_again_is_not_written():
    made = claim("a.b", "what", 0.12345, "mAP", "<= 0.2", holds=True)
    assert (made["value"], made["target"]) == (0.123, "<= 0.2")
    for target in ("6", ">= 0.3, or within 0.1 of float"):
        with pytest.raises(ValueError, match="is not a comparison; write such as"):
            claim("a.b", "what", 6, "mAP", target, holds=True)
