"""The input check inside an audit: does it flag disturbed scans, and what passes in silence?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def by_place(checked: Sequence[Checked]) -> dict[Place, Checked]:
    """Answers of the check by what was looked at."""
    return {_place(entry): entry for entry in checked}


def _place(record: Checked | Shifted) -> Place:
    return record.model, record.case, record.disturbance, record.severity


def false_alarms(checked: Sequence[Checked], shifted: Sequence[Shifted]) -> list[dict[str, Any]]:
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
    checked: Sequence[Checked], shifted: Sequence[Shifted], records: Sequence[Result]
) -> list[dict[str, Any]]:
    """Of the predictions that have fallen under a disturbance: how many were flagged, and by what?

    Returns:
        A row for each model: how many were looked at, how many fell, how many of these were flagged by the check (None:
        there is none), by low confidence (None: not recorded), by either; how many by nothing, by disturbance, too.
    """
    rows, answers = [], by_place(checked)
    for model in dict.fromkeys(record.model for record in shifted):
        moved = [it for it in shifted if it.model == model and it.disturbance != UNTOUCHED]
        fallen = [record for record in moved if fell(record)]
        limit = threshold([it for it in records if it.model == model and not it.eps])
        seen = {number for number, record in enumerate(fallen) if _flagged(answers, record)}
        unsure = {number for number, record in enumerate(fallen) if _unsure(record, limit)}
        silent = [record.disturbance for number, record in enumerate(fallen) if number not in seen | unsure]
        rows.append(
            {
                "model": model,
                "predictions": len(moved),
                "fell": len(fallen),
                "flagged": len(seen) if any(_place(record) in answers for record in moved) else None,
                "unsure": len(unsure) if limit is not None and any(record.confidence for record in moved) else None,
                "either": len(seen | unsure),
                "silent": len(silent),
                "silent_by_disturbance": {name: silent.count(name) for name in dict.fromkeys(silent)},
            }
        )
    return rows


def _flagged(answers: Mapping[Place, Checked], record: Shifted) -> bool:
    answer = answers.get(_place(record))
    return answer is not None and answer.flagged


def _unsure(record: Shifted, limit: float | None) -> bool:
    return limit is not None and record.confidence is not None and surety(record) < limit
