"""The input check inside an audit: does it flag disturbed scans, and what passes in silence?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from nnunet_ima.evidence.records import UNTOUCHED, Checked, Result, Shifted
from nnunet_ima.inference.model import TrainedModel
from nnunet_ima.segmentation.confidence_summary import fell, surety, threshold
from nnunet_ima.shift import Scan
from nnunet_ima.shift.likeness import FILE, Likeness, read_likeness

Place = tuple[str, str, str, int]  # model, case, disturbance, severity


def find_likeness(model: TrainedModel) -> Likeness | None:
    """What `nnunet-ima-check --learn` has learnt for a model; None if nobody has.

    Raises:
        ValueError: it is damaged, or of images with another number of channels.
    """
    if not (model.folder / FILE).is_file():
        return None
    likeness = read_likeness(model.folder)
    if likeness.channels != model.channels:
        msg = (
            f"{model.folder / FILE} was learnt from images of {likeness.channels} channels, the model has "
            f"{model.channels}; learn it again with nnunet-ima-check --learn, or remove it"
        )
        raise ValueError(msg)
    return likeness


def check_scan(likeness: Likeness, scan: Scan, model: str, case: str, disturbance: str, severity: int) -> Checked:
    """What the check says of a scan."""
    feature, distance = next(iter(likeness.unlike(replace(scan, modality=likeness.modality)).items()))
    return Checked(
        model=model,
        case=case,
        disturbance=disturbance,
        severity=severity,
        flagged=distance > likeness.threshold,
        feature=feature,
        distance=distance if math.isfinite(distance) else None,
        threshold=likeness.threshold,
    )


def _place(record: Checked | Shifted) -> Place:
    return record.model, record.case, record.disturbance, record.severity


def false_alarms(checked: Iterable[Checked], shifted: Iterable[Shifted]) -> list[dict[str, Any]]:
    """What the check says of each model's untouched cases; a model without it has 0 of them."""
    rows = []
    for model in dict.fromkeys(record.model for record in shifted):
        clean = [entry for entry in checked if entry.model == model and entry.disturbance == UNTOUCHED]
        rows.append(
            {
                "model": model,
                "cases": len(clean),
                "false_alarms": sum(entry.flagged for entry in clean),
                "threshold": clean[0].threshold if clean else None,
            }
        )
    return rows


def silent_failures(
    checked: Iterable[Checked], shifted: Iterable[Shifted], records: Iterable[Result]
) -> list[dict[str, Any]]:
    """Of the predictions that have fallen under a disturbance: how many were flagged, and by what?

    Returns:
        A row for each model: how many were looked at, how many fell, how many of these were flagged by the check (None:
        there is none), by low confidence (None: not recorded), by either; how many by nothing, by disturbance, too.
    """
    looked = {entry.model for entry in checked if entry.disturbance != UNTOUCHED}
    rows = []
    for model in dict.fromkeys(record.model for record in shifted):
        limit = threshold(it for it in records if it.model == model and not it.eps)
        moved, recorded = 0, False
        fallen: dict[Place, bool] = {}  # whether low confidence would have warned
        for record in shifted:
            if record.model == model and record.disturbance != UNTOUCHED:
                moved, recorded = moved + 1, recorded or record.confidence is not None
                if fell(record):
                    fallen[_place(record)] = (
                        limit is not None and record.confidence is not None and surety(record) < limit
                    )
        seen = {place for entry in checked if entry.flagged and (place := _place(entry)) in fallen}
        unsure = {place for place, warned in fallen.items() if warned}
        warned_of = seen | unsure
        silent = [place[2] for place in fallen if place not in warned_of]
        rows.append(
            {
                "model": model,
                "predictions": moved,
                "fell": len(fallen),
                "flagged": len(seen) if model in looked else None,
                "unsure": len(unsure) if limit is not None and recorded else None,
                "either": len(warned_of),
                "silent": len(silent),
                "silent_by_disturbance": {name: silent.count(name) for name in dict.fromkeys(silent)},
            }
        )
    return rows
