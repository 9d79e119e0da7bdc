# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Which candidate to deploy where, by the measured table and the user's limits, with the rule that decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yolo_compress.report.content import Table
from yolo_compress.report.limits import DEPLOYMENTS, DROP, Deployment, Kind, Limits, Measure, Row


@dataclass(frozen=True)
class Verdict:
    """What became of one candidate, and why."""

    label: str
    kind: Kind
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """The candidate for one deployment.

    Attributes:
        deployment: Which one.
        limits: The limits that it has, in words.
        chosen: Label of the candidate, None where none meets the limits.
        rule: The rule that chose it; without one, the nearest candidate and by how much it misses.
        nearest: Label of the candidate that misses the limits by least, None where one meets them.
        verdicts: One per candidate, in their order.
    """

    deployment: str
    limits: str
    chosen: str | None
    rule: str
    nearest: str | None
    verdicts: tuple[Verdict, ...]

    @property
    def sentence(self) -> str:
        """Return limits and rule in words."""
        return f"Limits: {self.limits}. {'Rule' if self.chosen else 'Result'}: {self.rule}."


def recommend(bench: Mapping[str, Any], limits: Limits | None = None) -> tuple[Recommendation, ...]:
    """Return one recommendation per deployment.

    A refused candidate is never recommended. Of those that keep to the limits, the most accurate is taken where the
    deployment's own figure has a limit or nothing is limited, and then, of all that the images cannot tell from it
    (the 95 % interval of the difference includes zero), the one whose figure is best. Where only a drop is allowed, it
    is the one whose figure is best within that drop.

    Args:
        bench: The content of a `bench.json`.
        limits: Over those that the benchmark was given.
    """
    given = (limits or Limits()).over(Limits.of(bench))
    rows = _with_drops(bench["rows"])
    return tuple(_recommend(rows, deployment, given) for deployment in DEPLOYMENTS)


def verdicts_table(given: Recommendation) -> Table:
    """Return what became of each candidate."""
    rows = tuple((one.label, one.kind, one.reason) for one in given.verdicts)
    return Table(("Candidate", "Verdict", "Why"), rows, frozenset({0, 1, 2}))


def difference_interval(rows: Sequence[Row], a: Row, b: Row) -> tuple[float, float] | None:
    """Return the 95 % interval of the difference a - b as shares, or None where it is not known."""
    for label, low, high in a.get("map50_95_intervals") or ():
        if label == b.get("label"):
            return low, high
    for label, low, high in b.get("map50_95_intervals") or ():
        if label == a.get("label"):
            return -high, -low
    if b is rows[0] and (pair := a.get("map50_95_difference_interval")):  # all that older files hold
        return pair[0], pair[1]
    if a is rows[0] and (pair := b.get("map50_95_difference_interval")):
        return -pair[1], -pair[0]
    return None


def _same(rows: Sequence[Row], a: Row, b: Row) -> bool:
    """Tell whether the images cannot tell two candidates apart; where no interval is known, they can."""
    interval = difference_interval(rows, a, b)
    return interval is not None and interval[0] <= 0 <= interval[1]


def _with_drops(rows: Sequence[Row]) -> list[Row]:
    """Add to each row by how much its accuracy is below that of the first one that is not refused."""
    reference = next((row.get("map50_95") for row in rows if row.get("status") == "ok"), None)
    return [
        {**row, "drop": None if reference is None or row.get("map50_95") is None else reference - row["map50_95"]}
        for row in rows
    ]


def _recommend(rows: Sequence[Row], deployment: Deployment, given: Limits) -> Recommendation:
    cost, held = deployment.cost, [m for m in (deployment.cost, DROP) if m.limit(given) is not None]
    limits = " and ".join(_limit(measure, given) for measure in held) or "none given"
    verdicts = {index: verdict for index, row in enumerate(rows) if (verdict := _ruled_out(row, cost, held, given))}
    able = [row for index, row in enumerate(rows) if index not in verdicts]
    if not able:
        nearest, rule = _nearest(rows, cost, held, given)
        return Recommendation(deployment.name, limits, None, rule, nearest, tuple(verdicts.values()))
    best = max(able, key=lambda row: (row["map50_95"], -(cost.value(row) or 0.0)))
    equals: list[Row] = []
    if held == [DROP]:
        chosen = min(able, key=lambda row: (cost.value(row), -row["map50_95"]))
        rule = f"{deployment.best} within {DROP.text(given.max_drop or 0.0)} of the first"
    else:
        equals = [row for row in able if row is best or _same(rows, row, best)]
        chosen = min(equals, key=lambda row: (cost.value(row), -row["map50_95"]))
        rule = "the most accurate within the limits" if held else "the most accurate, as no limit was given"
        if chosen is not best:
            rule = (
                f"{deployment.best} of those that the images cannot tell from the most accurate"
                f"{' within the limits' if held else ', as no limit was given'} ({_label(best)}, "
                f"{_points(rows, chosen, best)})"
            )
    for index, row in enumerate(rows):
        if index not in verdicts:
            equal = any(row is one for one in equals)
            top = None if held == [DROP] else best
            verdicts[index] = _judged(rows, row, chosen, deployment, best=top, equals=equal)
    ordered = tuple(verdicts[index] for index in range(len(rows)))
    rule = f"{rule}: {cost.text(cost.value(chosen) or 0.0)}, {100 * chosen['map50_95']:.2f} mAP50-95"
    return Recommendation(deployment.name, limits, _label(chosen), rule, None, ordered)


def _ruled_out(row: Row, cost: Measure, held: Sequence[Measure], given: Limits) -> Verdict | None:
    """Return why a candidate cannot be chosen at all, or None."""
    if row.get("status") != "ok":
        return Verdict(_label(row), "refused", f"refused: {row.get('reason') or 'no reason was recorded'}")
    if cost.value(row) is None or row.get("map50_95") is None:
        return Verdict(_label(row), "not measured", "what counts here was not measured")
    missed = [measure for measure in held if _excess(measure, row, given) > 0]
    return Verdict(_label(row), missed[0].kind, _missed(missed, row, given)) if missed else None


def _judged(
    rows: Sequence[Row], row: Row, chosen: Row, deployment: Deployment, *, best: Row | None, equals: bool
) -> Verdict:
    """Say why a candidate that keeps to the limits was chosen or was not.

    Args:
        rows: All rows.
        row: The candidate.
        chosen: What was chosen.
        deployment: For what.
        best: The most accurate one, or None where the figure alone decided.
        equals: The images cannot tell the candidate from `best`, or it is `best`.
    """
    if row is chosen:
        return Verdict(_label(row), "chosen", "chosen")
    cost, name = deployment.cost, _label(chosen)
    figures = f"{cost.text(cost.value(chosen) or 0.0)} against {cost.text(cost.value(row) or 0.0)}"
    if (cost.value(row), row["map50_95"]) == (cost.value(chosen), chosen["map50_95"]):
        why = f"it is equal to {name}, which stands before it"
    elif cost.value(row) == cost.value(chosen):
        why = f"{name} is as good in what counts here and more accurate"
    elif best is None:
        why = f"{name} is {deployment.better} ({figures}) within the same drop"
    elif equals and row is best:
        why = f"{name} is {deployment.better} ({figures}), and the images cannot tell it from this one"
        why += f" ({_points(rows, chosen, row)})"
    elif equals:
        why = f"{name} is {deployment.better} ({figures}), and the images can tell neither from {_label(best)}"
    else:
        why = f"{_label(best)} is more accurate by {100 * (best['map50_95'] - row['map50_95']):.2f} points"
        why += ", which the images can tell" if difference_interval(rows, row, best) else ""
    return Verdict(_label(row), "beaten", why)


def _nearest(rows: Sequence[Row], cost: Measure, held: Sequence[Measure], given: Limits) -> tuple[str | None, str]:
    """Return the candidate that misses its worst limit by the smallest share of that limit, and a sentence."""
    usable = [row for row in rows if row.get("status") == "ok" and None not in (cost.value(row), row.get("map50_95"))]
    if not usable:
        return None, "no candidate was measured and passed its accuracy check"
    row = min(usable, key=lambda row: max(_excess(measure, row, given) for measure in held))
    missed = [measure for measure in held if _excess(measure, row, given) > 0]
    return _label(row), f"none meets the limits; the nearest is {_label(row)}, which {_missed(missed, row, given)}"


def _excess(measure: Measure, row: Row, given: Limits) -> float:
    """Return by which share of it a limit is exceeded; negative where it is kept."""
    value, limit = measure.value(row), measure.limit(given)
    assert limit is not None
    return float("inf") if value is None else value / limit - 1


def _missed(missed: Sequence[Measure], row: Row, given: Limits) -> str:
    return " and ".join(
        f"{measure.phrase} {measure.text(value)}, {measure.text(value - limit)} ({100 * (value / limit - 1):.0f} %) "
        "over the limit"
        for measure in missed
        if (value := measure.value(row)) is not None and (limit := measure.limit(given)) is not None
    )


def _limit(measure: Measure, given: Limits) -> str:
    text = measure.text(measure.limit(given) or 0.0)
    return f"at most {text} below the first" if measure is DROP else f"at most {text}"


def _points(rows: Sequence[Row], row: Row, other: Row) -> str:
    low, high = difference_interval(rows, row, other) or (0.0, 0.0)
    value = row["map50_95"] - other["map50_95"]
    return f"{100 * value:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f}"


def _label(row: Row) -> str:
    return str(row.get("label", "-"))
