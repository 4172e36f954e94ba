"""Whether a model knew how good it was: calibration by condition, and whether low confidence would have warned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from scipy.stats import mannwhitneyu

from nnunet_ima.evidence.records import UNTOUCHED, Result, Score, Shifted
from nnunet_ima.segmentation.confidence import calibration_error, overconfidence, pooled

FELL = 0.1  # Dice below that without noise or disturbance, from which on somebody should have been warned
ALARMS = 0.05  # share of the clean cases that may lie below the threshold of confidence


def confidence_rows(records: Sequence[Result], shifted: Sequence[Shifted]) -> list[dict[str, Any]]:
    """Confidence, calibration and Dice of each model: clean, under each ε's worst attack, under each disturbance.

    Returns:
        Rows of `condition` and, of an attack, `eps`; a disturbance's are over all its severities. Without records of
        confidence its numbers are None.
    """
    rows = []
    for model in dict.fromkeys(record.model for record in records):
        own = [record for record in records if record.model == model]
        for eps in sorted({record.eps for record in own}):
            group = _worst(record for record in own if record.eps == eps)
            rows.append(_row(model, "attacked" if eps else "clean", eps, group))
        moved = [record for record in shifted if record.model == model and record.disturbance != UNTOUCHED]
        for name in dict.fromkeys(record.disturbance for record in moved):
            rows.append(_row(model, name, None, [record for record in moved if record.disturbance == name]))
    return rows


def _worst(records: Iterable[Result]) -> list[Result]:
    """The worst result of each case."""
    worst: dict[str, Result] = {}
    for record in records:
        if record.case not in worst or record.dice < worst[record.case].dice:
            worst[record.case] = record
    return list(worst.values())


def _row(model: str, condition: str, eps: float | None, group: Sequence[Score]) -> dict[str, Any]:
    known = [record.confidence for record in group if record.confidence is not None]
    bins = pooled(entry.bins for entry in known)
    return {
        "model": model,
        "condition": condition,
        "eps": eps,
        "predictions": len(group),
        "recorded": len(known),
        "confidence": _mean(entry.mean for entry in known),
        "entropy": _mean(entry.entropy for entry in known),
        "calibration_error": calibration_error(bins),
        "overconfidence": overconfidence(bins),
        "mean_dice": fmean(record.dice for record in group),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def surety(record: Score) -> float:
    """The confidence that warns: 0 where nothing is predicted, which nobody overlooks."""
    mean = record.confidence.mean if record.confidence is not None else None
    return 0.0 if mean is None else mean


def fell(record: Result | Shifted) -> bool:
    """Whether a prediction is so much worse than the clean one that somebody should have been warned."""
    return record.clean_dice - record.dice > FELL


def threshold(clean: Sequence[Result]) -> float | None:
    """Confidence below which a prediction is held back: `ALARMS` of the clean cases lie there, or fewer; None without.

    With less than 20 cases it is the lowest confidence of a clean one.
    """
    values = sorted(surety(record) for record in clean if record.confidence is not None)
    return values[math.floor(ALARMS * len(values))] if values else None


def confidence_warnings(records: Sequence[Result], shifted: Sequence[Shifted]) -> list[dict[str, Any]]:
    """Would low confidence have warned of each model's failures? Apart for attacks, which nature does not make.

    Returns:
        Rows over predictions, clean ones among them: how many there are and how many fell; the AUROC of low confidence
        as a sign of it (None if all fell, or none); the threshold, the clean cases that it rests on and the share of
        them below it; the share of those that fell that lie below it.
    """
    rows = []
    known = [record for record in records if record.confidence is not None]
    for model in dict.fromkeys(record.model for record in known):
        own = [record for record in known if record.model == model]
        clean = [record for record in own if not record.eps]
        moved = [it for it in shifted if it.model == model and it.confidence is not None]
        limit = threshold(clean)
        for kind, disturbed in (("attacks", [it for it in own if it.eps]), ("disturbances", moved)):
            if disturbed and limit is not None:
                rows.append({"model": model, "kind": kind, **_warning([*clean, *disturbed], clean, limit)})
    return rows


def _warning(pairs: Sequence[Result | Shifted], clean: Sequence[Result], limit: float) -> dict[str, Any]:
    low = [surety(record) for record in pairs if fell(record)]
    high = [surety(record) for record in pairs if not fell(record)]
    return {
        "predictions": len(pairs),
        "fell": len(low),
        "auroc": float(mannwhitneyu(high, low).statistic) / (len(high) * len(low)) if low and high else None,
        "threshold": limit,
        "clean_cases": len(clean),
        "false_alarms": fmean(surety(record) < limit for record in clean),
        "detected": fmean(value < limit for value in low) if low else None,
    }
