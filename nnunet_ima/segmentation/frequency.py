"""A case under the frequency attack: what too much compression, made for the model, does to it; see `attacks.vafa`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from statistics import fmean
from time import perf_counter
from typing import Any

from nnunet_ima.attacks.losses import bound
from nnunet_ima.attacks.vafa import grey_span, ssim, vafa
from nnunet_ima.evidence.engine import Unit
from nnunet_ima.evidence.records import Compressed, Passes, Score
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.scores import score
from nnunet_ima.segmentation.statistics import interval
from nnunet_ima.segmentation.target import Watch

STEPS = 20  # the paper's
LOSS = "dice"  # the paper's


def compressed(case: CaseAudit, q_max: float, watch: Watch | None = None) -> Compressed:
    """Attack a case through its quantisation tables, which no noise level bounds.

    Args:
        case: the case.
        q_max: largest entry of the tables, in grey levels.
        watch: told of the progress.
    """
    unit = case.unit("vafa", q_max, given=(f"{steps(case.settings.steps)} steps on {LOSS}",))
    return case.engine.result(unit, Compressed, lambda unit: _attack(case, unit, q_max, watch))


def steps(asked: int | None) -> int:
    """Gradient steps, where the audit asks for a number or not."""
    return STEPS if asked is None else asked


def _attack(case: CaseAudit, unit: Unit, q_max: float, watch: Watch | None) -> Compressed:
    begin, model, volume = perf_counter(), case.pipeline.model, case.volume
    problem = case.target.problem(0.0, watch, unit.name)
    found = vafa(problem, bound(LOSS, model.labels), steps=steps(case.settings.steps), q_max=q_max)
    change = (found.x - problem.x).abs()
    image = found.x[0].cpu()
    predicted, sure = case.predictions.predict_surely(image, volume)
    scores = score(predicted, volume, model, case.settings.tolerance, sure)
    return Compressed(
        **{field.name: getattr(scores, field.name) for field in fields(Score)},
        model=case.name,
        case=case.case.name,
        q_max=q_max,
        clean_dice=case.clean().dice,
        ssim=float(ssim(problem.x, found.x, grey_span(problem.x))),
        mean_change=float(change.mean()),
        max_change=float(change.max()),
        passes=Passes(forward=int(found.forward.sum()), backward=int(found.backward.sum())),
        seconds=round(perf_counter() - begin, 2),
    )


def frequency_rows(records: Sequence[Compressed]) -> list[dict[str, Any]]:
    """Means over the cases of each model and bound of the tables."""
    groups: dict[tuple[str, float], list[Compressed]] = {}
    for record in records:
        groups.setdefault((record.model, record.q_max), []).append(record)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Compressed]) -> dict[str, Any]:
    worst = min(group, key=lambda record: record.dice)
    return {
        "model": worst.model,
        "q_max": worst.q_max,
        "cases": len(group),
        "mean_dice": fmean(record.dice for record in group),
        "interval": interval([record.dice for record in group]),
        "clean_dice": fmean(record.clean_dice for record in group),
        "worst_dice": worst.dice,
        "worst_case": worst.case,
        "ssim": fmean(record.ssim for record in group),
        "mean_change": fmean(record.mean_change for record in group),
        "max_change": max(record.max_change for record in group),
    }
