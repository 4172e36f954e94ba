"""What the worst changes say over all cases, and whether the search was what it should be."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from nnunet_ima.evidence.records import WorstShift
from nnunet_ima.evidence.schema import to_json
from nnunet_ima.evidence.verdict import Check, judge
from nnunet_ima.segmentation.statistics import compared, interval

FOUND = ("case", "clean_dice", "random_dice", "dice", "told")  # what a row holds of each case
SAME = 1e-3  # share of the voxels that rounding may move where nothing is changed
AGREE = 0.02  # Dice, between the search's look on the network's grid and nnU-Net's own prediction of the files


def worst_shift_rows(records: Sequence[WorstShift]) -> list[dict[str, Any]]:
    """Statistics of each model and severity, with what was found of every case, worst first."""
    groups: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for place, record in enumerate(records):
        groups.setdefault((record.model, record.severity), []).append((record.dice, place))
    return [_row(records, [place for _, place in sorted(group)]) for group in groups.values()]


def _row(records: Sequence[WorstShift], places: Sequence[int]) -> dict[str, Any]:
    """Statistics of the records at some places, the worst one first."""
    first, passes, found = records[places[0]], array("d"), []
    for record in (records[place] for place in places):
        found.append({key: to_json(getattr(record, key)) for key in FOUND})
        passes.append(record.climbed.passes)
    dice = [it["dice"] for it in found]
    return {
        "model": first.model,
        "modality": first.modality,
        "severity": first.severity,
        "cases": len(found),
        "clean_dice": fmean(it["clean_dice"] for it in found),
        "random_dice": fmean(it["random_dice"] for it in found),
        "mean_dice": fmean(dice),
        "interval": interval(dice),
        "worst_dice": first.dice,
        "worst_case": first.case,
        "passes": fmean(passes),
        "found": found,
    }


def worst_shift_paired(records: Sequence[WorstShift]) -> list[dict[str, Any]]:
    """Dice of each further model minus that of the first one, each under its own worst change, case by case."""
    of_model: dict[str, dict[tuple[str, int], float]] = {}
    for record in records:
        of_model.setdefault(record.model, {})[record.case, record.severity] = record.dice
    models, rows = list(of_model), []
    for model in models[1:]:
        first, own = of_model[models[0]], of_model[model]
        differences = [own[place] - first[place] for place in own if place in first]
        if differences:
            rows.append({"model": model, "against": models[0], **compared(differences)})
    return rows


def worst_shift_checks(records: Sequence[WorstShift]) -> list[Check]:
    """Judge the search on one model."""
    climbed = fmean(record.climbed.dice for record in records) if records else None
    drawn = fmean(record.drawn.dice for record in records) if records else None
    better = sum(record.drawn.dice < record.climbed.dice for record in records)
    apart = max((abs(record.dice - record.climbed.dice) for record in records), default=None)
    moved = max((record.identity for record in records), default=None)
    nothing = "no worst change was searched"
    return [
        judge(
            "the search finds changes at least as bad as chance does",
            None if climbed is None or drawn is None else climbed <= drawn,
            nothing
            if climbed is None or drawn is None
            else f"mean Dice {climbed:.3f}, by chance {drawn:.3f}, which was worse on {better} of {len(records)} cases",
        ),
        judge(
            "changes of size 0 change no prediction",
            None if moved is None else moved <= SAME,
            nothing if moved is None else f"{moved:.2%} of the voxels differ at most",
        ),
        judge(
            "the worst change is as bad in files",
            None if apart is None else apart <= AGREE,
            nothing if apart is None else f"Dice differs by {apart:.4f} at most",
        ),
    ]
