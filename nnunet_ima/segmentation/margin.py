"""The robustness margin of a case: the smallest noise found that takes its Dice below a threshold."""

from __future__ import annotations

from dataclasses import replace

import torch

from nnunet_ima.attacks.minimal import minimal_eps
from nnunet_ima.attacks.presets import find_component
from nnunet_ima.evidence.engine import Unit
from nnunet_ima.evidence.records import Margin, Narrowed, Result
from nnunet_ima.evidence.store import level_key
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.target import Watch

# Gradient steps of each round, share of the margin at which a search ends, most rounds, most searches.
STEPS, TOLERANCE, ROUNDS, SEARCHES = 20, 0.02, 5, 3


def margin(case: CaseAudit, watch: Watch | None = None) -> Margin:
    """Search the robustness margin of a case.

    The audit's own noise levels, each under its worst attack, bracket the margin; bisection narrows it, with the attack
    that was worst at the upper end.

    Args:
        case: the case, already attacked at all levels.
        watch: told of the progress.
    """
    settings, clean = case.settings, case.clean()
    levels = [clean, *(case.worst(eps) for eps in settings.eps)]
    fallen = [number for number, result in enumerate(levels) if result.dice < settings.threshold]
    eps, units, dice = None, None, levels[-1].dice
    if fallen and fallen[0] == 0:
        eps, units, dice = 0.0, clean.units, clean.dice
    elif fallen:
        found = _narrowed(case, levels[fallen[0] - 1].eps, levels[fallen[0]], watch)
        eps, units, dice = found.eps, found.units, found.dice
    return Margin(
        model=case.name,
        case=case.case.name,
        eps=eps,
        largest_tried=settings.eps[-1],
        units=units,
        dice=dice,
        threshold=settings.threshold,
    )


def _narrowed(case: CaseAudit, stood: float, fallen: Result, watch: Watch | None) -> Narrowed:
    """Narrow the interval between a level that the case stands and a result where it falls."""
    bracket = (
        f"Dice {level_key(case.settings.threshold)}",
        f"stood {level_key(stood)}",
        f"fell to {fallen.worst_component} of {case.unit(fallen.attack, fallen.eps).name}",
    )
    unit = case.unit("margin", given=bracket)
    return case.engine.result(unit, Narrowed, lambda unit: _search(case, unit, stood, fallen, watch))


def _search(case: CaseAudit, unit: Unit, stood: float, fallen: Result, watch: Watch | None) -> Narrowed:
    """Search between two levels.

    Attacks see Dice on the network's grid, and end just below what they are asked for; the raw grid has the last word.
    What it shows more than the other is asked for in addition; how much that is, is seen first on the known noise.
    """
    threshold, labels, device = case.settings.threshold, case.pipeline.model.labels, case.pipeline.model.device
    component = replace(find_component(fallen.attack, str(fallen.worst_component)), steps=STEPS)
    generator, top = case.generator(unit.name), case.target.problem(case.radius(fallen.eps), watch, unit.name)
    known, eps, dice = case.noise(fallen)[None].to(device), fallen.eps, fallen.dice
    with torch.no_grad():
        gap = fallen.dice - float(top.quality(top.model(top.x + known), top.y)[0])
    for _ in range(SEARCHES):
        if gap >= threshold:
            break
        found = minimal_eps(
            lambda eps: replace(top, eps=eps.to(device)),
            lambda problem, start: component.run(problem, labels, generator, start=start),
            low=torch.tensor([case.radius(stood)]),
            high=torch.tensor([case.radius(fallen.eps)]),
            known=known,
            threshold=threshold - gap,
            tolerance=TOLERANCE,
            rounds=ROUNDS,
        )
        seen = case.dice(case.volume.image + found.noise[0].cpu())
        if seen < threshold:
            eps, dice = float(found.eps[0]) / case.radius(1.0), seen
            break
        gap = max(gap, seen - float(found.quality[0]))
    return Narrowed(eps=eps, units=case.units.describe(case.radius(eps)), dice=dice)
