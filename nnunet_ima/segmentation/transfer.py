"""Noise that was made for another model: what an attacker does who knows a similar one, and a test of the own attack.

A model that withstands its own gradients and falls to those of another one has hidden them, and is not robust.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch

from nnunet_ima.evidence.records import AttackedAgain, Result, Transferred
from nnunet_ima.evidence.store import Store, level_key
from nnunet_ima.evidence.verdict import GAIN, Check, judge
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.segmentation.case_audit import CaseAudit


def transferred(case: CaseAudit, source: Result, store: Store) -> Transferred | None:
    """Dice of a case under the worst noise that was found for another model.

    Args:
        case: of the model that is attacked.
        source: worst result of the other model on the same case.
        store: keeps the noise of each level's worst attack.

    Returns:
        None if the noise is not kept, or lies on another grid: the models preprocess the case in different ways.
    """
    file = store.path("images", source.model, source.case, f"noise_{source.attack}@{level_key(source.eps)}.npy")
    if not file.is_file():
        return None
    noise = torch.from_numpy(np.load(file)).float()
    if noise.shape != case.volume.image.shape:
        return None
    bound = torch.tensor([case.radius(source.eps)])
    noise = NORMS[case.settings.norm].project(noise[None], bound)[0]  # it was kept in half precision
    unit = case.unit(f"transfer/{source.model}", source.eps, given=(str(source.worst_component),))
    found = case.engine.result(unit, AttackedAgain, lambda _: AttackedAgain(dice=case.dice(case.volume.image + noise)))
    return Transferred(model=case.name, source=source.model, case=source.case, eps=source.eps, dice=found.dice)


def transfer_rows(records: Sequence[Transferred]) -> list[dict[str, Any]]:
    """Mean Dice of each model under each other one's noise."""
    groups: dict[tuple[str, str, float], list[float]] = {}
    for record in records:
        groups.setdefault((record.model, record.source, record.eps), []).append(record.dice)
    return [
        {"model": model, "source": source, "eps": eps, "cases": len(dice), "mean_dice": fmean(dice)}
        for (model, source, eps), dice in groups.items()
    ]


def transfer_check(records: Sequence[Transferred], own: Sequence[Result]) -> Check:
    """Judge whether noise made for others does better than a model's own attacks, on the same cases and levels."""
    worst: dict[tuple[str, float], float] = {}
    for result in own:
        place = result.case, result.eps
        worst[place] = min(result.dice, worst.get(place, 1.0))
    gains: dict[tuple[str, float], list[float]] = {}
    for record in records:
        gains.setdefault((record.source, record.eps), []).append(worst[record.case, record.eps] - record.dice)
    most = max((fmean(found) for found in gains.values()), default=None)
    figure = "no noise to transfer" if most is None else f"Dice lower by {max(most, 0.0):.3f} at most, in the mean"
    return judge("no noise made for another model beats the attack", None if most is None else most <= GAIN, figure)
