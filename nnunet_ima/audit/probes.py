"""Extra measurements on a few cases that only serve to judge the evidence (see `evidence.verdict`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from nnunet_ima.attacks.presets import PRESETS, Component
from nnunet_ima.audit.case_audit import CaseAudit, Watch
from nnunet_ima.evidence.probes import HUGE, SCALES
from nnunet_ima.evidence.store import level_key
from nnunet_ima.evidence.stored_results import PROBE

QUERIES = 300  # of the black box


def probe(case: CaseAudit, eps: float, watch: Watch | None = None) -> dict[str, Any]:
    """Measure one case again: more steps, a black box, other scales of the logits, huge noise, the same twice.

    Where networks run in mixed precision, the attack is repeated in full precision.

    Args:
        case: the case, already attacked at `eps`.
        eps: noise level; see `evidence.probes.telling_level`.
        watch: told of the progress.

    Returns:
        Dice of the first attack and of each measurement, ε of the large noise, queries of the black box, and the
        largest difference between the logits of two passes. Dice in full precision is None where that is no other.
    """
    key = level_key(eps)
    place = f"probe@{key}"
    if (stored := case.get(place, needs=PROBE)) is not None:
        return stored
    attack = case.settings.attacks[0]
    worst = case.preset(attack, eps)["worst_component"]
    component = next(entry for entry in PRESETS[attack] if entry.name == worst)
    steps = component.with_steps(case.settings.steps).steps
    large = HUGE * case.settings.eps[-1]  # the only level of its kind, so that its short name is unique
    square = replace(PRESETS["square"][0], steps=QUERIES)

    def dice(entry: Component, level: float, count: int, title: str, of: CaseAudit = case) -> float:
        attacked, _ = of.attack(entry, case.radius(level), title, watch, steps=count)
        return float(case.score(attacked.x[0])["dice"])

    precise = case.through(replace(case.pipeline, mixed_precision=False))
    scaled = {factor: case.scaled(factor) for factor in SCALES}

    with torch.no_grad():
        first, second = (case.pipeline(case.volume.image[None].to(case.model.device)) for _ in range(2))
    result = {
        "eps": eps,
        "dice": case.component(component, eps)["dice"],
        "dice_twice_the_steps": dice(component, eps, 2 * steps, f"twice the steps@{key}"),
        "dice_black_box": dice(square, eps, QUERIES, f"black box@{key}"),
        "queries": QUERIES,
        "dice_other_scales": min(
            dice(component, eps, steps, f"logits times {factor:g}@{key}", of) for factor, of in scaled.items()
        ),
        "dice_huge": dice(component, large, steps, f"huge@{large:g}"),
        "eps_huge": large,
        "dice_full_precision": dice(component, eps, steps, f"{worst}@{key}", precise)
        if case.pipeline.mixed_precision
        else None,
        "repeat_difference": float((first - second).abs().max()),
    }
    return case.put(result, place)
