"""The robustness margin of a case: the smallest noise found that takes its Dice below a threshold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from nnunet_ima.attacks.minimal import minimal_eps
from nnunet_ima.attacks.presets import PRESETS
from nnunet_ima.audit.case_audit import CaseAudit, Watch
from nnunet_ima.evidence.stored_results import MARGIN

# Gradient steps of each round, share of the margin at which the search ends, most rounds.
STEPS, TOLERANCE, ROUNDS = 20, 0.02, 5


def margin(case: CaseAudit, watch: Watch | None = None) -> dict[str, Any]:
    """Search the robustness margin of a case.

    The audit's own noise levels, each under its worst attack, bracket the margin; bisection narrows it, with the attack
    that was worst at the upper end.

    Args:
        case: the case, already attacked at all levels.
        watch: told of the progress.

    Returns:
        eps: the margin; 0 if Dice is below the threshold without noise; None if the case stands the largest level.
        dice: at the margin, or at the largest level.
    """
    if (stored := case.get("margin", needs=MARGIN)) is not None:
        return stored
    settings, largest = case.settings, case.settings.eps[-1]
    worst = {eps: case.worst(eps) for eps in settings.eps}
    dice = {0.0: case.clean()["dice"]} | {eps: record["dice"] for eps, record in worst.items()}
    fallen = [eps for eps in sorted(dice) if dice[eps] < settings.threshold]
    found, at = (fallen[0], dice[fallen[0]]) if fallen else (None, dice[largest])
    if found:
        found, at = _narrowed(case, max(eps for eps in dice if eps < found), worst[found], watch)
    result = {
        "model": case.name,
        "case": case.volume.case.name,
        "eps": found,
        "largest_tried": largest,
        "units": None if found is None else case.units.describe(case.radius(found)),
        "dice": at,
        "threshold": settings.threshold,
    }
    return case.put(result, "margin")


def _narrowed(case: CaseAudit, stood: float, fallen: dict[str, Any], watch: Watch | None) -> tuple[float, float]:
    """Narrow the interval between a level that the case stands and a result where it falls; returns ε and Dice."""
    threshold, worst = case.settings.threshold, fallen["worst_component"]
    component = replace(next(entry for entry in PRESETS[fallen["attack"]] if entry.name == worst), steps=STEPS)
    generator = case.generator("margin")
    found = minimal_eps(
        lambda eps: replace(case.problem(0.0, watch, "margin"), eps=eps.to(case.model.device)),
        lambda problem, start: component.run(problem, case.model.labels, generator, start=start),
        low=torch.tensor([case.radius(stood)]),
        high=torch.tensor([case.radius(fallen["eps"])]),
        known=case.noise(fallen["attack"], worst, fallen["eps"])[None].to(case.model.device),
        threshold=threshold,
        tolerance=TOLERANCE,
        rounds=ROUNDS,
    )
    scored = float(case.score(case.volume.image + found.noise[0].cpu())["dice"])
    if scored >= threshold:  # found on the preprocessed grid, but the raw grid has the last word
        return fallen["eps"], fallen["dice"]
    return float(found.eps[0]) / case.radius(1.0), scored  # a level is proportional to the norm in every unit
