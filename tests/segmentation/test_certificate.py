"""Certificates of cases: through nnU-Net's inference, their bounds, their files, and going on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from bare_settings import BARE

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Certificate
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import Volume
from nnunet_ima.report.audit_table import audit_report
from nnunet_ima.report.markdown import markdown
from nnunet_ima.segmentation import certificate as module
from nnunet_ima.segmentation.run import run_audit
from nnunet_ima.segmentation.scores import dice_bounds
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.smoothing import Smoothing
from nnunet_ima.segmentation.summary import summarise

SETTINGS = replace(
    BARE,
    smoothings=(Smoothing(0.1, samples=70, guesses=5),),
)


def audit(pipeline: Pipeline, cases: list[Case], folder: Path, settings: Settings = SETTINGS) -> Findings:
    store = Store(folder, {"settings": settings.question(), "models": {"m": 0}, "cases": {}}, {})
    return run_audit({"m": pipeline}, cases, settings, store, probes=0)


def test_a_certificate_goes_on_where_it_was_stopped(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, predicted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh,) = audit(pipeline, cases[:1], tmp_path / "fresh").certificates
    assert len(predicted) == 1 + 5 + 70  # without noise, guesses, copies
    assert fresh.dice <= fresh.smoothed_dice <= fresh.dice_at_most
    assert 0.3 < fresh.dice < fresh.dice_at_most <= 1
    assert 0 < fresh.abstained < 0.5
    assert fresh.radius == pytest.approx(0.1 * 0.6745, rel=1e-3)
    stored = nib.load(tmp_path / "fresh" / "images" / "m" / cases[0].name / "certificate@0.1.nii.gz").get_fdata()
    assert (stored == -1).mean() == pytest.approx(fresh.abstained)

    predicted.clear()
    agreeing = module._agreeing

    def stopped(predictions, candidates):
        if len(predicted) > 1 + 5 + 40:
            raise KeyboardInterrupt
        return agreeing(predictions, candidates)

    monkeypatch.setattr(module, "_agreeing", stopped)
    with pytest.raises(KeyboardInterrupt):
        audit(pipeline, cases[:1], tmp_path / "out")
    monkeypatch.setattr(module, "_agreeing", agreeing)
    done = len(predicted)
    (found,) = audit(pipeline, cases[:1], tmp_path / "out").certificates
    assert len(predicted) == done + 70 - 50  # five blocks of ten were kept
    assert replace(found, seconds=0.0) == replace(fresh, seconds=0.0)
    assert not (tmp_path / "out" / "noise").exists()
    audit(pipeline, cases[:1], tmp_path / "out")
    assert len(predicted) == done + 20


def test_too_few_copies_are_refused_before_any_pass(
    pipeline: Pipeline, cases: list[Case], tmp_path: Path, predicted: list[str]
) -> None:
    found = audit(pipeline, cases[:1], tmp_path, replace(SETTINGS, smoothings=(Smoothing(0.1, samples=20),)))
    assert "20 copies can certify none of the" in found.failed[0].error
    needed = int(found.failed[0].error.split("--samples ")[1].split()[0])
    assert 50 < needed < 70
    assert len(predicted) == 1


def test_bounds_of_dice() -> None:
    label, found = np.zeros((2, 1, 5, 10), np.int16)
    label[0, :2] = 1  # 20 voxels
    found[0, 1:3] = 1  # 10 of them, and 10 more
    abstained = np.zeros(label.shape, bool)
    abstained[0, 1, :4], abstained[0, 4, :6] = True, True  # 4 voxels of the class, 6 of none
    found[abstained] = -1
    model = SimpleNamespace(
        dataset_json={"labels": {"background": 0, "one": 1, "two": 2}}, label_manager=SimpleNamespace(ignore_label=None)
    )
    volume = Volume(Case("a", (), Path("a")), torch.empty(0), torch.empty(0), {}, label, None, np.empty(0))
    # right are 6 of 20, wrong 10: with the open voxels 16 wrong, or 10 of 20 right
    assert dice_bounds(found, abstained, volume, model) == {
        "one": (pytest.approx(12 / (12 + 16 + 14)), pytest.approx(20 / (20 + 10 + 10))),
        "two": None,
    }


def one(model: str, case: str, dice: float) -> Certificate:
    return Certificate(
        model=model,
        case=case,
        sigma=0.25,
        radius=0.17,
        units={"paper": None, "l2": 0.17, "rms": 0.001, "raw": None},
        dice=dice,
        dice_at_most=dice + 0.1,
        dice_per_class={"core": (dice, dice + 0.1)},
        smoothed_dice=dice + 0.05,
        abstained=0.02,
        seconds=1.0,
    )


def test_the_report_tells_bounds_and_compares_models(make_findings) -> None:
    findings = make_findings()
    findings.certificates = [
        one(model, f"case_{n}", 0.5 + 0.1 * n + more)
        for model, more in (("weak", 0.0), ("hard", 0.2))
        for n in range(3)
    ]
    summary = summarise(findings, replace(SETTINGS, attacks=("pgd",), eps=(1.0, 5.0)))
    text = markdown(audit_report(summary, {}))
    line = next(line for line in text.splitlines() if line.startswith("| weak") and " 0.17 " in line)
    assert [cell.strip() for cell in line.split("|")][1:6] == ["weak", "0.25", "0.17", "0.001", "0.600 [0.500, 0.700]"]
    assert [cell.strip() for cell in line.split("|")][6:10] == ["0.700", "0.500", "0.650", "2.00%"]
    assert "The certified Dice at σ = 0.25 differs by +0.200 [0.200, 0.200] in the mean of 3 cases; 3 better" in text
