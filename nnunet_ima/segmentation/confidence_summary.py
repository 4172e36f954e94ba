"""Whether a model knew how good it was: calibration by condition, and whether low confidence would have warned."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from scipy.stats import mannwhitneyu

from nnunet_ima.evidence.records import UNTOUCHED, Result, Score, Shifted
from nnunet_ima.segmentation.confidence import calibration_error, overconfidence

FELL = 0.1  # Dice below that without noise or disturbance, from which on somebody should have been warned
ALARMS = 0.05  # share of the clean cases that may lie below the threshold of confidence


def confidence_rows(records: Sequence[Result], shifted: Sequence[Shifted]) -> list[dict[str, Any]]:
    """Confidence, calibration and Dice of each model: clean, under each ε's worst attack, under each disturbance.

    Returns:
        Rows of `condition` and, of an attack, `eps`; a disturbance's are over all its severities. Without records of
        confidence its numbers are None.
    """
    clean_or_worst, disturbed, models = _worst(records), _Pools(), dict.fromkeys(record.model for record in records)
    attacked = _Pools()
    for place, record in enumerate(records):
        if place in clean_or_worst:
            attacked.add((record.model, record.eps), record)
    for moved in shifted:
        if moved.disturbance != UNTOUCHED:
            disturbed.add((moved.model, moved.disturbance), moved)
    rows = []
    for model in models:
        levels = sorted((eps, pool) for (name, eps), pool in attacked.items() if name == model)
        rows += [pool.row(model, "attacked" if eps else "clean", eps) for eps, pool in levels]
        rows += [pool.row(model, what, None) for (name, what), pool in disturbed.items() if name == model]
    return rows


def _worst(records: Iterable[Result]) -> set[int]:
    """Places of the worst result of each model, ε and case."""
    worst: dict[tuple[str, float, str], tuple[float, int]] = {}
    for place, record in enumerate(records):
        key = (record.model, record.eps, record.case)
        worst[key] = min(worst.get(key, (math.inf, place)), (record.dice, place))
    return {place for _, place in worst.values()}


class _Pool:
    """What a row needs of the predictions under one condition; none is kept."""

    def __init__(self) -> None:
        self._dice, self._means, self._entropies = array("d"), array("d"), array("d")
        self._recorded = 0
        self._bins: list[tuple[array[int], array[float], array[int]]] = []

    def add(self, record: Score) -> None:
        """Take the numbers of a prediction."""
        self._dice.append(record.dice)
        if (known := record.confidence) is None:
            return
        self._recorded += 1
        self._means.extend([] if known.mean is None else [known.mean])
        self._entropies.extend([] if known.entropy is None else [known.entropy])
        self._bins = self._bins or [(array("q"), array("d"), array("q")) for _ in known.bins]
        for (counts, sums, rights), (count, sure, right) in zip(self._bins, known.bins, strict=True):
            counts.append(count)
            sums.append(sure)
            rights.append(right)

    def row(self, model: str, condition: str, eps: float | None) -> dict[str, Any]:
        """Their statistics."""
        bins = tuple((sum(n), sum(sure), sum(right)) for n, sure, right in self._bins)
        return {
            "model": model,
            "condition": condition,
            "eps": eps,
            "predictions": len(self._dice),
            "recorded": self._recorded,
            "confidence": fmean(self._means) if self._means else None,
            "entropy": fmean(self._entropies) if self._entropies else None,
            "calibration_error": calibration_error(bins),
            "overconfidence": overconfidence(bins),
            "mean_dice": fmean(self._dice),
        }


class _Pools(dict[tuple[str, Any], _Pool]):
    """Pools by model and condition."""

    def add(self, key: tuple[str, Any], record: Score) -> None:
        """Put a prediction into its pool."""
        self.setdefault(key, _Pool()).add(record)


def surety(record: Score) -> float:
    """The confidence that warns: 0 where nothing is predicted, which nobody overlooks."""
    mean = record.confidence.mean if record.confidence is not None else None
    return 0.0 if mean is None else mean


def fell(record: Result | Shifted) -> bool:
    """Whether a prediction is so much worse than the clean one that somebody should have been warned."""
    return record.clean_dice - record.dice > FELL


def threshold(clean: Iterable[Result]) -> float | None:
    """Confidence below which a prediction is held back: `ALARMS` of the clean cases lie there, or fewer; None without.

    With less than 20 cases it is the lowest confidence of a clean one.
    """
    return _limit([surety(record) for record in clean if record.confidence is not None])


def _limit(values: Sequence[float]) -> float | None:
    return sorted(values)[math.floor(ALARMS * len(values))] if values else None


def confidence_warnings(records: Sequence[Result], shifted: Sequence[Shifted]) -> list[dict[str, Any]]:
    """Would low confidence have warned of each model's failures? Apart for attacks, which nature does not make.

    Returns:
        Rows over predictions, clean ones among them: how many there are and how many fell; the AUROC of low confidence
        as a sign of it (None if all fell, or none); the threshold, the clean cases that it rests on and the share of
        them below it; the share of those that fell that lie below it.
    """
    found: dict[str, dict[str, list[tuple[float, bool]]]] = {}
    several: Iterable[Result | Shifted]
    for kind, several in (("attacks", records), ("disturbances", shifted)):
        for record in several:
            if record.confidence is not None and (kind == "attacks" or record.model in found):
                own = found.setdefault(record.model, {"clean": [], "attacks": [], "disturbances": []})
                clean = isinstance(record, Result) and not record.eps
                own["clean" if clean else kind].append((surety(record), fell(record)))
    rows = []
    for model, own in found.items():
        limit = _limit([sure for sure, _ in own["clean"]])
        for kind in ("attacks", "disturbances"):
            if own[kind] and limit is not None:
                rows.append({"model": model, "kind": kind, **_warning(own["clean"], own[kind], limit)})
    return rows


def _warning(clean: Sequence[tuple[float, bool]], moved: Sequence[tuple[float, bool]], limit: float) -> dict[str, Any]:
    pairs = [*clean, *moved]
    low, high = ([sure for sure, fallen in pairs if fallen is which] for which in (True, False))
    return {
        "predictions": len(pairs),
        "fell": len(low),
        "auroc": float(mannwhitneyu(high, low).statistic) / (len(high) * len(low)) if low and high else None,
        "threshold": limit,
        "clean_cases": len(clean),
        "false_alarms": fmean(sure < limit for sure, _ in clean),
        "detected": fmean(value < limit for value in low) if low else None,
    }
