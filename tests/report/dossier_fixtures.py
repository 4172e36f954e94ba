"""An audit's dossier made by hand, with hostile names if wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.report.document import Shown
from nnunet_ima.report.material import Material, of_case
from nnunet_ima.report.volumes import Attacked, CaseVolumes
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise

HASH = "0123456789abcdef" * 4


def ball(shape: tuple[int, int, int], centre: tuple[int, int, int], radius: float) -> np.ndarray:
    grid = np.indices(shape)
    return (sum((axis - at) ** 2 for axis, at in zip(grid, centre, strict=True)) <= radius**2).astype(np.uint8)


def volumes(model: str, case: str, seed: int = 0, levels: tuple[float, ...] = (1.0, 5.0)) -> CaseVolumes:
    """A bright ball in noise, whose prediction shrinks."""
    rng, shape = np.random.default_rng(seed), (12, 24, 20)
    label = ball(shape, (6, 12, 10), 5)
    image = (100 + 400.0 * label + rng.normal(0, 20, shape)).round().astype(np.int16)
    found = tuple(
        Attacked(eps, "pgd", 0.9 - 0.1 * eps, rng.normal(0, 10 * eps, shape), ball(shape, (6, 12, 10), 5 - eps / 2))
        for eps in levels
    )
    fragility = np.where(label > found[-1].predicted, levels[-1], 0.0)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    return CaseVolumes(model, case, 0.9, affine, image, label, label, fragility, "raw units", found)


def question(models: Iterable[str], cases: Iterable[str], seed: int = 0) -> dict[str, Any]:
    """What decides the numbers of an audit."""
    model = {
        "plans": HASH,
        "checkpoints": {"0": HASH},
        "configuration": "2d",
        "trainer": "nnUNetTrainer",
        "step_size": 0.5,
        "mirroring": [0, 1],
    }
    return {
        "attacks": "1",
        "settings": {"seed": seed},
        "models": dict.fromkeys(models, model),
        "cases": dict.fromkeys(cases, HASH),
    }


def make_material(
    findings: Findings, settings: Settings, folder: Path, shown: tuple[Shown, ...] | None = None
) -> Material:
    summary = summarise(findings, settings)
    models = list(dict.fromkeys(record.model for record in findings.records))
    cases = list(dict.fromkeys(record.case for record in findings.records))
    manifest = {
        "question": question(models, cases, settings.seed),
        "provenance": [{"code": HASH, "versions": {"nnunet-ima": "0.2"}}],
    }
    if shown is None:
        shown = tuple(volumes(model, case).shown() for model in models for case in cases)
    return Material(folder, summary, {"seed": "7"}, of_case(findings.records), manifest, shown, "")


def renamed(findings: Findings, rename: Callable[[str], str]) -> Findings:
    """The same findings, with models and cases of other names."""
    return replace(
        findings,
        records=[replace(it, model=rename(it.model), case=rename(it.case)) for it in findings.records],
        margins=[replace(it, model=rename(it.model), case=rename(it.case)) for it in findings.margins],
        verdicts=[replace(it, model=rename(it.model)) for it in findings.verdicts],
    )
