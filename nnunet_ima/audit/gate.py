"""Dice that a model must keep under noise before it is released."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from nnunet_ima.audit.run import Findings
from nnunet_ima.audit.store import level_key


@dataclass(frozen=True)
class Requirement:
    """Mean Dice that is demanded at a noise level, under the worst attack."""

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
    means: dict[str, dict[str, list[float]]] = {}
    for record in findings.records:
        if record["eps"] == requirement.eps:
            means.setdefault(record["model"], {}).setdefault(record["attack"], []).append(record["dice"])
    worst = {model: min(fmean(dice) for dice in attacks.values()) for model, attacks in means.items()}
    audited = dict.fromkeys(row["model"] for row in (*findings.records, *findings.failed) if "model" in row)
    missing = [model for model in audited if model not in worst] or ([] if worst else ["no model"])
    unknown = [f"{model} has no result at ε = {level_key(requirement.eps)}" for model in missing]
    return unknown + [
        f"{model} has Dice {dice:.3f} at ε = {level_key(requirement.eps)}, below {requirement.dice:g}"
        for model, dice in worst.items()
        if dice < requirement.dice
    ]
