"""What an audit of two models could have found, made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from bare_settings import BARE

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Judgement, Margin, Passes, Result
from nnunet_ima.segmentation.settings import Settings

CHECKS = ("gradients are finite", "very large noise breaks the model", "the model is deterministic")
REFERENCE, ELEMENTS, SCALE = 100, 400, 50.0  # a σ is 50 raw units


@pytest.fixture
def settings() -> Settings:
    return replace(
        BARE, attacks=("pgd",), eps=(1.0, 5.0), unit="paper", reference_elements=REFERENCE, seed=7, margins=True
    )


@pytest.fixture
def make_findings(settings: Settings) -> Callable[..., Findings]:
    """Makes findings; `weak` and `hard` lose Dice 0.1 and 0.02 per ε, the cases begin at 0.90, 0.88, 0.86, …"""

    def make(models: tuple[str, ...] = ("weak", "hard"), cases: int = 3, bare: bool = False) -> Findings:
        findings = Findings()
        for model in models:
            for number in range(cases):
                start, slope = 0.9 - 0.02 * number, {"weak": 0.1, "hard": 0.02}[model]
                for eps in (0.0, *settings.eps):
                    findings.records.append(_record(model, f"case_{number}", eps, start, start - slope * eps, bare))
                findings.margins.append(_margin(model, f"case_{number}", (start - settings.threshold) / slope))
            findings.verdicts += [
                Judgement(model=model, check=check, result="passed", figure="0 of 9", conclusive=True)
                for check in CHECKS
            ]
        return findings

    return make


def _units(eps: float, bare: bool) -> dict[str, float | None]:
    rms = eps / math.sqrt(REFERENCE)
    told: dict[str, float | None] = {"paper": eps, "l2": rms * math.sqrt(ELEMENTS), "rms": rms, "raw": rms * SCALE}
    return told | ({"paper": None, "raw": None} if bare else {})


def _record(model: str, case: str, eps: float, start: float, dice: float, bare: bool) -> Result:
    """A result; a bare one lacks all that may be lacking."""
    attacked = eps > 0 and not bare
    return Result(
        model=model,
        case=case,
        attack="pgd" if eps else "clean",
        eps=eps,
        units=_units(eps, bare),
        dice=dice,
        dice_per_class={"shell": None if bare else dice, "core": dice},
        overlap={"shell": (0, 0, 0) if bare else (30, 10, 10), "core": (int(100 * dice), 10, 20)},
        hd95_mm=None if bare else 10 * (1 - dice),
        hd95_mm_per_class={"shell": None, "core": None},
        nsd=None if bare else dice,
        nsd_per_class={"shell": None, "core": dice},
        volume_error=0.25,
        volume_error_per_class={"shell": None if bare else 0.0, "core": -0.25},
        missed=(),
        clean_dice=start,
        clean_dice_per_class={"shell": None, "core": start},
        random_dice=start - 0.01 if attacked else None,
        stored_dice=dice + 0.004 if attacked else None,
        noise=None,
        worst_component=None,
        components={},
        passes=Passes(forward=0, backward=0),
        seconds=0.0,
    )


def _margin(model: str, case: str, eps: float) -> Margin:
    found = eps if eps <= 5 else None
    return Margin(
        model=model,
        case=case,
        eps=found,
        largest_tried=5.0,
        units=None if found is None else _units(found, False),
        dice=0.49,
        threshold=0.5,
    )
