"""What an audit's disturbances say over all cases, and whether they were what they should be."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from nnunet_ima.evidence.records import UNTOUCHED, Checked, Shifted
from nnunet_ima.evidence.verdict import Check, judge
from nnunet_ima.segmentation.statistics import compared, interval

ALIKE = 1e-3  # Dice that may be lost by writing and reading a scan
COUNTED = ("reoriented", "misoriented")  # more changes of the axes are not worse
RISES = 0.005  # mean Dice over all disturbances that a worse severity may gain


def shift_rows(records: Iterable[Shifted], checked: Iterable[Checked] = ()) -> list[dict[str, Any]]:
    """Statistics of each model, disturbance and severity; the untouched scans are left out.

    Returns:
        Rows with mean Dice and its interval, the worst case, the mean fall from the Dice without a disturbance, and the
        share of the scans that the input check flags; None where it has looked at none.
    """
    groups: dict[tuple[str, str, int], _Group] = {}
    for record in records:
        if record.disturbance != UNTOUCHED:
            key = (record.model, record.disturbance, record.severity)
            if key not in groups:
                groups[key] = _Group(record)
            groups[key].add(record)
    flags: dict[tuple[str, str, int], list[bool]] = {}
    for entry in checked:
        flags.setdefault((entry.model, entry.disturbance, entry.severity), []).append(entry.flagged)
    return [group.row() | {"flagged": fmean(flags[key]) if key in flags else None} for key, group in groups.items()]


class _Group:
    """What a row needs of the results under a disturbance; none but the first is kept."""

    def __init__(self, first: Shifted) -> None:
        self._first, self._worst = first, (math.inf, "")
        self._dice, self._falls, self._missed = array("d"), array("d"), 0

    def add(self, record: Shifted) -> None:
        """Take the numbers of a result."""
        self._dice.append(record.dice)
        self._falls.append(record.clean_dice - record.dice)
        self._missed += len(record.missed)
        if record.dice < self._worst[0]:
            self._worst = (record.dice, record.case)

    def row(self) -> dict[str, Any]:
        """Statistics over the cases."""
        first = self._first
        return {
            "model": first.model,
            "disturbance": first.disturbance,
            "severity": first.severity,
            "level": first.level,
            "unit": first.unit,
            "cases": len(self._dice),
            "mean_dice": fmean(self._dice),
            "interval": interval(self._dice),
            "worst_dice": self._worst[0],
            "worst_case": self._worst[1],
            "fall": fmean(self._falls),
            "missed": self._missed,
        }


def shift_models(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means of each model over all disturbances and severities, and its errors as a share of the first model's.

    The mean corruption error is that of ImageNet-C (Hendrycks & Dietterich 2019): per disturbance, the sum of 1 - Dice
    over the severities divided by the first model's, then the mean. The relative one takes the falls instead of the
    errors, over all disturbances together, as a single one may cost nothing.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    found = []
    for model in models:
        own = [row for row in rows if row["model"] == model]
        reference = [row for row in rows if row["model"] == models[0]]
        fall, fall_of_first = sum(row["fall"] for row in own), sum(row["fall"] for row in reference)
        found.append(
            {
                "model": model,
                "mean_dice": fmean(row["mean_dice"] for row in own),
                "fall": fmean(row["fall"] for row in own),
                "error": _corruption_error(own, reference),
                "relative": fall / fall_of_first if fall_of_first > 0 else None,
            }
        )
    return found


def _corruption_error(own: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> float | None:
    def errors(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        names = dict.fromkeys(row["disturbance"] for row in rows)
        return {name: sum(1 - row["mean_dice"] for row in rows if row["disturbance"] == name) for name in names}

    mine, first = errors(own), errors(reference)
    ratios = [mine[name] / first[name] for name in mine if first.get(name)]
    return fmean(ratios) if ratios else None


def shift_paired(records: Iterable[Shifted]) -> list[dict[str, Any]]:
    """Each further model against the first: a case's mean Dice over all disturbances and severities, case by case."""
    of_model: dict[str, dict[str, array[float]]] = {}
    for record in records:
        if record.disturbance != UNTOUCHED:
            of_model.setdefault(record.model, {}).setdefault(record.case, array("d")).append(record.dice)
    models = list(of_model)
    rows = []
    for model in models[1:]:
        first, own = of_model[models[0]], of_model[model]
        differences = [fmean(own[case]) - fmean(first[case]) for case in own if case in first]
        if differences:
            rows.append({"model": model, "against": models[0], **compared(differences)})
    return rows


def shift_checks(records: Iterable[Shifted]) -> list[Check]:
    """Judge the disturbances of one model."""
    lost: float | None = None
    touched, idle = False, []
    dice: dict[int, array[float]] = {}
    gains: dict[tuple[int, int], array[float]] = {}  # of the same case and disturbance: some severities may be left out
    before: dict[str, Shifted] = {}
    for record in records:
        if record.disturbance == UNTOUCHED:
            lost = max(lost or 0.0, abs(record.dice - record.clean_dice))
            continue
        touched = True
        if record.changed == 0:
            idle.append(f"{record.disturbance}@{record.severity} of {record.case}")
        if record.disturbance not in COUNTED:
            dice.setdefault(record.severity, array("d")).append(record.dice)
            former = before.get(record.disturbance, record)
            if former.case == record.case:
                gains.setdefault((former.severity, record.severity), array("d")).append(record.dice - former.dice)
            before[record.disturbance] = record
    gain = max((fmean(gains[pair]) for pair in pairwise(sorted(dice)) if pair in gains), default=None)
    return [
        judge(
            "a scan that is written and read again is predicted alike",
            None if lost is None else lost <= ALIKE,
            "no scan was looked at" if lost is None else f"Dice differs by {lost:.4f} at most",
        ),
        judge("every disturbance changes the scan", not idle if touched else None, ", ".join(idle[:3]) or "all do"),
        judge(
            "worse severities are worse in the mean",
            None if gain is None else gain <= RISES,
            " → ".join(f"{fmean(dice[severity]):.3f}" for severity in sorted(dice)),
        ),
    ]
