"""Results under noise, one after the other, become columns of numbers for each model, attack and ε, and these a row."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean, median
from typing import Any

import numpy as np

from nnunet_ima.evidence.quantiles import QUANTILES
from nnunet_ima.evidence.records import Result
from nnunet_ima.segmentation.statistics import interval
from nnunet_ima.tasks.dice import dice_of_counts

WORST = "worst of all"  # per case, over all attacks of the audit
MEANS = ("random_dice", "stored_dice", "hd95_mm", "nsd", "volume_error")  # of the cases that have one

Key = tuple[str, float, str]
"""Model, ε and attack."""


class Group:
    """What a row of a table needs of the results of one model, ε and attack; no result is kept.

    Attributes:
        cases: names, in their order.
        dice: of each of them.
    """

    def __init__(self, first: Result) -> None:
        self.cases: list[str] = []
        self.dice = array("d")
        self._worst = (math.inf, "")
        self._means = {name: array("d") for name in MEANS}
        self._units = {unit: array("d") for unit in first.units}
        self._of_class = {name: array("d") for name in first.dice_per_class}
        self._overlap = {name: [0, 0, 0] for name in first.dice_per_class}
        self._missed = self._structures = self._forward = self._backward = 0

    def add(self, record: Result) -> None:
        """Take the numbers of a result."""
        self.cases.append(record.case)
        self.dice.append(record.dice)
        if record.dice < self._worst[0]:
            self._worst = (record.dice, record.case)
        for name, column in self._means.items():
            _append(column, getattr(record, name))
        for unit, column in self._units.items():
            _append(column, record.units[unit])
        for name, column in self._of_class.items():
            _append(column, record.dice_per_class[name])
            self._overlap[name] = [sum(pair) for pair in zip(self._overlap[name], record.overlap[name], strict=True)]
        self._missed += len(record.missed)
        self._structures += sum(error is not None for error in record.volume_error_per_class.values())
        self._forward += record.passes.forward
        self._backward += record.passes.backward

    def row(self, key: Key) -> dict[str, Any]:
        """Statistics over the cases."""
        model, eps, attack = key
        pooled = {name: dice_of_counts(*counts) for name, counts in self._overlap.items()}
        means = {name: mean(column) for name, column in self._means.items()}
        return {
            "model": model,
            "attack": attack,
            "eps": eps,
            "units": {unit: mean(column, median) for unit, column in self._units.items()},
            "cases": len(self.cases),
            "mean_dice": fmean(self.dice),
            "interval": interval(self.dice),
            "worst_dice": self._worst[0],
            "worst_case": self._worst[1],
            "quantiles": {f"{q:g}": float(np.quantile(self.dice, q)) for q in QUANTILES},
            "dice_per_class": {name: mean(column) for name, column in self._of_class.items()},
            "pooled_dice": mean(pooled.values()),
            "pooled_dice_per_class": pooled,
            "random_dice": means["random_dice"],
            "stored_dice": means["stored_dice"],
            "stored_cases": len(self._means["stored_dice"]),
            "hd95_mm": means["hd95_mm"],
            "without_hd95": len(self.cases) - len(self._means["hd95_mm"]),
            "nsd": means["nsd"],
            "volume_error": means["volume_error"],
            "missed": self._missed,
            "structures": self._structures,
            "forward": self._forward,
            "backward": self._backward,
        }


def grouped(records: Iterable[Result]) -> dict[Key, Group]:
    """Results by model, ε and attack, in the order of a table."""
    groups: dict[Key, Group] = {}
    for record in records:
        key = (record.model, record.eps, record.attack)
        if key not in groups:
            groups[key] = Group(record)
        groups[key].add(record)
    models = list(dict.fromkeys(model for model, _, _ in groups))
    return {key: groups[key] for key in sorted(groups, key=lambda key: (models.index(key[0]), key[1]))}


def worst_of_all(records: Sequence[Result], attacks: Sequence[str]) -> Iterator[Result]:
    """Worst result of each model, case and ε over several attacks, unless one of them is always the worst."""
    if len(attacks) < 2:
        return
    places: dict[tuple[str, str, float], dict[str, tuple[float, int]]] = {}
    for number, record in enumerate(records):
        if record.attack != "clean":
            place = (record.model, record.case, record.eps)
            places.setdefault(place, {})[record.attack] = (record.dice, number)
    worst = [min(found.values()) for found in places.values()]
    for attack in attacks:
        if all(found[attack][0] == dice for found, (dice, _) in zip(places.values(), worst, strict=True)):
            return  # this one is the worst everywhere, and its rows say it all
    for _, number in worst:
        yield replace(records[number], attack=WORST)


def mean(values: Iterable[float | None], of: Callable[[list[float]], float] = fmean) -> float | None:
    """Mean of the values that are there; None if there are none."""
    present = [value for value in values if value is not None]
    return of(present) if present else None


def _append(column: array[float], value: float | None) -> None:
    if value is not None:
        column.append(value)
