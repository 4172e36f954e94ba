"""Dice that a model must keep under noise before it is released."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.store import level_key


@dataclass(frozen=True)
class Requirement:
    """Mean Dice that is demanded at a noise level, under the worst attack on each case: the report's number."""

    dice: float
    eps: float


def parse_requirements(texts: Sequence[str], levels: Sequence[float]) -> list[Requirement]:
    """Read requirements such as "0.8@5".

    Args:
        texts: Dice@ε each.
        levels: noise levels of the audit; ε = 0 is always measured.

    Raises:
        ValueError: one is written otherwise, or asks for a level that is not measured.
    """
    found = []
    for text in texts:
        try:
            dice, eps = (float(part) for part in text.split("@"))
        except ValueError:
            dice = eps = math.nan
        if not (0 <= dice <= 1 and math.isfinite(eps)):
            msg = f"--require is written Dice@ε, for example 0.8@5, got {text!r}"
            raise ValueError(msg)
        if eps != 0 and eps not in levels:
            measured = ", ".join(map(level_key, levels))
            msg = f"--require {text}: {level_key(eps)} is not among the noise levels ({measured}); add it to --eps"
            raise ValueError(msg)
        found.append(Requirement(dice, eps))
    return found


def unmet(requirements: Sequence[Requirement], findings: Findings) -> list[str]:
    """Say which models fall short of what, and whether the evidence suffices; empty if nothing is missing."""
    short = [text for requirement in requirements for text in _short(requirement, findings)]
    return [*short, "the audit is not conclusive"] if requirements and not findings.conclusive else short


def _short(requirement: Requirement, findings: Findings) -> list[str]:
    worst: dict[str, dict[str, float]] = {
        name: {} for name in [row.model for row in findings.records] + [row.model for row in findings.failed]
    }
    for record in findings.records:
        if record.eps == requirement.eps:
            cases = worst[record.model]
            cases[record.case] = min(record.dice, cases.get(record.case, math.inf))
    short = []
    for model, cases in worst.items():
        level = level_key(requirement.eps)
        if not cases:
            short.append(f"{model} has no result at ε = {level}")
        elif (dice := fmean(cases.values())) < requirement.dice:
            short.append(f"{model} has Dice {dice:.3f} at ε = {level}, below {requirement.dice:g}")
    return short or ([] if worst else ["no model has a result"])
